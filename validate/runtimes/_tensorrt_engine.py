"""One TensorRT engine as a Graph: numpy arrays in, numpy arrays out, torch tensors on the device between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from validate.errors import RuntimeFailure
from validate.json_types import JsonObject
from validate.runtimes._graph_session import Port, numpy_type

if TYPE_CHECKING:
    from tensorrt import ILogger
    from torch import Tensor, dtype

CUDA = "cuda"
Shape = tuple[int, ...]
WORDS = 400  # characters of TensorRT's errors worth quoting


class EngineGraph:
    """An engine on a device; see Graph. `entry` is what engine.json says of it."""

    def __init__(self, path: Path, entry: JsonObject, trt: ModuleType, torch: ModuleType, device: str = CUDA) -> None:
        self._name, self._trt, self._torch, self._device = path.name, trt, torch, device
        self._log = _logger(trt)
        self._runtime = trt.Runtime(self._log)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RuntimeFailure(f"TensorRT could not load {path.name}: {self._words()}")
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeFailure(f"TensorRT has no memory to run {path.name}: {self._words()}")
        self.inputs = {tensor["name"]: _port(tensor) for tensor in entry["inputs"]}
        self.outputs = {tensor["name"]: _port(tensor) for tensor in entry["outputs"]}
        self._check_tensors()
        self._profiles = [(profile["name"], _ranges(profile["shapes"])) for profile in entry["profiles"]]
        self._active = 0
        self._stream = torch.cuda.Stream() if device == CUDA else None

    def _check_tensors(self) -> None:
        """Raise RuntimeFailure where the engine is not the one that engine.json describes."""
        engine = self._engine
        found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        stated = {*self.inputs, *self.outputs}
        if found != stated:
            raise RuntimeFailure(
                f"{self._name} and engine.json name other tensors: {', '.join(sorted(found ^ stated))}"
            )

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        self._choose(best_profile(self._profiles, shapes, self._name))
        held = [self._give(name, array) for name, array in feeds.items()]
        if missing := self._context.infer_shapes():
            raise RuntimeFailure(f"{self._name}: TensorRT wants to know more of {', '.join(missing)}")
        outputs = {name: self._room(name, port) for name, port in self.outputs.items()}
        if not self._context.execute_async_v3(0 if self._stream is None else self._stream.cuda_stream):
            raise RuntimeFailure(f"TensorRT could not run {self._name}: {self._words()}")
        if self._stream is not None:
            self._stream.synchronize()
        del held
        names = self.outputs if wanted is None else wanted
        return {name: to_numpy(self._torch, *outputs[name], self.outputs[name].dtype) for name in names}

    def _choose(self, number: int) -> None:
        if number != self._active:
            if not self._context.set_optimization_profile_async(number, self._handle()):
                raise RuntimeFailure(f"TensorRT could not switch {self._name} to profile {number}: {self._words()}")
            if self._stream is not None:
                self._stream.synchronize()
            self._active = number

    def _handle(self) -> int:
        return 0 if self._stream is None else int(self._stream.cuda_stream)

    def _give(self, name: str, array: np.ndarray) -> Tensor:
        """Put an input on the device; the tensor, which has to live until the engine has run."""
        tensor = to_torch(self._torch, array, self._device)
        if not self._context.set_input_shape(name, tuple(array.shape)):
            raise RuntimeFailure(f"TensorRT does not take {name} of shape {array.shape}: {self._words()}")
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def _room(self, name: str, port: Port) -> tuple[Tensor, Shape]:
        """Memory for an output, and its shape."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise RuntimeFailure(f"{self._name}: the size of {name} depends on values, {shape}")
        count = max(1, prod(shape))  # an address is wanted for no values too
        tensor = self._torch.empty(count, dtype=torch_type(self._torch, port.dtype), device=self._device)
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor, shape

    def _words(self) -> str:
        return "; ".join(dict.fromkeys(self._log.errors))[-WORDS:] or "it gave no reason"

    def close(self) -> None:
        del self._context, self._engine, self._runtime


def best_profile(
    profiles: Sequence[tuple[str, Mapping[str, tuple[Shape, Shape]]]], shapes: Mapping[str, Shape], engine: str
) -> int:
    """The profile that takes all these shapes; of several, the one made for the least."""
    fitting = [
        (sum(prod(largest) for _, largest in ranges.values()), number)
        for number, (_, ranges) in enumerate(profiles)
        if all(_within(shape, ranges.get(name)) for name, shape in shapes.items())
    ]
    if fitting:
        return min(fitting)[1]
    unfit = [
        f"{name} takes {tensor} of {_text(ranges[tensor][0])} to {_text(ranges[tensor][1])}"
        for name, ranges in profiles
        for tensor, shape in shapes.items()
        if tensor in ranges and not _within(shape, ranges[tensor])
    ]
    asked = ", ".join(f"{name} {_text(shape)}" for name, shape in list(shapes.items())[:3])
    raise RuntimeFailure(f"{engine} has no profile for {asked}: {'; '.join(unfit[:4])}")


def _within(shape: Shape, limits: tuple[Shape, Shape] | None) -> bool:
    if limits is None or len(shape) != len(limits[0]):
        return False
    return all(low <= size <= high for low, size, high in zip(limits[0], shape, limits[1], strict=True))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _ranges(shapes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, tuple[Shape, Shape]]:
    """Input -> its smallest and its largest shape."""
    return {name: (tuple(sizes[0]), tuple(sizes[2])) for name, sizes in shapes.items()}


def _port(tensor: JsonObject) -> Port:
    return Port(numpy_type(tensor["dtype"]), tuple(tensor["shape"]))


def torch_type(torch: ModuleType, of: np.dtype) -> dtype:
    """torch's type of the same name: float16, bfloat16, int64, bool."""
    return getattr(torch, of.name)


def to_torch(torch: ModuleType, array: np.ndarray, device: str) -> Tensor:
    """A tensor on the device; at least one value long, for no input may be without an address."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if not flat.size:
        return torch.empty(1, dtype=torch_type(torch, array.dtype), device=device)
    if array.dtype.name == "bfloat16":  # numpy's is another package's, which torch does not know
        return torch.from_numpy(flat.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(flat.copy()).to(device)


def to_numpy(torch: ModuleType, tensor: Tensor, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """The values of a flat tensor on the device, in their shape."""
    flat = tensor[: prod(shape)].cpu()
    if dtype.name == "bfloat16":
        flat = flat.view(torch.int16)
    array: np.ndarray = flat.numpy()
    return array.view(dtype).reshape(shape)


def _logger(trt: Any) -> ILogger:
    """A logger that keeps errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, text: str) -> None:
            if str(severity).lower().endswith("error"):
                self.errors.append(" ".join(text.split()))

    return Logger()
