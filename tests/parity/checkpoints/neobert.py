from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_weights
from tests.parity.build import Tensors, build
from tests.parity.checkpoints.bert import BERT_SIZES
from tests.parity.encoder_words import BERT
from tests.parity.families import Case

HEADS = 4
WRONG = "upstream's converter leaves q, k and v of each head together; llama.cpp's graph wants all q, then k, then v"


def as_eurobert(folder: Path) -> Path:
    """The same weights as EuroBERT's: q and k with the two values that turn together half a head apart."""
    config = {
        **BERT_SIZES,
        "architectures": ["EuroBertModel"],
        "model_type": "eurobert",
        "hidden_act": "silu",
        "head_dim": 16,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    return build(folder, BERT, config, scales={"q_proj.weight": 12, "k_proj.weight": 12, "embed_tokens.weight": 12})


def neobert(folder: Path, name: str = "NeoBERT", prefix: str = "") -> Path:
    as_eurobert(folder)
    edit_weights(folder, lambda tensors: {prefix + n: v for n, v in _as_published(tensors).items()})
    config = json.loads((folder / "config.json").read_text())
    words: dict[str, Any] = {key: config[key] for key in ("hidden_size", "vocab_size", "torch_dtype", "pad_token_id")}
    words |= {
        "architectures": [name],
        "model_type": "neobert",
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": 192,
        "hidden_act": "SwiGLU",
        "max_length": 256,
        "norm_eps": 1e-6,
        "rms_norm": True,
        "rope": True,
    }
    (folder / "config.json").write_text(json.dumps(words, indent=2))
    return folder


def _as_published(tensors: Tensors) -> Tensors:
    import torch

    made = {"encoder.weight": tensors["embed_tokens.weight"], "layer_norm.weight": tensors["norm.weight"]}
    for i in range(2):
        old, new = f"layers.{i}", f"transformer_encoder.{i}"
        q, k, v = (tensors[f"{old}.self_attn.{which}_proj.weight"].reshape(HEADS, 16, 64) for which in "qkv")
        q, k = (values.reshape(HEADS, 2, 8, 64).transpose(1, 2).reshape(HEADS, 16, 64) for values in (q, k))
        made[f"{new}.qkv.weight"] = torch.stack([q, k, v], 1).reshape(192, 64)
        made[f"{new}.wo.weight"] = tensors[f"{old}.self_attn.o_proj.weight"]
        gate, up = (tensors[f"{old}.mlp.{which}_proj.weight"] for which in ("gate", "up"))
        made[f"{new}.ffn.w12.weight"] = torch.cat([gate, up])
        made[f"{new}.ffn.w3.weight"] = tensors[f"{old}.mlp.down_proj.weight"]
        made[f"{new}.attention_norm.weight"] = tensors[f"{old}.input_layernorm.weight"]
        made[f"{new}.ffn_norm.weight"] = tensors[f"{old}.post_attention_layernorm.weight"]
    return {name: values.contiguous() for name, values in made.items()}


def with_classifier(folder: Path) -> Path:
    import torch

    neobert(folder, "NeoBERTForSequenceClassification", "model.")
    draw = torch.Generator().manual_seed(1)

    def add(tensors: Tensors) -> None:
        for name, shape in (("dense", (64, 64)), ("classifier", (3, 64))):
            tensors[f"{name}.weight"] = torch.empty(shape).normal_(0, 0.3, generator=draw)
            tensors[f"{name}.bias"] = torch.empty(shape[:1]).normal_(0, 0.3, generator=draw)

    edit_weights(folder, add)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def score(folder: Path, vectors: Any) -> Any:
    """A classifier's scores of the vectors of a text's tokens."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    first = torch.from_numpy(vectors[0])
    inner = torch.tanh(torch.nn.functional.linear(first, weights["dense.weight"], weights["dense.bias"]))
    return torch.nn.functional.linear(inner, weights["classifier.weight"], weights["classifier.bias"]).numpy()


CASES = {
    "": Case(neobert, writes=False, equal=as_eurobert, no_parity=WRONG),
    "with its masked head's name": Case(
        lambda folder: neobert(folder, "NeoBERTLMHead", "model."), writes=False, equal=as_eurobert, no_parity=WRONG
    ),
    "classifier": Case(with_classifier, writes=False, equal=as_eurobert, no_parity=WRONG, scored=score),
}
