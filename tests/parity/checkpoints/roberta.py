from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Words, build
from tests.parity.checkpoints.bert import BERT_SIZES, PRE, SHARP
from tests.parity.encoder_words import ROBERTA, XLM_ROBERTA
from tests.parity.families import Case
from tests.parity.jina_v3 import in_transformers, jina_v3
from tests.parity.sentences import pooled

ONE = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
UNSPACED = "upstream's converter asks transformers' class, which says none of the two whatever tokenizer.json says"


def roberta(folder: Path, name: str = "RobertaModel", words: Words = ROBERTA, **more: Any) -> Path:
    config = {
        **BERT_SIZES,
        "architectures": [name],
        "model_type": "roberta",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 258,
        "type_vocab_size": 1,
    }
    return build(folder, words, config | more, scales=SHARP)


def xlm_roberta(folder: Path, name: str = "XLMRobertaModel", **more: Any) -> Path:
    return roberta(folder, name, XLM_ROBERTA, **{"model_type": "xlm-roberta", **more})


CASES = {
    "": Case(lambda folder: pooled(xlm_roberta(folder), "cls"), writes=False),
    "RoBERTa": Case(lambda folder: pooled(roberta(folder), "mean"), writes=False, allowed={"tokenizer.ggml.pre": PRE}),
    "RoBERTa, reranker": Case(
        lambda folder: roberta(folder, "RobertaForSequenceClassification", **ONE),
        writes=False,
        allowed={"tokenizer.ggml.pre": PRE},
    ),
    "XLM-RoBERTa, reranker": Case(
        lambda folder: xlm_roberta(folder, "XLMRobertaForSequenceClassification", **ONE), writes=False
    ),
    "Jina v3": Case(jina_v3, writes=False, equal=in_transformers),
    "CamemBERT": Case(
        lambda folder: xlm_roberta(folder, "CamembertModel", model_type="camembert"),
        writes=False,
        no_parity="upstream's converter counts CamemBERT's positions from 0, transformers from behind the padding",
    ),
}
