"""DistilBERT: BERT without parts of a pair, under names of its own."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._encoder import MASKED_HEAD, Encoding, classifier, encoder_spec
from convert.architectures._family import EMBEDDINGS, SCORES, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rows import B, biases
from convert.architectures.bert import EMBEDDED, GRAPH, read_bert
from convert.gguf_field import Field
from convert.json_types import JsonObject

SPELLINGS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}
EPSILON = 1e-12  # which transformers' class has, whatever a config says
L = "transformer.layer.{i}"
NORMS: tuple[TensorRule, ...] = (
    ("embeddings.LayerNorm.weight", "token_embd_norm.weight", ("hidden",)),
    (f"{L}.sa_layer_norm.weight", f"{B}.attn_output_norm.weight", ("hidden",)),
    (f"{L}.output_layer_norm.weight", f"{B}.layer_output_norm.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (
    (f"{L}.attention.q_lin.weight", f"{B}.attn_q.weight", ("q", "hidden")),
    (f"{L}.attention.k_lin.weight", f"{B}.attn_k.weight", ("kv", "hidden")),
    (f"{L}.attention.v_lin.weight", f"{B}.attn_v.weight", ("kv", "hidden")),
    (f"{L}.attention.out_lin.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.ffn.lin1.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.ffn.lin2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
HEAD: tuple[TensorRule, ...] = (
    ("pre_classifier.weight", "cls.weight", ("hidden", "hidden")),
    ("classifier.weight", "cls.output.weight", ("labels", "hidden")),
)
RELU = (
    "the classifier of DistilBERT has a ReLU where llama.cpp's graph has tanh: llama.cpp's scores are others, its "
    "embeddings are not"
)


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with its classifier where it has one. Raises PlanError with every problem of the config."""
    config = (
        Config({**values, "layer_norm_eps": EPSILON}).spelled(**SPELLINGS).with_defaults(max_position_embeddings=512)
    )
    decoder = read_bert(config, GRAPH)
    scores = classifier(config, (*HEAD, *biases(HEAD)))
    encoding = Encoding(
        fields=[Field.uint32("tokenizer.ggml.token_type_count", 1)],
        left_out=[LeftOut("", MASKED_HEAD, prefix="vocab_")],
        classifier=scores,
        notes=[RELU] if scores.labels else [],
    )
    tokens, _, positions = EMBEDDED
    return encoder_spec(decoder, (tokens, positions, *NORMS, *MATRICES, *biases(NORMS, MATRICES)), encoding)


FAMILY = Family(
    name="distilbert",
    title="DistilBERT",
    classes=("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    text=text,
    renames=(("distilbert.", ""),),
    endings=((".gamma", ".weight"), (".beta", ".bias")),
    gives={
        "DistilBertModel": EMBEDDINGS,
        "DistilBertForMaskedLM": EMBEDDINGS,
        "DistilBertForSequenceClassification": SCORES,
    },
    graphs=TASK_GRAPH,
)
