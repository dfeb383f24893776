"""Jais: no positions but a slope on the scores, LayerNorm, SwiGLU, biases; embedding and head are scaled."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import TRANSPOSED, Change, GraphSpec, LeftOut, TensorRule, Transform
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "jais",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=("swiglu",),
    activation="activation_function",
    rotary=None,
    square=True,
    grouped=False,
)
SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}
STEEPEST = 8.0  # what the slopes of all published models are made of
H = "transformer.h.{i}"
EMBEDDING: TensorRule = ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden"), "embedding")
HEAD: TensorRule = ("lm_head.weight", "output.weight", ("vocab", "hidden"), "head")
NORMS: tuple[TensorRule, ...] = (
    ("transformer.ln_f.weight", "output_norm.weight", ("hidden",)),
    (f"{H}.ln_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{H}.ln_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (  # stored (in, out); the axis of a bias is the second of its matrix
    (f"{H}.attn.c_attn.weight", f"{B}.attn_qkv.weight", ("hidden", "q+kv+kv"), "transpose"),
    (f"{H}.attn.c_proj.weight", f"{B}.attn_output.weight", ("q", "hidden"), "transpose"),
    (f"{H}.mlp.c_fc.weight", f"{B}.ffn_up.weight", ("hidden", "ffn"), "transpose"),
    (f"{H}.mlp.c_fc2.weight", f"{B}.ffn_gate.weight", ("hidden", "ffn"), "transpose"),
    (f"{H}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("ffn", "hidden"), "transpose"),
)
MATRIX_BIASES = tuple(biases((row[0], row[1], row[2][1:]) for row in MATRICES))
LEFT_OUT = (
    LeftOut("relative_pe.slopes", "llama.cpp computes the slopes from attention.max_alibi_bias"),
    LeftOut(".attn.bias", "a mask, which llama.cpp makes itself"),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # the head is scaled otherwise than the embedding: it has to be there even where the two are tied
    config = Config({**values, "tie_word_embeddings": False}).spelled(**SPELLINGS)
    decoder = read_decoder(config, GRAPH)
    config.require("position_embedding_type", "alibi", "llama.cpp's jais graph has no other positions")
    # muP's words in the first models, plain ones in the later
    for key in ("mup_scale_qk_dot_by_d", "scale_qk_dot_by_d"):
        config.require(key, True, "llama.cpp's jais graph divides scores by the size of a head")
    transforms = {
        "transpose": TRANSPOSED,
        "embedding": Transform(change=_times(_scale(config, "embeddings_scale", "mup_embeddings_scale"))),
        "head": Transform(change=_times(_scale(config, "width_scale", "mup_output_alpha", "mup_width_scale"))),
    }
    rows = (EMBEDDING, *NORMS, *MATRICES, *biases(NORMS), *MATRIX_BIASES)
    fields = [Field.float32("jais.attention.max_alibi_bias", STEEPEST)]
    return decoder_spec(decoder, rows, fields, transforms, Extra(head=HEAD, left_out=LEFT_OUT))


def _scale(config: Config, plain: str, *mup: str) -> float:
    """What a matrix is multiplied by: under the plain word, or the product of muP's."""
    if not config.has(mup[0]):
        return config.number(plain)
    product = 1.0
    for key in mup:
        product *= config.number(key)
    return product


def _times(factor: float) -> Change:
    def change(values: np.ndarray) -> np.ndarray:
        return values * np.float32(factor)

    return change


FAMILY = Family(
    name="jais",
    title="Jais",
    classes=("JAISLMHeadModel",),
    text=text,
    graphs="",
)
