"""8 bits by what images make of every activation: QuantizeLinear and DequantizeLinear around each operator (QDQ).

    x ── Q ── DQ ── Conv ── Q ── DQ ── ...        weight int8 ── DQ (a scale for each output channel) ──┘

The ranges are found, and the nodes set, by ONNX Runtime's own quantizer. Activations are int8 around zero, which is
what TensorRT and most NPUs take, or uint8 with a zero point, which wastes no half of the range behind a ReLU. Biases
stay float32: TensorRT reads no int32 behind a DequantizeLinear.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from convert.errors import StageError
from convert.formats.onnx.pixels import Preprocessing
from convert.progress import Progress

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader

LEAST_OPSET = 13  # that has a scale for each channel
NEWEST_OPSET = 20  # what else we write


def quantized(path: Path, images: Sequence[Path], how: Preprocessing, symmetric: bool, progress: Progress) -> ir.Model:
    """The graph at `path` in 8 bits, calibrated on `images`. Raises StageError where the quantizer fails."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    progress.start("calibrating", len(images), "images")
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        ready, made = Path(scratch) / "ready.onnx", Path(scratch) / "made.onnx"
        try:
            quant_pre_process(_at_opset(path, Path(scratch)), ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                made,
                _reader(ready, images, how, progress),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except StageError:
            raise
        except Exception as error:  # its errors have no common class
            said = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise StageError("onnx", f"ONNX Runtime's quantizer cannot take {path.name} ({said})") from error
        model = ir.load(made)
        for value in model.graph.initializers.values():  # the file goes with the folder
            if value.const_value is not None:
                held = np.array(value.const_value.numpy())
                value.const_value = ir.Tensor(held, dtype=value.const_value.dtype, name=value.name)
        return model


def _at_opset(path: Path, scratch: Path) -> Path:
    """The graph in a version of the operators that has scales for channels."""
    import onnx
    from onnx import version_converter

    model = onnx.load(path)
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    if min(versions, default=NEWEST_OPSET) >= LEAST_OPSET:
        return path
    newer = scratch / "newer.onnx"
    onnx.save(version_converter.convert_version(model, NEWEST_OPSET), newer)
    return newer


def _reader(path: Path, images: Sequence[Path], how: Preprocessing, progress: Progress) -> CalibrationDataReader:
    """Hands the images to the quantizer, one at a time."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (port.name for port in session.get_inputs())

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            path = next(self.rest, None)
            if path is None:
                return None
            progress.advance(1)
            return {name: how(path)}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what the quantizer advises on every run."""
    level = logging.root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.root.setLevel(level)
