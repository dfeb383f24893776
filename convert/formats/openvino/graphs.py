"""A bound ONNX graph -> an OpenVINO model: attention is OpenVINO's own operator, the cache its state.

What a decoder becomes, so that OpenVINO GenAI and optimum-intel know it again:

    beam_idx (batch) ─┐
    state ─ ReadValue ─ Gather ─ Concat(new keys) ─┬─ Assign
                                                   └─ repeated for heads that share ─ ScaledDotProductAttention

Source: optimum-intel, optimum/exporters/openvino/stateful.py (names of the inputs, an empty state's shape).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact
from convert.errors import StageError
from convert.progress import Silent

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino as ov
    from openvino import Node, Output
    from openvino.frontend import NodeContext

PAST, PRESENT = "past_key_values.", "present."
BEAMS = "beam_idx"
GIVEN = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
OPSET = 23  # of ONNX: the first that has Attention
WORDS = 400  # characters of an error worth quoting


def read(model: ir.Model, shared: Mapping[Path, Artifact], scratch: Path) -> ov.Model:
    """The OpenVINO model of a bound graph, whose weights lie in the files of `scratch` called as `shared` says."""
    import openvino as ov
    from openvino.frontend.onnx import ConversionExtension

    from convert.formats.onnx import write
    from convert.formats.onnx.layouts import Names
    from validate.runtimes._telemetry import refuse_telemetry

    refuse_telemetry()
    model.opset_imports[""] = OPSET
    names = {path: file.path.name for path, file in shared.items()}
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=scratch) as folder:
        for file in shared.values():
            (Path(folder) / file.path.name).hardlink_to(file.path)
        write.write(model, Path(folder), Names("model"), names, Silent())
        core = ov.Core()
        core.add_extension(ConversionExtension("Attention", _attention))
        try:
            return core.read_model(Path(folder) / "model.onnx")
        except Exception as error:  # whatever its frontend says of an operator
            words = " ".join(str(error).split())[-WORDS:]
            raise StageError("openvino", f"OpenVINO does not read {model.graph.name}: {words}") from error


def _attention(node: NodeContext) -> list[Output]:
    """ONNX's Attention as hollow.py writes it: (batch, heads, length, width) each, and a mask that is added."""
    import openvino.opset13 as op

    query, key, value, *mask = (node.get_input(i) for i in range(node.get_input_size()))
    if node.get_attribute("softcap", 0.0):
        raise StageError("openvino", "attention whose scores are capped has no operator in OpenVINO", "none capped")
    heads, shared = (int(x.get_partial_shape()[1].get_length()) for x in (query, key))
    if heads != shared:
        key, value = (_repeated(x, heads, shared) for x in (key, value))
    scale = op.constant(np.float32(node.get_attribute("scale")))
    added = mask[0] if mask else op.constant(np.float32(0))
    return [op.scaled_dot_product_attention(query, key, value, added, scale).output(0)]


def _repeated(rows: Output, heads: int, shared: int) -> Output:
    """Keys or values of `shared` heads for `heads` of them; plugins know the pattern and copy nothing."""
    import openvino.opset13 as op

    width = rows.get_partial_shape()[3].get_length()
    apart = op.unsqueeze(rows, op.constant(np.int64(2)))
    wide = op.broadcast(apart, op.constant(np.array([1, 1, heads // shared, 1, 1])), broadcast_spec="BIDIRECTIONAL")
    return op.reshape(wide, op.constant(np.array([0, heads, -1, width])), special_zero=True).output(0)


def make_stateful(model: ov.Model) -> None:
    """Turn the cache's inputs and outputs into state, in place; the caller says with `beam_idx` whose rows go on."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    if strange := [name for name in _names(model.inputs) if name not in GIVEN and not name.startswith(PAST)]:
        got = f"the model takes {', '.join(strange[:3])}, for which no state is known"
        raise StageError("openvino", got, "a cache of keys and values", "use the onnx stage")
    pairs = {name: PRESENT + name.removeprefix(PAST) for name in _names(model.inputs) if name.startswith(PAST)}
    if lost := set(pairs.values()) - set(_names(model.outputs)):
        raise StageError("openvino", f"the graph gives no {', '.join(sorted(lost)[:3])}", "a cache that goes on")
    _reorder(model, list(pairs))
    apply_make_stateful_transformation(model, pairs)
    _start_empty(model)


def _names(ports: list[Output]) -> list[str]:
    return [name for port in ports for name in port.get_names()]


def _first(model: ov.Model) -> Output:
    return next(port for port in model.inputs if port.get_names() & {"input_ids", "inputs_embeds"})


def _reorder(model: ov.Model, cache: list[str]) -> None:
    """A new input `beam_idx`: which row of the state each row of the batch goes on with."""
    import openvino as ov
    import openvino.opset13 as op

    batch = _first(model).get_partial_shape()[0]
    beams = op.parameter(ov.PartialShape([batch]), ov.Type.i32, name=BEAMS)
    beams.output(0).get_tensor().set_names({BEAMS})
    model.add_parameters([beams])
    for name in cache:
        given = model.input(name)
        users = given.get_target_inputs()
        rows = op.gather(given, beams, op.constant(np.int64(0)))
        for user in users:
            user.replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()


def _start_empty(model: ov.Model) -> None:
    """Every state begins as (batch, heads, 0, width) of zeros."""
    import openvino.opset13 as op

    zero = op.constant(np.int64(0))
    batch = op.gather(op.shape_of(_first(model), output_type="i64"), op.constant(np.array([0])), zero)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            sizes = [axis.min_length for axis in node.get_output_partial_shape(0)][1:]
            shape = op.concat([batch, op.constant(np.array(sizes))], 0)
            nothing = op.constant(np.array(0, node.get_output_element_type(0).to_dtype()))
            node.set_arguments([op.broadcast(nothing, shape)])
    model.validate_nodes_and_infer_types()


def constants(model: ov.Model, wanted: Callable[[str], bool]) -> dict[str, Node]:
    """The weights of a model whose names are wanted."""
    found = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return {node.get_friendly_name(): node for node in found if wanted(node.get_friendly_name())}
