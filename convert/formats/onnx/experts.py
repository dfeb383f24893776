"""A mixture of experts in operators that any runtime has: a token is multiplied by the weights of its own experts only.

    rows     tokens, once for each expert they are sent to, sorted by expert       TopK, Gather
    parts    the rows of expert 0, those of expert 1, ...                          Split, by how many each has
    each part times its expert's matrix, one initializer each                      MatMul
    all parts one behind the other; gate, down the same way; weighted, put back in order, summed over a token's experts

It is right for any routing, without a loop. The products are exactly those of the tokens that were sent, so a prompt
costs what the router says and a step of decoding reads the matrices of its own experts; what is paid besides is a
MatMul of no rows for each expert that got none (about a microsecond each). Multiplying all tokens by all experts would
read every matrix at every step; gathering each token's matrices would copy them, for a prompt more bytes than the model
has. Because every expert's matrix is an initializer of its own, all precisions treat it as any linear layer.

torch traces one operator for the products of a layer (PRODUCT), which `expand` takes apart when the graph is small.
TensorRT takes no Split by sizes that depend on values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from convert.formats.onnx.linears import before, replace

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

EXPERTS = "convert_onnx"  # the name under which transformers knows `routed`
DOMAIN, PRODUCT = "convert", "ExpertProduct"
MATRICES = ("gate_up_proj", "up_proj", "down_proj")


def routed(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The experts' output (token, width); `index` and `weights` (token, chosen) are the router's."""
    tokens, chosen = index.shape
    flat = index.reshape(-1)
    order = _sorted(flat)
    expert = flat.index_select(0, order)
    counts = (flat[:, None] == torch.arange(module.num_experts)).sum(0)
    rows = hidden.index_select(0, torch.div(order, chosen, rounding_mode="trunc"))
    first = "gate_up_proj" if module.has_gate else "up_proj"
    rows = _product(module, first, rows, counts, expert)
    rows = module._apply_gate(rows) if module.has_gate else module.act_fn(rows)
    rows = _product(module, "down_proj", rows, counts, expert)
    if module.has_post_expert_norm:
        rows = module.post_expert_norm(rows)
    rows = rows.index_select(0, _sorted(order)) * weights.reshape(-1, 1)
    return rows.reshape(tokens, chosen, rows.shape[-1]).sum(1).to(hidden.dtype)


def _sorted(numbers: Tensor) -> Tensor:
    """The places of numbers from the smallest on; of equal ones ONNX's TopK takes the first first."""
    return torch.topk(numbers, numbers.shape[0], largest=False, sorted=True).indices


def _product(module: nn.Module, name: str, rows: Tensor, counts: Tensor, expert: Tensor) -> Tensor:
    """Rows sorted by expert, each times its expert's matrix."""
    weight = getattr(module, name)
    width = weight.shape[-1] if module.is_transposed else weight.shape[-2]
    made = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{PRODUCT}",
        (rows, counts, weight),
        {"transposed": int(module.is_transposed)},
        dtype=rows.dtype,
        shape=(rows.shape[0], width),
    )
    return made + getattr(module, f"{name}_bias").index_select(0, expert) if module.has_bias else made


def use(model: PreTrainedModel) -> None:
    """Let the model's experts run as `routed`."""
    if any(True for module in model.modules() if _is_routed(module)):
        model.set_experts_implementation(EXPERTS)


def stacked(model: nn.Module) -> dict[str, int]:
    """Parameter of all experts -> how many matrices it is in a graph, where they are called `<parameter>.3`."""
    return {
        f"{path}.{name}": len(parameter)
        for path, module in model.named_modules()
        if _is_routed(module)
        for name, parameter in module.named_parameters(recurse=False)
        if name in MATRICES
    }


def _is_routed(module: nn.Module) -> bool:
    """Whether the module's class is one whose experts transformers lets others compute."""
    return hasattr(module, "is_transposed") and hasattr(module, "has_gate") and hasattr(module, "down_proj")


def expert_name(parameter: str, number: int) -> str:
    """What an expert's matrix is called in the graph."""
    return f"{parameter}.{number}"


def expand(model: ir.Model) -> None:
    """Put the products of each expert in the place of those of all, and its matrix in the place of all of them."""
    graph = model.graph
    for node in [node for node in graph if node.domain == DOMAIN and node.op_type == PRODUCT]:
        _expand(graph, node)
    model.opset_imports.pop(DOMAIN, None)


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    rows, counts, weight = node.inputs
    assert rows is not None
    assert weight is not None
    assert weight.shape is not None
    count, *shape = (int(str(size)) for size in weight.shape)
    props = dict(node.metadata_props)
    split = ir.node("Split", [rows, counts], {"axis": 0}, num_outputs=count, metadata_props=props)
    graph.insert_before(node, split)
    transposed = node.attributes.get_int("transposed", 0)
    products = []
    for number, part in enumerate(split.outputs):
        part.type = rows.type
        name = expert_name(str(weight.name), number)
        matrix = ir.Value(name=name, shape=ir.Shape(shape), type=weight.type)
        graph.initializers[name] = matrix
        used = matrix if transposed else before(node, "Transpose", [matrix], perm=[1, 0])
        products.append(before(node, "MatMul", [part, used]))
        products[-1].type = rows.type
    replace(node, before(node, "Concat", products, axis=0))
    if not weight.uses():
        del graph.initializers[weight.name]


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, routed)
