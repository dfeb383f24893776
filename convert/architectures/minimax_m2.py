"""MiniMax-M2: experts in every layer, chosen by sigmoids with a bias; norms over all queries and all keys."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, B, L, named
from convert.architectures._sparse import routing_fields
from convert.architectures.mixtral import PUBLISHED
from convert.architectures.olmoe import WIDE_NORMS
from convert.json_types import JsonObject

GRAPH = Graph("minimax-m2", default_epsilon=1e-6, rotary=Rotary(theta=5e6, partial=1.0))
CORRECTION: TensorRule = (
    f"{L}.block_sparse_moe.e_score_correction_bias",
    f"{B}.exp_probs_b.bias",
    ("experts",),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *WIDE_NORMS, CORRECTION, *named((*ROUTER, *EXPERTS), *PUBLISHED))
FIXED = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "tie_word_embeddings": False,
}
DRAFTS = LeftOut("", "layers that predict tokens further ahead", prefix="model.mtp")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128).spelled(num_experts="num_local_experts")
    if config.has("rotary_dim"):
        share = config.size("rotary_dim") / config.size("head_dim")
        config = config.with_defaults(partial_rotary_factor=share)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's minimax-m2 graph has no other")
    experts = read_experts(decoder, ffn="intermediate_size")
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *routing_fields(decoder, "sigmoid"),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields, extra=Extra(left_out=[DRAFTS]))


FAMILY = Family(
    name="minimax_m2",
    title="MiniMax-M2",
    classes=("MiniMaxM2ForCausalLM",),
    text=text,
)
