"""StarCoder and SantaCoder: GPT-2 with one key and value for all queries, weights stored (out, in)."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform
from convert.architectures._rows import B, biases
from convert.architectures.gpt2 import EMBEDDINGS, NORMS, SPELLINGS
from convert.architectures.gpt_neox import heads_apart
from convert.json_types import JsonObject

GRAPH = Graph(
    "starcoder",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=(*GELU_TANH, "gelu"),
    activation="activation_function",
    rotary=None,
    square=True,
    tied=True,
)
L = "h.{i}"
MATRICES: tuple[TensorRule, ...] = (
    (f"{L}.attn.c_attn.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    (f"{L}.attn.c_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.c_fc.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
PLAIN = {"scale_attn_weights": True, "add_cross_attention": False}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = _read(values)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's starcoder graph has no other")
    rows = (*EMBEDDINGS, *NORMS, *biases(NORMS), *MATRICES, *biases(MATRICES))
    return decoder_spec(decoder, rows, transforms=_transforms(decoder))


def _read(values: JsonObject) -> Config:
    """The config; how many keys there are follows from multi_query alone, whatever num_key_value_heads says."""
    config = Config(values).spelled(**SPELLINGS)
    if not config.has("intermediate_size"):
        config = config.with_defaults(n_inner=4 * config.size("hidden_size"))
    keys = 1 if config.flag("multi_query", True) else None
    return Config({**config.values, "num_key_value_heads": keys}, config.where, config.problems, config.spellings)


def _transforms(decoder: Decoder) -> dict[str, Transform]:
    """All queries, the key, the value; of a model with a key for each query those of each head together."""
    return {} if decoder.kv_heads == 1 else {"qkv": Transform(heads_apart(decoder.heads))}


FAMILY = Family(
    name="starcoder",
    title="StarCoder and SantaCoder",
    classes=("GPTBigCodeForCausalLM",),
    text=text,
    renames=(("transformer.", ""),),
    tested=("onnx",),
)
