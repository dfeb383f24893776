"""MiniMax-M3: attention to blocks of tokens that an indexer chooses, clamped SwiGLUs, experts and a shared one."""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, LeftOut, TensorRule, Transform, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER, B, L, named
from convert.architectures._sparse import NO_SUCH_LAYERS, routing_fields, sparse_layers
from convert.architectures.deepseek2 import SHARED
from convert.architectures.minimax_m2 import CORRECTION
from convert.architectures.mixtral import PUBLISHED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "minimax-m3", default_epsilon=1e-6, activations=("swigluoai", "silu"), rotary=Rotary(theta=5e6, partial=1.0)
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM)
MOE = (
    CORRECTION,
    *named((*ROUTER, *EXPERTS), *PUBLISHED),
    *named(SHARED, ("mlp.", "block_sparse_moe.")),
)
INDEXER: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.index_q_proj.weight", f"{B}.indexer.q_proj.weight", ("index_queries", "hidden"), "index"),
    (f"{L}.self_attn.index_k_proj.weight", f"{B}.indexer.k_proj.weight", ("index", "hidden"), "index"),
    (f"{L}.self_attn.index_q_norm.weight", f"{B}.indexer.q_norm.weight", ("index",), "norm"),
    (f"{L}.self_attn.index_k_norm.weight", f"{B}.indexer.k_norm.weight", ("index",), "norm"),
)
TRANSFORMS = {"norm": PLUS_ONE, "index": Transform(type="F32")}  # a choice is no place for rounding
FIXED = {
    "use_qk_norm": True,
    "qk_norm_type": "per_head",
    "use_gemma_norm": True,
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
}
SPARSE = {  # the published key -> transformers' and its default, GGUF's name
    "sparse_num_index_heads": ("index_n_heads", 4, "head_count"),
    "sparse_index_dim": ("index_head_dim", 128, "key_length"),
    "sparse_topk_blocks": ("index_topk_blocks", 16, "top_k"),
    "sparse_block_size": ("index_block_size", 128, "block_size"),
    "sparse_local_block": ("index_local_blocks", 1, "local_blocks"),
}
SEEING = "the tower; this file holds the language model"
TOWER = tuple(
    LeftOut("", SEEING, prefix=prefix) for prefix in ("vision_tower.", "multi_modal_projector.", "patch_merge_mlp.")
)
WITHOUT_FLASH = "llama.cpp chooses blocks of tokens with flash attention only; without it, it attends to all of them"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if isinstance(values.get("text_config"), Mapping):
        config = config.merged("text_config")
    config = config.with_defaults(
        head_dim=128, rotary_dim=64, routed_scaling_factor=2.0, n_shared_experts=1, dense_intermediate_size=12288
    ).spelled(num_experts="num_local_experts")
    share = config.size("rotary_dim") / config.size("head_dim")
    decoder = read_decoder(config.with_defaults(partial_rotary_factor=share), GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's minimax-m3 graph has no other")
    experts = read_experts(decoder, ffn="intermediate_size")
    shared = config.size("n_shared_experts")
    config.require("shared_intermediate_size", shared * experts.ffn, "a shared expert is as wide as the others")
    dense = _dense(decoder)
    index, indexer_fields = _indexer(decoder)
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn, **index)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("minimax-m3.feed_forward_length", config.size("dense_intermediate_size")),
        *expert_fields(decoder, experts),
        *routing_fields(decoder, "sigmoid", scale=config.number("routed_scaling_factor"), normalized=True),
        Field.uint32("minimax-m3.expert_shared_count", shared),
        Field.uint32("minimax-m3.leading_dense_block_count", dense),
        *indexer_fields,
    ]
    wide = decoder.having(ffn=config.size("dense_intermediate_size"))
    tensors = (
        *sparse_layers(wide, MOE, dense),
        *expand(INDEXER, decoder.sizes, TRANSFORMS, range(dense, decoder.layers)),
    )
    extra = Extra(tensors=tensors, left_out=TOWER, notes=[WITHOUT_FLASH])
    return decoder_spec(decoder, ROWS, fields, TRANSFORMS, extra)


def _dense(decoder: Decoder) -> int:
    """How many layers have no experts, and no indexer either: the first ones, in llama.cpp's graph."""
    config, layers = decoder.config, decoder.layers
    freq = config.sizes("moe_layer_freq", most=1) if config.has("moe_layer_freq") else ()
    kinds = config.words("mlp_layer_types", layers, ("dense", "sparse"))
    sparse = [kind == "sparse" for kind in kinds] or list(map(bool, freq)) or [True] * layers
    dense = sparse.index(True) if True in sparse else layers
    wanted = [False] * dense + [True] * (layers - dense)
    if sparse != wanted:
        config.complain("moe_layer_freq", sparse, f"{layers} numbers, 0 for the first ones", NO_SUCH_LAYERS)
    listed = config.sub("sparse_attention_config").values.get("sparse_attention_freq")
    own = config.values.get("layer_types")
    indexed = listed if isinstance(listed, list) else [kind != "full_attention" for kind in own or ()]
    if [bool(one) for one in indexed] != wanted:
        why = "llama.cpp's minimax-m3 graph chooses tokens in layers with experts, and in no others"
        config.complain("sparse_attention_freq", indexed, f"{[int(one) for one in wanted]}", why)
    return dense


def _indexer(decoder: Decoder) -> tuple[dict[str, int], list[Field]]:
    """The indexer's dimensions, and its fields."""
    config = decoder.config
    published = config.sub("sparse_attention_config")
    found: dict[str, int] = {}
    for old, (new, default, name) in SPARSE.items():
        own = published.size(old, most=MAX_CONTEXT) if published.has(old) else config.size(new, default, MAX_CONTEXT)
        found[name] = own
    if found["head_count"] != decoder.kv_heads:
        why = "llama.cpp has one for each head of keys"
        config.complain("sparse_num_index_heads", found["head_count"], f"{decoder.kv_heads}", why)
    sizes = {"index": found["key_length"], "index_queries": found["head_count"] * found["key_length"]}
    return sizes, [Field.uint32(f"minimax-m3.attention.indexer.{name}", value) for name, value in found.items()]


FAMILY = Family(
    name="minimax_m3",
    title="MiniMax-M3",
    classes=("MiniMaxM3SparseForConditionalGeneration", "MiniMaxM3SparseForCausalLM"),
    text=text,
    renames=(("language_model.", ""),),
)
