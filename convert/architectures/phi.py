"""Phi-1, 1.5 and 2: attention and MLP side by side behind one norm, biases everywhere, even on the head."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, HEAD, NORMS, QKV, B, L, biases
from convert.json_types import JsonObject

GRAPH = Graph(
    "phi2",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    activations=("gelu_new", *GELU_TANH),
    rotary=Rotary(("linear",), partial=0.5),
    square=True,
)
EMBEDDING = ENDS[0]
PLAIN: tuple[TensorRule, ...] = (
    ("model.final_layernorm.weight", "output_norm.weight", ("hidden",)),
    NORMS[0],
    *QKV,
    (f"{L}.self_attn.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.fc1.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.fc2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
ROWS = (EMBEDDING, *PLAIN, *biases(PLAIN, (HEAD,)))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's phi2 graph wants a head of its own")
    config.require("qk_layernorm", False, "llama.cpp's phi2 graph has no norms on queries and keys")
    return decoder_spec(decoder, ROWS)


FAMILY = Family(
    name="phi",
    title="Phi-1, 1.5 and 2",
    classes=("PhiForCausalLM",),
    text=text,
    tested=("onnx",),
)
