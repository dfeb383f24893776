"""Phi-3, 3.5 and 4: q, k and v in one matrix, gate and up in another; two sets of frequencies for long texts."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary, longrope_notes
from convert.architectures._rows import ENDS, MLP, NORMS, OUTPUT, B, L
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("phi3", default_epsilon=1e-5, rotary=Rotary(("longrope",), partial=1.0), square=True)
FUSED: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.mlp.gate_up_proj.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
)
DOWN = MLP[2:]


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(original_max_position_embeddings=4096)
    decoder = read_decoder(config, GRAPH)
    # written as upstream does; llama.cpp reads no window from it (models/phi3.cpp)
    window = config.size("sliding_window", most=MAX_CONTEXT) if config.has("sliding_window") else 0
    fields = [Field.uint32("phi3.attention.sliding_window", window)]
    if decoder.rope and decoder.rope.kind == "default":
        original = config.size("original_max_position_embeddings", most=MAX_CONTEXT)
        fields.append(Field.uint32("phi3.rope.scaling.original_context_length", original))
    return decoder_spec(
        decoder, (*ENDS, *NORMS, *OUTPUT, *FUSED, *DOWN), fields, extra=Extra(notes=longrope_notes(decoder.rope))
    )


FAMILY = Family(
    name="phi3",
    title="Phi-3, 3.5 and 4",
    classes=("Phi3ForCausalLM",),
    text=text,
    tested=("gptq", "awq", "onnx"),
)
