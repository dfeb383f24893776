"""StarCoder 2: LayerNorm, biases everywhere, an MLP without a gate."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, NORMS, B, L, biases
from convert.json_types import JsonObject

GRAPH = Graph(
    "starcoder2",
    layer_norm=True,
    epsilon="norm_epsilon",
    default_epsilon=1e-5,
    activations=GELU_TANH,
    square=True,
    tied=True,
)
MLP: tuple[TensorRule, ...] = (
    (f"{L}.mlp.c_fc.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
NORM_BIASES = tuple(biases(NORMS, ENDS[1:]))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("use_bias", True, "llama.cpp's starcoder2 graph has biases everywhere")
    return decoder_spec(decoder, (*ENDS, *NORMS, *NORM_BIASES, *ATTENTION, *MLP, *biases(ATTENTION, MLP)))


FAMILY = Family(
    name="starcoder2",
    title="StarCoder 2",
    classes=("Starcoder2ForCausalLM",),
    text=text,
    tested=("onnx",),
)
