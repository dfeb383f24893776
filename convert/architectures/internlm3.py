"""InternLM 3: Llama's layers and its graph; what is biased has words of its own in the config."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import without_dynamic
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, OUTPUT, QKV, biases
from convert.architectures.llama import GRAPH, side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

SPELLINGS = {"attention_bias": "qkv_bias", "mlp_bias": "bias"}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config, notes = without_dynamic(Config(values).with_defaults(head_dim=128, rms_norm_eps=1e-5).spelled(**SPELLINGS))
    decoder = read_decoder(config, GRAPH)
    rows: list[TensorRule] = [*ENDS, *NORMS, *ATTENTION, *MLP]
    if config.flag("attention_bias"):
        rows += biases(QKV)
    if config.flag("mlp_bias"):
        rows += biases(OUTPUT, MLP)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("llama.vocab_size", decoder.vocab),
        Field.uint32("llama.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, rows, fields, side_by_side(decoder), Extra(notes=notes))


FAMILY = Family(
    name="internlm3",
    title="InternLM 3",
    classes=("InternLM3ForCausalLM",),
    text=text,
)
