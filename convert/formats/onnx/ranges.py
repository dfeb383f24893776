"""Which values of a graph pass float16's range: the graph is run, its activations in float32, over rows of text.

The graph that runs has 4-bit weights, an eighth of float32's, and besides its outputs the largest size of every value
that float16 would have to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from convert.formats.onnx import attention, q4f16
from convert.formats.onnx.int4 import to_int4
from convert.formats.onnx.linears import initializer, split_gemms
from validate.runtimes._threads import useful_threads

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "ranges.onnx"
TOKENS = "input_ids"
ERRORS_ONLY = 3


def beyond(model: ir.Model, rows: Sequence[np.ndarray], folder: Path) -> frozenset[str] | None:
    """Names of the values beyond q4f16.LIMIT over rows of token ids; None of a graph that takes no tokens.

    `model` is bound, and used up; `folder` has room for it in 4 bits.
    """
    if TOKENS not in {value.name for value in model.graph.inputs} or not rows:
        return None
    split_gemms(model)
    attention.scale_queries(model)
    q4f16.limit_masks(model)
    values = _values(model)
    to_int4(model)
    sizes = _largest(model, values)
    if not sizes:  # asked for no output, ONNX Runtime gives all: a table of embeddings computes nothing
        return frozenset()
    _write(model, folder)
    session = _session(folder / GRAPH)
    found = np.max([_run(session, row, list(sizes)) for row in rows], axis=0)
    return frozenset(name for name, size in zip(sizes.values(), found, strict=True) if not size <= q4f16.LIMIT)


def _values(model: ir.Model) -> list[str]:
    """What float16 would hold: all that goes into, or comes out of, what may run in it; constants are no question."""
    found: dict[str, None] = {}
    for node in q4f16.candidates(model):
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name and value.const_value is None and value.producer() is not None:
                found[value.name] = None
    return list(found)


def _largest(model: ir.Model, names: Sequence[str]) -> dict[str, str]:
    """New outputs of the graph, by name, each with the value whose largest size it gives."""
    graph, made = model.graph, {}
    values = {str(output.name): output for node in graph for output in node.outputs}
    axes = initializer(model, ir.tensor(np.zeros(0, np.int64), name="ranges.axes"))
    for number, name in enumerate(names):
        value = values.get(name)
        if value is None or value.dtype != ir.DataType.FLOAT:  # gone with what was quantized, or no float
            continue
        sizes = ir.node("Abs", [value])
        largest = ir.node("ReduceMax", [sizes.outputs[0], axes], {"keepdims": 0})
        graph.extend([sizes, largest])
        output = largest.outputs[0]
        output.name, output.type, output.shape = f"ranges.{number}", ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        graph.outputs.append(output)
        made[str(output.name)] = name
    return made


def _write(model: ir.Model, folder: Path) -> None:
    from convert.formats.onnx import write
    from convert.formats.onnx.layouts import Names
    from convert.progress import Silent

    write.write(model, folder, Names("ranges"), {}, Silent())


def _session(path: Path) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = useful_threads(*path.parent.iterdir())
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: InferenceSession, row: np.ndarray, outputs: Sequence[str]) -> np.ndarray:
    """The largest sizes while a row is read."""
    tokens = row.reshape(1, -1).astype(np.int64)
    given = {
        TOKENS: tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(tokens.shape[1], dtype=np.int64)[None],
    }
    feeds = {}
    for port in session.get_inputs():
        sizes = [size if isinstance(size, int) else 1 for size in port.shape]
        feeds[port.name] = given.get(port.name, np.zeros((*sizes[:2], 0, *sizes[3:]), np.float32))
    return np.array([float(value) for value in session.run(list(outputs), feeds)])
