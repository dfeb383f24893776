"""Jina embeddings v3 as published: RoBERTa's class by name, its publisher's tensors, low-rank adapters beside each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_weights
from tests.parity.build import Tensors, build
from tests.parity.checkpoints.bert import BERT_SIZES
from tests.parity.encoder_words import XLM_ROBERTA
from tests.parity.sentences import pooled

SHARP = {"q_proj.weight": 8, "k_proj.weight": 8, "word_embeddings.weight": 4}
TASKS, RANK = ("retrieval.query", "text-matching"), 4


def in_transformers(folder: Path) -> Path:
    config = {
        **BERT_SIZES,
        "architectures": ["JinaEmbeddingsV3Model"],
        "model_type": "jina_embeddings_v3",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 258,
        "rope_theta": 20000.0,
        "type_vocab_size": 1,
    }
    return build(folder, XLM_ROBERTA, config, scales=SHARP)


def jina_v3(folder: Path) -> Path:
    in_transformers(folder)
    edit_weights(folder, _as_published)
    words: dict[str, Any] = json.loads((folder / "config.json").read_text())
    words |= {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "lora_adaptations": list(TASKS),
        "lora_alpha": 1,
        "lora_rank": RANK,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 20000.0,
    }
    del words["rope_theta"]
    (folder / "config.json").write_text(json.dumps(words, indent=2))
    return pooled(folder, "mean")


def _as_published(tensors: Tensors) -> Tensors:
    import torch

    made: Tensors = {}

    def adapted(name: str, values: Any) -> None:
        made[f"{name}.parametrizations.weight.original"] = values
        made[f"{name}.parametrizations.weight.0.lora_A"] = torch.full((len(TASKS), RANK, values.shape[1]), 0.01)
        made[f"{name}.parametrizations.weight.0.lora_B"] = torch.full((len(TASKS), values.shape[0], RANK), 0.01)

    for name in ("word_embeddings", "token_type_embeddings"):
        adapted(f"roberta.embeddings.{name}", tensors[f"embeddings.{name}.weight"])
    for kind in ("weight", "bias"):
        made[f"roberta.emb_ln.{kind}"] = tensors[f"embeddings.LayerNorm.{kind}"]
    for i in range(2):
        old, new = f"layers.{i}", f"roberta.encoder.layers.{i}"
        fused = {k: torch.cat([tensors[f"{old}.self_attn.{w}_proj.{k}"] for w in "qkv"]) for k in ("weight", "bias")}
        adapted(f"{new}.mixer.Wqkv", fused["weight"])
        made[f"{new}.mixer.Wqkv.bias"] = fused["bias"]
        for was, name in (("self_attn.o_proj", "mixer.out_proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            adapted(f"{new}.{name}", tensors[f"{old}.{was}.weight"])
            made[f"{new}.{name}.bias"] = tensors[f"{old}.{was}.bias"]
        for was, name in (("attention", "norm1"), ("mlp", "norm2")):
            for kind in ("weight", "bias"):
                made[f"{new}.{name}.{kind}"] = tensors[f"{old}.post_{was}_layernorm.{kind}"]
    adapted("roberta.pooler.dense", tensors["pooler.dense.weight"])
    made["roberta.pooler.dense.bias"] = tensors["pooler.dense.bias"]
    return {name: values.contiguous() for name, values in made.items()}
