"""A model loaded by OpenVINO on the CPU: what both of its runtimes of this project run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.errors import RuntimeFailure
from validate.runtimes._telemetry import refuse_telemetry

if TYPE_CHECKING:
    from openvino import ConstOutput, Tensor

    from validate.runtimes._graph_session import Port


WORDS = 400  # characters of an error worth quoting
_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32", "boolean": "bool"}


class OpenVinoGraph:
    """A graph in OpenVINO; see Graph."""

    def __init__(self, path: Path, threads: int) -> None:
        refuse_telemetry()
        import openvino

        self._openvino, self._name = openvino, path.name
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",  # no dynamic quantization of activations
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            self._request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        except Exception as error:
            raise _failure(error, f"could not load {path.name}") from error
        model = self._request.get_compiled_model()
        self.inputs = {port.any_name: _port(port) for port in model.inputs}
        self.outputs = {port.any_name: _port(port) for port in model.outputs}

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        try:
            self._request.infer({name: self._tensor(array) for name, array in feeds.items()})
            names = self.outputs if wanted is None else wanted
            return {name: self._array(name) for name in names}
        except Exception as error:
            raise _failure(error, f"could not run {self._name}") from error

    def _tensor(self, array: np.ndarray) -> Tensor:
        """OpenVINO knows no bfloat16 of numpy's; the bytes are put into a tensor of its own."""
        if array.dtype.name != "bfloat16":
            shared = bool(array.size) and array.flags.writeable
            return self._openvino.Tensor(array, shared_memory=shared)
        tensor = self._openvino.Tensor(self._openvino.Type.bf16, self._openvino.Shape(array.shape))
        tensor.data[...] = array.view(tensor.data.dtype)
        return tensor

    def _array(self, name: str) -> np.ndarray:
        """A copy: the next run writes into the same memory."""
        dtype = self.outputs[name].dtype
        data = self._request.get_tensor(name).data
        return np.array(data if data.dtype == dtype else data.view(dtype))

    def forget(self) -> None:
        """Empty the state of a model that holds its cache."""
        self._request.reset_state()

    def close(self) -> None:
        del self._request


def _failure(error: Exception, what: str) -> RuntimeFailure:
    """The error in OpenVINO's own words: the last of the lines it stacks up says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from src", "Check "))] or lines
    return RuntimeFailure(f"OpenVINO {what}: {' '.join(said)[:WORDS]}")


def _port(port: ConstOutput) -> Port:
    from validate.runtimes._graph_session import Port, numpy_type

    word = port.element_type.to_string()
    shape = tuple(axis.get_length() if axis.is_static else None for axis in port.partial_shape)
    return Port(numpy_type(_TYPES.get(word, word)), shape)
