"""BERT: a table of positions, a norm behind attention and behind the MLP, biases everywhere; every token sees all.

llama.cpp's graph of a classifier goes through the pooler as transformers' does: tanh of a dense layer on the first
token. Of a model without a classifier the pooler is left out, as sentence-transformers does it.
"""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Decoder, Graph, read_decoder
from convert.architectures._encoder import (
    MASKED_HEAD,
    NO_POOLER,
    Encoding,
    classifier,
    encoder_spec,
    token_types,
)
from convert.architectures._family import EMBEDDINGS, SCORES, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import gives_scores

GRAPH = Graph(
    "bert",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-12,
    activations=GELU,
    rotary=None,
    grouped=False,
    square=True,
)
L = "encoder.layer.{i}"
EMBEDDED: tuple[TensorRule, ...] = (
    ("embeddings.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
    ("embeddings.position_embeddings.weight", "position_embd.weight", ("positions", "hidden"), "positions"),
)
NORMS: tuple[TensorRule, ...] = (
    ("embeddings.LayerNorm.weight", "token_embd_norm.weight", ("hidden",)),
    (f"{L}.attention.output.LayerNorm.weight", f"{B}.attn_output_norm.weight", ("hidden",)),
    (f"{L}.output.LayerNorm.weight", f"{B}.layer_output_norm.weight", ("hidden",)),
)
ATTENTION: tuple[TensorRule, ...] = (
    (f"{L}.attention.self.query.weight", f"{B}.attn_q.weight", ("q", "hidden")),
    (f"{L}.attention.self.key.weight", f"{B}.attn_k.weight", ("kv", "hidden")),
    (f"{L}.attention.self.value.weight", f"{B}.attn_v.weight", ("kv", "hidden")),
    (f"{L}.attention.output.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
)
MLP: tuple[TensorRule, ...] = (
    (f"{L}.intermediate.dense.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.output.dense.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
ROWS = (*EMBEDDED, *NORMS, *ATTENTION, *MLP, *biases(NORMS, ATTENTION, MLP))
POOLER: tuple[TensorRule, ...] = (
    ("pooler.dense.weight", "cls.weight", ("hidden", "hidden")),
    ("classifier.weight", "cls.output.weight", ("labels", "hidden")),
)
UNUSED_POOLER = LeftOut("", NO_POOLER, prefix="pooler.")
HEADS = (LeftOut("", MASKED_HEAD, prefix="cls."), LeftOut("", MASKED_HEAD, prefix="lm_head."))
PAIRS = (
    "llama.cpp takes both texts of a pair for the first: scores of pairs differ from the source's, which has an "
    "embedding for the second"
)
DEFAULTS = {"max_position_embeddings": 512}


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with its classifier where it has one. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    decoder = read_bert(config, GRAPH)
    scores = classifier(config, (*POOLER, *biases(POOLER)))
    encoding = Encoding(
        fields=[Field.uint32("tokenizer.ggml.token_type_count", decoder.sizes["types"])],
        left_out=(*HEADS, *(() if gives_scores(values) else (UNUSED_POOLER,))),
        classifier=scores,
        notes=[PAIRS] if scores.labels and decoder.sizes["types"] > 1 else [],
    )
    return encoder_spec(decoder, ROWS, encoding)


def read_bert(config: Config, graph: Graph) -> Decoder:
    """The encoder a config of this kind describes; what is wrong with it is in `config.problems`."""
    decoder = read_decoder(config, graph)
    config.require("position_embedding_type", "absolute", "llama.cpp's bert graph has a table of positions")
    config.require("is_decoder", False, "llama.cpp's bert graph looks both ways")
    return decoder.having(types=token_types(config), positions=decoder.context)


FAMILY = Family(
    name="bert",
    title="BERT",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    text=text,
    renames=(("bert.", ""),),
    endings=((".gamma", ".weight"), (".beta", ".bias")),  # of norms, in checkpoints made of TensorFlow's
    gives={
        "BertModel": EMBEDDINGS,
        "BertForMaskedLM": EMBEDDINGS,
        "BertForSequenceClassification": SCORES,
    },
    graphs=TASK_GRAPH,
)
