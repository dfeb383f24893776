"""LFM2: short convolutions behind gates, and some layers of attention with a norm on every query and key head."""

from __future__ import annotations

from collections.abc import Iterable

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, QKV, B, L
from convert.architectures._state_space import KERNEL
from convert.gguf_field import Field
from convert.json_types import JsonObject

ROTARY = Rotary(theta=1000000.0)
GRAPH = Graph("lfm2", epsilon="norm_eps", default_epsilon=1e-5, square=True, rotary=ROTARY, mlp=False, tied=True)
KINDS = ("conv", "full_attention")
FFN = f"{L}.feed_forward"

ALWAYS: tuple[TensorRule, ...] = (
    ENDS[0],
    ("model.embedding_norm.weight", "token_embd_norm.weight", ("hidden",)),  # of what comes out, whatever its name
    (f"{L}.operator_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.ffn_norm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
)
ATTENTION: tuple[TensorRule, ...] = (
    *QKV,
    (f"{L}.self_attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.self_attn.q_layernorm.weight", f"{B}.attn_q_norm.weight", ("head",)),
    (f"{L}.self_attn.k_layernorm.weight", f"{B}.attn_k_norm.weight", ("head",)),
)
CONVOLUTION: tuple[TensorRule, ...] = (
    (f"{L}.conv.conv.weight", f"{B}.shortconv.conv.weight", ("hidden", "one", "kernel"), "kernel"),
    (f"{L}.conv.in_proj.weight", f"{B}.shortconv.in_proj.weight", ("hidden+hidden+hidden", "hidden")),
    (f"{L}.conv.out_proj.weight", f"{B}.shortconv.out_proj.weight", ("hidden", "hidden")),
)
MLP: tuple[TensorRule, ...] = (
    (f"{FFN}.w1.weight", f"{B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{FFN}.w3.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{FFN}.w2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = read_config(values)
    decoder = read_decoder(config, GRAPH)
    ffn = _width(config)
    kinds = config.words("layer_types", decoder.layers, KINDS) or _kinds(config, decoder.layers)
    fields = [Field.uint32("lfm2.feed_forward_length", ffn)]
    return hybrid_spec(decoder.having(ffn=ffn), kinds, MLP, fields)


def read_config(values: JsonObject) -> Config:
    """The config under the names most models have."""
    config = Config(values).spelled(tie_word_embeddings="tie_embedding")
    if config.has("theta") and not config.has("rope_theta"):
        config = config.spelled(rope_theta="theta")
    return config


def hybrid_spec(
    decoder: Decoder,
    kinds: Iterable[str],
    mlp: Iterable[TensorRule],
    fields: Iterable[Field],
    tensors: Iterable[SourceTensor] = (),
) -> GraphSpec:
    """A decoder with these kinds of layers: MLPs in all of them, or some `tensors` of their own."""
    config, kinds = decoder.config, tuple(kinds)
    config.require("conv_bias", False, "llama.cpp's graph has no such biases")
    decoder = decoder.having(kernel=config.size("conv_L_cache", 3, least=1), one=1)
    attention = [i for i, kind in enumerate(kinds) if kind == KINDS[1]]
    convolution = [i for i, kind in enumerate(kinds) if kind == KINDS[0]]
    name, transforms = decoder.graph.name, {"kernel": KERNEL}
    all_fields = [
        Field.uint32(f"{name}.vocab_size", decoder.vocab),
        Field.uint32(f"{name}.shortconv.l_cache", decoder.sizes["kernel"]),
        Field.int32s(
            f"{name}.attention.head_count_kv", [decoder.kv_heads if kind == KINDS[1] else 0 for kind in kinds]
        ),
        *fields,
    ]
    own = (
        *expand(ATTENTION, decoder.sizes, layers=attention),
        *expand(CONVOLUTION, decoder.sizes, transforms, convolution),
        *tensors,
    )
    return decoder_spec(decoder, (*ALWAYS, *mlp), all_fields, transforms, Extra(tensors=own))


def _kinds(config: Config, layers: int) -> list[str]:
    """The kinds of layers in the words of older configs; where they are silent, all attend."""
    attending = config.sizes("full_attn_idxs", range(layers), most=layers)
    return [KINDS[i in attending] for i in range(layers)]


def _width(config: Config) -> int:
    """Values in the middle of an MLP: that of the config, or what it adjusts to (modeling_lfm2.py, Lfm2MLP)."""
    given = config.size("block_ff_dim" if config.has("block_ff_dim") else "intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim", True):
        return given
    multiple, width = config.size("block_multiple_of", 256), int(2 * given / 3)
    width = int(config.number("block_ffn_dim_multiplier", 1.0) * width)
    return -(-width // multiple) * multiple


FAMILY = Family(
    name="lfm2",
    title="LFM2",
    classes=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    text=text,
    tested=("onnx",),
)
