"""Qwen2-VL: the three graphs of Qwen2.5-VL, whose tower here has no windows (see _qwen2_5_vision.py)."""

from __future__ import annotations

from convert.formats.onnx.families import GraphCut
from convert.formats.onnx.families.qwen2_5_vl import CUT as OF_QWEN2_5_VL

CUT = GraphCut(OF_QWEN2_5_VL.parts, OF_QWEN2_5_VL.helpers)
