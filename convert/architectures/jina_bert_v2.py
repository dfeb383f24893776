"""Jina embeddings v2: BERT without a table of positions, further tokens count less; a gated MLP; its publisher's code.

The one for code has norms on queries and keys and one more behind attention.
"""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Graph, read_decoder
from convert.architectures._encoder import Encoding, encoder_spec, token_types
from convert.architectures._family import EMBEDDINGS, Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rows import B, biases, named
from convert.architectures.bert import ATTENTION, EMBEDDED, HEADS, NORMS, UNUSED_POOLER
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "jina-bert-v2",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-12,
    activations=GELU,
    rotary=None,
    grouped=False,
    square=True,
)
L = "encoder.layer.{i}"
DOWN: tuple[TensorRule, ...] = ((f"{L}.mlp.wo.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),)
UP: tuple[TensorRule, ...] = (
    (f"{L}.mlp.gated_layers.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
)
OUT: tuple[TensorRule, ...] = tuple(named(NORMS, (f"{L}.output.LayerNorm", f"{L}.mlp.layernorm")))
CODE_NORMS: tuple[TensorRule, ...] = (
    (f"{L}.attention.self.layer_norm_q.weight", f"{B}.attn_q_norm.weight", ("hidden",)),
    (f"{L}.attention.self.layer_norm_k.weight", f"{B}.attn_k_norm.weight", ("hidden",)),
    (f"{L}.layer_norm_1.weight", f"{B}.attn_norm_2.weight", ("hidden",)),
)
FOR_CODE = "qk-post-norm"  # the name of its code, which auto_map names
FEED_FORWARD = "geglu"


def text(values: JsonObject) -> GraphSpec:
    """The encoder. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("position_embedding_type", "alibi", "llama.cpp's jina-bert-v2 graph has no other positions")
    config.require("feed_forward_type", FEED_FORWARD, "llama.cpp's jina-bert-v2 graph has no other")
    decoder = decoder.having(types=token_types(config))
    tokens, types, _ = EMBEDDED
    code = FOR_CODE in str(config.values.get("auto_map"))
    mine = _for_code() if code else (*OUT, *ATTENTION, *DOWN, *biases(OUT, ATTENTION, DOWN), *UP)
    fields = [Field.uint32("tokenizer.ggml.token_type_count", decoder.sizes["types"])]
    return encoder_spec(decoder, (tokens, types, *mine), Encoding(fields, left_out=(*HEADS, UNUSED_POOLER)))


def _for_code() -> tuple[TensorRule, ...]:
    """The rows of a layer of the one for code."""
    norms = (*named(NORMS, (f"{L}.output.LayerNorm", f"{L}.layer_norm_2")), *CODE_NORMS)
    down = tuple(named(DOWN, ("mlp.wo", "mlp.down_layer")))
    up = tuple(named(UP, ("gated_layers", "up_gated_layer")))
    return (*norms, *ATTENTION, *down, *biases(norms, ATTENTION, down), *up)


FAMILY = Family(
    name="jina_bert_v2",
    title="Jina embeddings v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    text=text,
    renames=(("bert.", ""),),
    gives={"JinaBertModel": EMBEDDINGS, "JinaBertForMaskedLM": EMBEDDINGS},
    graphs="",
)
