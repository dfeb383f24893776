"""GPTQ and AWQ checkpoints on transformers, with gptqmodel's torch kernels, and compressed-tensors', in float32."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from validate.distribution import install_command
from validate.errors import RuntimeFailure
from validate.runtimes import _compressed, _packed
from validate.runtimes._decoded_once import keep_decoded
from validate.runtimes._folder import CheckpointFolder, first_line, quiet
from validate.runtimes._optional import optional
from validate.runtimes._telemetry import refuse_telemetry
from validate.runtimes._threads import useful_threads
from validate.runtimes.base import Runtime
from validate.runtimes.transformers import TransformersSession, _refuse_incomplete

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NEEDED = ("torch", "transformers", "gptqmodel", "optimum", "accelerate", "compressed_tensors")
_VERSIONS = ("gptqmodel", "compressed-tensors", "transformers", "torch")
_KERNELS = {"gptq": "torch", "awq": "torch_awq"}
_ENVIRONMENT = {
    "GPTQMODEL_CPU_WORKERS": "2",  # its pool of threads does not start with fewer
    "TORCHDYNAMO_DISABLE": "1",  # it compiles a kernel for every layer and shape: a minute, to save milliseconds
}


class GptqModelSession(TransformersSession):
    """A quantized checkpoint in this process; see Session for the methods.

    `keys` is what transformers says of keys it missed or did not expect; with `refuse` any of them is a failure.
    `decoded` are the modules whose matrices it was given as floats, where it has no numbers in fewer bits for them.
    """

    def __init__(self, folder: Path, threads: int | None, refuse: bool = True) -> None:
        refuse_telemetry()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._use_threads(threads or useful_threads(*folder.glob("*.safetensors")))
        CheckpointFolder.__init__(self, folder)
        method = _choose_kernel(self._config)
        self.decoded: frozenset[str] = frozenset()
        with self.loading():
            if method == _compressed.METHOD and not self._read_compressed():
                self._read_decoded()
            elif method != _compressed.METHOD and _compressed.has_experts(self._folder):
                self._read_unpacked()
            elif method != _compressed.METHOD:
                self._model, self.keys = self._read_weights(config=self._config, dtype=self._torch.float32)
        if refuse:
            _refuse_incomplete(self.keys)
        self._model.eval()
        if method in _KERNELS:
            keep_decoded(self._model)

    def _read_compressed(self) -> bool:
        """Load by transformers, where it can: some of its models (Falcon) look for weights that are packed."""
        if _compressed.has_experts(self._folder):
            return False
        try:
            self._model, self.keys = self._read_weights(config=self._config, dtype=self._torch.float32)
        except RuntimeFailure:
            return False
        _compressed.in_float32(self._model)
        return True

    def _read_unpacked(self) -> None:
        """The same of GPTQ's and AWQ's experts; see _packed."""
        try:
            with quiet():
                words = optional(self._config, "quantization_config")
                matrices, modules = _packed.decoded(self._folder, words if isinstance(words, dict) else {})
                state = {name: self._torch.from_numpy(matrix) for name, matrix in matrices.items()}
                state |= _compressed.tensors(self._folder, _packed.plain_names(self._folder))
                self._model, self.keys = _compressed.load(self._config, state)
        except Exception as error:  # transformers raises anything for weights that do not fit
            raise RuntimeFailure(f"transformers could not load {self._folder}: {first_line(error)}") from error
        self.decoded = frozenset(modules)

    def _read_decoded(self) -> None:
        """Quantized matrices as floats, their modules' names in `decoded`; see _compressed."""
        try:
            with quiet():
                state, inputs = _compressed.decoded(self._folder)
                self._model, self.keys = _compressed.load(self._config, state)
        except Exception as error:  # transformers raises anything for weights that do not fit
            raise RuntimeFailure(f"transformers could not load {self._folder}: {first_line(error)}") from error
        self.decoded = frozenset(_compressed.quantized_modules(self._folder))
        _compressed.round_inputs(self._model, self._folder, inputs)


def _choose_kernel(config: PreTrainedConfig) -> str:
    """The kernel that multiplies in the inputs' own type: gptqmodel's choice for a CPU would round to 16 bits."""
    found = optional(config, "quantization_config")
    words = found if isinstance(found, dict) else {}
    method = words.get("quant_method")
    if method not in (*_KERNELS, _compressed.METHOD):
        raise RuntimeFailure(f"config.json has no quantization_config that is known here, but {str(method)[:40]!r}")
    if method in _KERNELS:
        words["backend"] = _KERNELS[method]
    return str(method)


class QuantizedTransformers(Runtime):
    """transformers with the kernels of quantized checkpoints."""

    NAME = "transformers, quantized"
    DISTRIBUTIONS = ("gptqmodel", "compressed-tensors", "optimum")
    FORMATS = ("gptq", "awq", "fp8", "compressed")
    IMAGE_BATCH = 20

    def available(self) -> str | None:
        """Why it cannot run here, or None."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: {install_command('gptq')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> GptqModelSession:
        """A session on the folder that the weights' file `model` lies in."""
        return GptqModelSession(model.parent, threads)


RUNTIME = QuantizedTransformers()
