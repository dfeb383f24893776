"""Command-R: attention and MLP side by side behind one norm, scaled logits, norms on the queries of the largest."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, B, L
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "command-r",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    rotary=Rotary((), theta=500000.0),
    square=True,
    tied=True,
)
ROWS = (*ENDS, NORMS[0], *ATTENTION, *MLP)
QK_NORM: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_norm.weight", f"{B}.attn_q_norm.weight", ("heads", "head")),
    (f"{L}.self_attn.k_norm.weight", f"{B}.attn_k_norm.weight", ("kv_heads", "head")),
)
NORMED_LAYERS = 64  # from this depth on llama.cpp's graph wants the norms of Command-R+ (models/command-r.cpp)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # max_position_embeddings is 8192 in models that were trained for 128k, which is model_max_length
    config = Config(values).spelled(max_position_embeddings="model_max_length")
    decoder = read_decoder(config, GRAPH)
    decoder = decoder.having(heads=decoder.heads, kv_heads=decoder.kv_heads)
    normed = decoder.layers >= NORMED_LAYERS
    if config.flag("use_qk_norm") != normed:
        why = f"llama.cpp's command-r graph has norms on queries in models of {NORMED_LAYERS} layers and more only"
        config.complain("use_qk_norm", not normed, str(normed).lower(), why)
    return decoder_spec(decoder, (*ROWS, *QK_NORM) if normed else ROWS, cohere_fields(decoder))


def cohere_fields(decoder: Decoder) -> list[Field]:
    """The hyper-parameters of both Cohere families, after what neither graph can do."""
    config, name = decoder.config, decoder.graph.name
    config.require("attention_bias", False, f"llama.cpp's {name} graph has no biases")
    if not decoder.tied:
        config.complain("tie_word_embeddings", False, "true", f"llama.cpp's {name} graph has no head of its own")
    scale = Field.float32(f"{name}.logit_scale", config.number("logit_scale", 0.0625))
    return [scale, Field.string(f"{name}.rope.scaling.type", "none")]


FAMILY = Family(
    name="cohere",
    title="Command-R",
    classes=("CohereForCausalLM",),
    text=text,
    tested=("onnx",),
)
