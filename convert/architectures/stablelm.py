"""StableLM: LayerNorm, a quarter of each head turns; the 12B has norms of its own for every head."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QKV, B, L, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GRAPH = Graph(
    "stablelm",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    rotary=Rotary(("linear",), partial=0.25),
    square=True,
)
OLD = "StableLMEpochForCausalLM"
HEAD_NORMS = (("q_layernorm", "attn_q_norm"), ("k_layernorm", "attn_k_norm"))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if class_of(values) == OLD:
        config = config.spelled(layer_norm_eps="norm_eps", partial_rotary_factor="rope_pct")
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's stablelm graph wants a head of its own")
    parallel = config.flag("use_parallel_residual")
    norms = NORMS[:1] if parallel else NORMS
    rows: list[TensorRule] = [*ENDS, *norms, *biases(norms, ENDS[1:]), *ATTENTION, *MLP]
    if config.flag("use_qkv_bias"):
        rows += biases(QKV)
    fields = [Field.boolean("stablelm.use_parallel_residual", parallel)]
    tensors = _head_norms(decoder) if config.flag("qk_layernorm") else ()
    return decoder_spec(decoder, rows, fields, extra=Extra(tensors=tensors))


def _head_norms(decoder: Decoder) -> Iterator[SourceTensor]:
    """One tensor a head in the checkpoint, one a layer in the file."""
    for (source, target), heads in zip(HEAD_NORMS, (decoder.heads, decoder.kv_heads), strict=True):
        row: TensorRule = (f"{L}.self_attn.{source}.norms.{{e}}.weight", f"{B}.{target}.weight", ("head",))
        yield from expand((row,), {**decoder.sizes, "experts": heads}, layers=decoder.layers)


FAMILY = Family(
    name="stablelm",
    title="StableLM",
    classes=("StableLmForCausalLM", OLD),
    text=text,
    tested=("onnx",),
)
