"""How engines are run, for their card."""

from __future__ import annotations

from convert.formats.base import Usage

READ = """\
import tensorrt_rtx_bindings as tensorrt  # data-centre TensorRT: import tensorrt

runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
with open("{file}", "rb") as file:
    engine = runtime.deserialize_cuda_engine(file.read())
print([engine.get_tensor_name(number) for number in range(engine.num_io_tensors)])
"""

USAGE = (Usage("TensorRT", READ, "python"),)
