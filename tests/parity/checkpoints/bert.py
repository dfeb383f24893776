from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity.build import Hub, Tensors, build, same
from tests.parity.encoder_words import BERT
from tests.parity.families import Case
from tests.parity.sentences import pooled

SHARP = {"query.weight": 12, "key.weight": 12, "word_embeddings.weight": 4, "position_embeddings.weight": 8}
PRE = "the converter knows a tokenizer by a hash, and calls this one's pieces by another name that llama.cpp ignores"
POOLER = "transformers scores what the pooler makes of the first token; upstream's converter leaves the pooler out"
ALLOWED = {"tokenizer.ggml.pre": PRE}
SCORED = {**ALLOWED, "general.size_label": POOLER, "tensor cls.weight": POOLER, "tensor cls.bias": POOLER}
BERT_SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
    "hidden_act": "gelu",
}


def bert(folder: Path, name: str = "BertModel", hub: Hub = same, **words: Any) -> Path:
    config = {
        **BERT_SIZES,
        "architectures": [name],
        "model_type": "bert",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
    }
    return build(folder, BERT, config | words, hub=hub, scales=SHARP)


def as_published(name: str, values: Any) -> Tensors:
    """Made of TensorFlow's, as Google's own: norms have a gamma and a beta."""
    if ".LayerNorm." in name:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return {name: values}


LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
THREE = {
    "id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"},
    "label2id": {"contradiction": 0, "entailment": 1, "neutral": 2},
}
CASES = {
    "": Case(bert, writes=False, allowed=ALLOWED),
    "mean of the tokens": Case(lambda folder: pooled(bert(folder), "mean"), writes=False, allowed=ALLOWED),
    "first token": Case(lambda folder: pooled(bert(folder), "cls"), writes=False, allowed=ALLOWED),
    "masked, as Google published it": Case(
        lambda folder: bert(folder, "BertForMaskedLM", as_published), writes=False, allowed=ALLOWED
    ),
    "reranker": Case(
        lambda folder: bert(folder, "BertForSequenceClassification", **LABELS), writes=False, allowed=SCORED
    ),
    "three labels": Case(
        lambda folder: bert(folder, "BertForSequenceClassification", **THREE), writes=False, allowed=SCORED
    ),
}
