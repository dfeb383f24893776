from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import build
from tests.parity.checkpoints.bert import ALLOWED, LABELS
from tests.parity.encoder_words import BERT
from tests.parity.families import Case

SHARP = {"q_lin.weight": 12, "k_lin.weight": 12, "word_embeddings.weight": 4, "position_embeddings.weight": 8}


def distilbert(folder: Path, name: str = "DistilBertModel", **words: Any) -> Path:
    config = {
        "architectures": [name],
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": 64,
        "hidden_dim": 128,
        "n_heads": 4,
        "n_layers": 2,
        "max_position_embeddings": 256,
        "sinusoidal_pos_embds": False,
        "torch_dtype": "float32",
    }
    return build(folder, BERT, config | words, scales=SHARP)


CASES = {
    "": Case(distilbert, writes=False, allowed=ALLOWED),
    "masked": Case(lambda folder: distilbert(folder, "DistilBertForMaskedLM"), writes=False, allowed=ALLOWED),
    "classifier": Case(
        lambda folder: distilbert(folder, "DistilBertForSequenceClassification", **LABELS),
        writes=False,
        allowed=ALLOWED,
        no_scores="llama.cpp's graph has tanh where DistilBERT's classifier has a ReLU",
    ),
}
