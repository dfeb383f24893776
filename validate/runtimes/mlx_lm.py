"""MLX folders on mlx-lm, on the CPU: loaded by the code that loads them on a Mac, decoded by MLX, run in float32.

A Mac's GPU computes in the folder's 16-bit floats, which rounds activations as well. What is measured here is what the
folder's numbers are worth. Where all of the decoded model would not fit into memory, MLX's own products with quantized
matrices are used, which are as exact and take minutes for a window.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate import memory
from validate.distribution import install_command
from validate.errors import RuntimeFailure
from validate.runtimes._folder import CheckpointFolder, first_line
from validate.runtimes._telemetry import refuse_telemetry
from validate.runtimes._threads import useful_threads
from validate.runtimes.base import Runtime

if TYPE_CHECKING:
    import mlx.core as mx

_NEEDED = {"mlx": "mlx", "mlx_lm": "mlx", "transformers": "validate"}
_VERSIONS = ("mlx", "mlx-lm")


class MlxSession(CheckpointFolder):
    """A folder in this process; see Session for the methods."""

    def __init__(self, folder: Path, threads: int) -> None:
        refuse_telemetry()
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the library that multiplies what is not quantized
        super().__init__(folder)
        self.threads = threads
        try:
            import mlx.core as mx
            from mlx_lm.models.cache import make_prompt_cache
            from mlx_lm.utils import dequantize_model, load_model

            from validate.runtimes._mlx_products import by_numpy

            self._mx, self._make_cache = mx, make_prompt_cache
            mx.set_default_device(mx.cpu)
            with self.loading():
                self._model, _ = load_model(folder, lazy=True)
                self._model.set_dtype(mx.float32)
                if _fits_decoded(folder):
                    dequantize_model(self._model)
                    self._model.set_dtype(mx.float32)  # small floats are decoded to bfloat16, which holds them exactly
                mx.eval(self._model.parameters())
                by_numpy(self._model)
        except Exception as error:  # it raises what it likes for weights that do not fit
            raise RuntimeFailure(f"mlx-lm could not load {folder}: {first_line(error)}") from error

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._rows(self._run(tokens, None), len(tokens))

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """As `logits`, with the tokens fed one at a time through the cache."""
        cache = self._make_cache(self._model)
        return np.concatenate([self._rows(self._run([token], cache), 1) for token in tokens])

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        cache, made, ends = self._make_cache(self._model), list[int](), self.identity().end_of_generation
        fed = list(tokens)
        while len(made) < count and not (made and made[-1] in ends):
            logits = self._run(fed, cache)
            fed = [int(np.argmax(self._rows(logits, len(fed))[-1]))]
            made += fed
        return made

    def _run(self, tokens: Sequence[int], cache: object) -> mx.array:
        if not tokens:
            raise RuntimeFailure("mlx-lm: no tokens")
        try:
            logits: mx.array = self._model(self._mx.array([list(map(int, tokens))]), cache=cache)
            return logits
        except Exception as error:
            raise RuntimeFailure(f"mlx-lm could not run: {first_line(error)}") from error

    def _rows(self, logits: mx.array, count: int) -> np.ndarray:
        """float32 (token, vocab)."""
        found: np.ndarray = np.array(logits.astype(self._mx.float32))[0]
        if len(found) != count:
            raise RuntimeFailure(f"mlx-lm gave {len(found)} rows of logits for {count} tokens")
        return found

    def close(self) -> None:
        """Free the model."""
        del self._model


def _fits_decoded(folder: Path) -> bool:
    """Whether every matrix as float32 fits into the memory that is free."""
    words = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization", {})
    free, packed = memory.free_bytes(), sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return free is None or packed * 32 / max(int(words.get("bits", 16)), 1) < free * memory.FREE_SHARE


class MlxLm(Runtime):
    """mlx-lm, on the CPU."""

    NAME = "mlx-lm"
    DISTRIBUTIONS = _VERSIONS
    FORMATS = ("mlx",)

    def available(self) -> str | None:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        remedy = install_command(*(_NEEDED[name] for name in missing))
        return f"{' and '.join(missing)} not installed: {remedy}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS) + ", float32 on the CPU"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> MlxSession:
        """A session on the folder that `model` lies in, text only."""
        del projector, context
        return MlxSession(model.parent, threads or useful_threads(*model.parent.glob("*.safetensors")))


RUNTIME = MlxLm()
