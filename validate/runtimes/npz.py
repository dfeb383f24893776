"""NPZ archives: numpy reads the arrays, transformers computes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
from pathlib import Path

from validate.distribution import install_command
from validate.errors import RuntimeFailure
from validate.runtimes._folder import first_line
from validate.runtimes.base import Runtime, Session

_NEEDED = ("torch", "transformers")


class NpzRuntime(Runtime):
    """Unpacks the archive into a folder that transformers loads."""

    NAME = "numpy, transformers"
    DISTRIBUTIONS = ("numpy",)
    FORMATS = ("npz",)

    def available(self) -> str | None:
        """Why it cannot run here, or None."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: {install_command('validate')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "transformers"))

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> Session:
        """A session on the archive and what lies beside it."""
        from validate.runtimes.transformers import TransformersSession

        class NpzSession(TransformersSession):
            def __init__(self) -> None:
                self._unpacked = _unpacked(model)
                super().__init__(Path(self._unpacked.name), threads, False)

            def close(self) -> None:
                super().close()
                self._unpacked.cleanup()

        return NpzSession()


def _unpacked(model: Path) -> tempfile.TemporaryDirectory[str]:
    import numpy as np
    from safetensors.numpy import save_file

    folder = tempfile.TemporaryDirectory()
    for beside in model.parent.iterdir():
        if beside.is_file() and beside != model:
            shutil.copy(beside, folder.name)
    try:
        with np.load(model, allow_pickle=False) as arrays:
            save_file(dict(arrays), Path(folder.name) / "model.safetensors", metadata={"format": "pt"})
    except (ValueError, OSError) as error:
        folder.cleanup()
        raise RuntimeFailure(f"numpy could not load {model.name}: {first_line(error)}") from error
    return folder


RUNTIME = NpzRuntime()
