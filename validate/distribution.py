"""What this project is called where packages are installed from, and the command that installs a part of it. A leaf."""

from __future__ import annotations

NAME = "convert-quantize-validate"
"""The name in pyproject.toml and on PyPI, where `convert` is somebody else's package. The one place in the code."""


def install_command(*extras: str) -> str:
    """The command that installs what these extras bring: pip install '…[onnx,validate]', every extra once, in order."""
    return f"pip install '{NAME}[{','.join(sorted(set(extras)))}]'"
