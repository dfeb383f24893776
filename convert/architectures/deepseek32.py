"""DeepSeek-V3.2 and GLM-5: V3's latent attention to the tokens that an indexer chooses."""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, L
from convert.architectures.deepseek2 import V3, latent_text
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GLM = "GlmMoeDsaForCausalLM"
GRAPHS: Mapping[str, Graph] = {
    "DeepseekV32ForCausalLM": Graph("deepseek32", default_epsilon=1e-6, grouped=False),
    GLM: Graph("glm-dsa", default_epsilon=1e-5, grouped=False, rotary=Rotary(())),
}
INDEXER: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.indexer.wq_b.weight", f"{B}.indexer.attn_q_b.weight", ("index_queries", "latent_query")),
    (f"{L}.self_attn.indexer.wk.weight", f"{B}.indexer.attn_k.weight", ("index", "hidden")),
    (f"{L}.self_attn.indexer.k_norm.weight", f"{B}.indexer.k_norm.weight", ("index",)),
    (f"{L}.self_attn.indexer.k_norm.bias", f"{B}.indexer.k_norm.bias", ("index",)),
    (f"{L}.self_attn.indexer.weights_proj.weight", f"{B}.indexer.proj.weight", ("index_heads", "hidden")),
)
SMALLEST_INDEX = 64  # llama.cpp, llama-kv-cache.cpp
WHOLE_INDEXERS = 1 << 20  # of a context so long llama.cpp takes GLM-5.2's choice of layers where none is stated


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    kind, config = str(class_of(values)), dict(values)
    if kind == GLM:  # transformers looks at the sizes of its own name only
        config = {**config, "n_group": config.get("n_group", 1), "topk_group": config.get("topk_group", 1)}
    return latent_text(config, V3, GRAPHS[kind], _indexer)


def _indexer(decoder: Decoder) -> tuple[list[Field], tuple[SourceTensor, ...]]:
    """Fields and tensors of the indexers."""
    config = decoder.config
    if not decoder.more["latent_query"]:
        config.complain("q_lora_rank", None, "a number", f"llama.cpp's {decoder.graph.name} graph has latent queries")
    sizes, fields = indexer_sizes(decoder)
    whole = [True] * decoder.layers
    if decoder.graph is GRAPHS[GLM]:
        whole = _whole_indexers(config, decoder.layers)
        if config.has("indexer_types") or not all(whole) or decoder.context >= WHOLE_INDEXERS:
            fields.append(Field.booleans(f"{decoder.graph.name}.attention.indexer.types", whole))
    return fields, expand(INDEXER, {**decoder.sizes, **sizes}, layers=[i for i, own in enumerate(whole) if own])


def indexer_sizes(decoder: Decoder) -> tuple[dict[str, int], list[Field]]:
    """The dimensions of an indexer's rows, and what the file says of it."""
    config, prefix = decoder.config, f"{decoder.graph.name}.attention.indexer"
    heads, size = config.size("index_n_heads"), config.size("index_head_dim")
    if size < SMALLEST_INDEX or size & (size - 1):
        wanted = f"a power of two, {SMALLEST_INDEX} or more"
        config.complain("index_head_dim", size, wanted, "llama.cpp turns it by Hadamard's matrix")
    fields = [
        Field.uint32(f"{prefix}.head_count", heads),
        Field.uint32(f"{prefix}.key_length", size),
        Field.uint32(f"{prefix}.top_k", config.size("index_topk", most=MAX_CONTEXT)),
    ]
    return {"index": size, "index_heads": heads, "index_queries": heads * size}, fields


def _whole_indexers(config: Config, layers: int) -> list[bool]:
    """Which layers have an indexer; the others take the tokens that the last one chose (configuration_glm_moe_dsa)."""
    if kinds := config.words("indexer_types", layers, ("full", "shared")):
        whole = [kind == "full" for kind in kinds]
    elif isinstance(pattern := config.values.get("index_topk_pattern"), str):
        whole = [letter == "F" for letter in pattern[:layers]]
        whole += [True] * (layers - len(whole))
    else:
        every = config.size("index_topk_freq", 1, layers + 1)
        first = config.size("index_skip_topk_offset", 2, layers + 1, least=0)
        whole = [max(i - first + 1, 0) % every == 0 for i in range(layers)]
    if not whole[0]:
        config.complain("indexer_types", "'shared' in the first layer", "'full'", "there is none before it")
    return whole


FAMILY = Family(
    name="deepseek32",
    title="DeepSeek-V3.2, GLM-5",
    classes=tuple(GRAPHS),
    text=text,
)
