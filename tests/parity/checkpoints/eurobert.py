from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Hub, build, same
from tests.parity.families import Case
from tests.parity.sentences import pooled


def eurobert(folder: Path, name: str = "EuroBertModel", hub: Hub = same, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": [name],
        "model_type": "eurobert",
        "hidden_act": "silu",
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 250000.0,
        "torch_dtype": "float32",
        "classifier_pooling": "mean",  # without it upstream's converter stops at transformers' default, late
    }
    return build(folder, QWEN, config | words, hub=hub)


def jina_v5(folder: Path) -> Path:
    """The same model under its publisher's name for the class."""
    from tests.fixtures_gguf import edit_config

    edit_config(eurobert(folder), architectures=["JinaEmbeddingsV5Model"])
    return pooled(folder, "last")


ALLOWED = {
    "tokenizer.ggml.add_bos_token": "upstream's converter puts no token in front, whatever the tokenizer says",
    "eurobert.classifier.pooling_type": "of a classifier, which the file does not have",
}
CASES = {
    "": Case(lambda folder: pooled(eurobert(folder), "mean"), writes=False, allowed=ALLOWED),
    "masked": Case(
        lambda folder: eurobert(folder, "EuroBertForMaskedLM"),
        writes=False,
        no_parity="upstream's converter does not know the class",
    ),
    "Jina v5": Case(jina_v5, writes=False, allowed=ALLOWED, equal=eurobert),
}
