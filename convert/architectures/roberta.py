"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions are counted from behind the padding token's id.

The rows of the table before that are never read, and are not in a GGUF file, which counts from 0.
"""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _jina_bert_v3 as jina_bert_v3
from convert.architectures._config import Config
from convert.architectures._encoder import Encoding, classifier, encoder_spec
from convert.architectures._family import EMBEDDINGS, SCORES, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, skipping
from convert.architectures._rows import biases
from convert.architectures.bert import DEFAULTS, GRAPH, HEADS, ROWS, UNUSED_POOLER, read_bert
from convert.gguf_field import Field
from convert.json_types import JsonObject

HEAD: tuple[TensorRule, ...] = (
    ("classifier.dense.weight", "cls.weight", ("hidden", "hidden")),
    ("classifier.out_proj.weight", "cls.output.weight", ("labels", "hidden")),
)
PADDING = 1  # transformers' own id of the padding token


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with its classifier where it has one. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    if jina_bert_v3.is_one(config):
        return jina_bert_v3.text(values)
    before = 1 + config.size("pad_token_id", PADDING, least=0)
    decoder = read_bert(config, GRAPH)
    if decoder.context <= before:
        config.complain("max_position_embeddings", decoder.context, f"more than pad_token_id + 1, {before}")
    encoding = Encoding(
        fields=[Field.uint32("tokenizer.ggml.token_type_count", decoder.sizes["types"])],
        transforms={"positions": skipping(before)},
        left_out=(*HEADS, UNUSED_POOLER),
        classifier=classifier(config, (*HEAD, *biases(HEAD))),
    )
    return encoder_spec(replace(decoder, context=max(1, decoder.context - before)), ROWS, encoding)


FAMILY = Family(
    name="roberta",
    title="RoBERTa, XLM-RoBERTa and CamemBERT",
    classes=(
        "RobertaModel",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "XLMRobertaForSequenceClassification",
        "CamembertModel",
    ),
    text=text,
    renames=(("roberta.", ""),),
    endings=((".gamma", ".weight"), (".beta", ".bias")),
    gives={
        "RobertaModel": EMBEDDINGS,
        "RobertaForSequenceClassification": SCORES,
        "XLMRobertaModel": EMBEDDINGS,
        "XLMRobertaForSequenceClassification": SCORES,
        "CamembertModel": EMBEDDINGS,
    },
    graphs=TASK_GRAPH,
)
