"""Layers of experts behind a few dense ones, as DeepSeek arranged them and many after it."""

from __future__ import annotations

from collections.abc import Iterable

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder
from convert.architectures._experts import Experts
from convert.architectures._graph_spec import SourceTensor, TensorRule, expand
from convert.architectures._rows import MLP
from convert.architectures.deepseek2 import GATING
from convert.gguf_field import Field

NO_SUCH_LAYERS = "llama.cpp's graph of this architecture has dense layers first, then experts in every layer"


def sparse_layers(decoder: Decoder, experts: Iterable[TensorRule], dense: int) -> tuple[SourceTensor, ...]:
    """The MLPs of the first `dense` layers and the rows `experts` of all others."""
    return (
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(experts, decoder.sizes, layers=range(dense, decoder.layers)),
    )


def dense_layers(config: Config, layers: int, key: str = "first_k_dense_replace", default: int | None = 0) -> int:
    """How many layers have no experts: the first ones, which mlp_layer_types has to agree with, or says alone."""
    kinds = config.values.get("mlp_layer_types")
    if not config.has(key) and isinstance(kinds, list) and "sparse" in kinds:
        default = min(kinds.index("sparse"), layers)
    dense = config.size(key, default, most=layers, least=0)
    config.require("mlp_layer_types", ["dense"] * dense + ["sparse"] * (layers - dense), NO_SUCH_LAYERS)
    return dense


def routing_fields(
    decoder: Decoder, gating: str = "", *, scale: float | None = None, normalized: bool | None = None
) -> list[Field]:
    """How the router's scores become weights: by which function, times what, and whether they sum to 1 before."""
    prefix = decoder.graph.name
    fields = [Field.uint32(f"{prefix}.expert_gating_func", GATING[gating])] if gating else []
    if scale is not None:
        fields.append(Field.float32(f"{prefix}.expert_weights_scale", scale))
    if normalized is not None:
        fields.append(Field.boolean(f"{prefix}.expert_weights_norm", normalized))
    return fields


def group_fields(decoder: Decoder, experts: Experts) -> list[Field]:
    """Groups of experts, of which a token's are chosen from the best: by the sum of a group's two best scores."""
    config, prefix = decoder.config, decoder.graph.name
    if not config.has("n_group"):
        return []
    groups = config.size("n_group", most=experts.count)
    used = config.size("topk_group", groups, most=groups)
    if experts.count % groups or (groups > 1 and experts.count < 2 * groups):
        config.complain("n_group", groups, f"a divisor of the number of experts, {experts.count}, of two or more each")
    return [
        Field.uint32(f"{prefix}.expert_group_count", groups),
        Field.uint32(f"{prefix}.expert_group_used_count", used),
    ]
