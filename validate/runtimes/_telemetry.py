"""Libraries that would tell their makers that they are used."""

from __future__ import annotations

import sys


def refuse_telemetry() -> None:
    """Nothing is sent from this process; call it before openvino, or what imports it (gptqmodel does), is imported.

    `import openvino` sends an event to www.google-analytics.com without asking, unless openvino_telemetry cannot be
    imported: then it takes a stub (openvino/tools/ovc/telemetry_utils.py).
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
