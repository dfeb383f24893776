"""What decides the bytes that a machine makes: machines of one batch have the same."""

from __future__ import annotations

import platform

from convert.distribution import RELEASE
from convert.keys import version

SAME = ("numpy", "torch", "transformers", "numba", "onnx", "onnxruntime", "xllamacpp")


def versions() -> dict[str, str]:
    """Name -> version, as they are here."""
    return {"convert": RELEASE, "python": platform.python_version(), **{name: version(name) for name in SAME}}
