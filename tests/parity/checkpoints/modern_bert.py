from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import build
from tests.parity.checkpoints.bert import PRE
from tests.parity.encoder_words import MODERN_BERT
from tests.parity.families import Case
from tests.parity.sentences import pooled

SHARP = {"Wqkv.weight": 6, "tok_embeddings.weight": 4}
ALLOWED = {
    "tokenizer.ggml.pre": PRE,
    "modern-bert.attention.layer_norm_rms_epsilon": "upstream's converter writes norm_eps here too; none reads it",
}
ONE = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


def modern_bert(folder: Path, name: str = "ModernBertModel", **words: Any) -> Path:
    config = {
        "architectures": [name],
        "model_type": "modernbert",
        "attention_bias": False,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_pooling": "mean",
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-5,
        "local_attention": 32,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "torch_dtype": "float32",
    }
    return build(folder, MODERN_BERT, config | words, scales=SHARP)


CASES = {
    "": Case(lambda folder: pooled(modern_bert(folder), "cls"), writes=False, allowed=ALLOWED),
    "masked": Case(
        lambda folder: modern_bert(folder, "ModernBertForMaskedLM"),
        writes=False,
        no_parity="upstream's converter stops at decoder.bias",
    ),
    "reranker, SiLU": Case(
        lambda folder: modern_bert(folder, "ModernBertForSequenceClassification", hidden_activation="silu", **ONE),
        writes=False,
        allowed=ALLOWED,
    ),
    "reranker of the first token": Case(
        lambda folder: modern_bert(folder, "ModernBertForSequenceClassification", classifier_pooling="cls", **ONE),
        writes=False,
        allowed=ALLOWED,
    ),
}
