"""What the installed gptqmodel loads, by its own text: importing it would import torch.

Beside worker.py, which calls it. The library's own table is `MODEL_MAP` in gptqmodel/models/auto.py.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

GPTQMODEL_LOADS = ("gptq", "awq")
"""The methods whose arithmetic is gptqmodel's."""

ENTRY = re.compile(r'^\s+(?:MODEL_MAP\[)?"([^"]+)"\]?\s*[:=]\s*\w+', re.MULTILINE)
BEGIN, END = "\nMODEL_MAP = {", "\nSUPPORTED_MODELS"


def gptqmodel_loads(model_type: str) -> bool:
    """Whether the library has a definition for config.json's `model_type`; yes where it is not installed.

    That it is missing is for the stage's NEEDS to say.
    """
    known = _model_types()
    return not known or model_type in known


@functools.cache
def _model_types() -> frozenset[str]:
    spec = importlib.util.find_spec("gptqmodel")
    if spec is None or spec.origin is None:
        return frozenset()
    text = (Path(spec.origin).parent / "models" / "auto.py").read_text(encoding="utf-8")
    return frozenset(ENTRY.findall(text.partition(BEGIN)[2].partition(END)[0]))
