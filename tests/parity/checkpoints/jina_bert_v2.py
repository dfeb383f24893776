from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity import post_norm
from tests.parity.build import Tensors, Words, drawn, write
from tests.parity.checkpoints.bert import PRE
from tests.parity.encoder_words import BERT, ROBERTA
from tests.parity.families import Case
from tests.parity.post_norm import Layer, linear, norm
from tests.parity.sentences import pooled

LAYERS = 2
SHARP = {"query.weight": 8, "key.weight": 8, "word_embeddings.weight": 4}
CODE = {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}


def jina(folder: Path, name: str, words: Words, code: bool = False) -> Path:
    config = {
        "architectures": [name],
        "model_type": "bert",
        "emb_pooler": "mean",
        "feed_forward_type": "geglu",
        "hidden_act": "gelu",
        "hidden_size": 64,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "type_vocab_size": 2,
        **({"auto_map": CODE} if code else {}),
    }
    shapes = {"embeddings.word_embeddings": (words.vocab, 64), "embeddings.token_type_embeddings": (2, 64)}
    shapes |= {name: shape for i in range(LAYERS) for name, shape in _layer(f"encoder.layer.{i}", code).items()}
    return write(folder, words, config, drawn(shapes, ("embeddings.LayerNorm", *_norms(code)), _biased, SHARP))


def _layer(at: str, code: bool) -> dict[str, tuple[int, int]]:
    square = {f"{at}.attention.{which}": (64, 64) for which in ("self.query", "self.key", "self.value", "output.dense")}
    up, down = ("up_gated_layer", "down_layer") if code else ("gated_layers", "wo")
    return {**square, f"{at}.mlp.{up}": (256, 64), f"{at}.mlp.{down}": (64, 128)}


def _norms(code: bool) -> list[str]:
    last = ("layer_norm_1", "layer_norm_2", "attention.self.layer_norm_q", "attention.self.layer_norm_k")
    names = ("attention.output.LayerNorm", *(last if code else ("mlp.layernorm",)))
    return [f"encoder.layer.{i}.{name}" for i in range(LAYERS) for name in names]


def _biased(name: str) -> bool:
    return not name.endswith(("_embeddings", "gated_layers", "up_gated_layer"))


def _computed(folder: Path, tokens: Sequence[int]) -> np.ndarray:
    code = "auto_map" in json.loads((folder / "config.json").read_text())
    return post_norm.vectors(folder, tokens, [_computing(i, code) for i in range(LAYERS)], "embeddings.LayerNorm")


def _computing(number: int, code: bool) -> Layer:
    at = f"encoder.layer.{number}"
    up, down = ("up_gated_layer", "down_layer") if code else ("gated_layers", "wo")

    def query(tensors: Tensors, x: Any) -> tuple[Any, Any, Any]:
        q, k, v = (linear(tensors, f"{at}.attention.self.{name}", x) for name in ("query", "key", "value"))
        if code:
            q, k = (norm(tensors, f"{at}.attention.self.layer_norm_{n}", part) for n, part in (("q", q), ("k", k)))
        return q, k, v

    def mlp(tensors: Tensors, x: Any) -> Any:
        gated, plain = linear(tensors, f"{at}.mlp.{up}", x).chunk(2, -1)
        return linear(tensors, f"{at}.mlp.{down}", post_norm.gelu(gated) * plain)

    own = ("layer_norm_1", "layer_norm_2") if code else ("mlp.layernorm",)
    norms = [f"{at}.{name}" for name in ("attention.output.LayerNorm", *own)]
    return Layer(query, f"{at}.attention.output.dense", norms, mlp)


CASES = {
    "": Case(
        lambda folder: pooled(jina(folder, "JinaBertModel", BERT), "mean"),
        writes=False,
        computed=_computed,
        allowed={"tokenizer.ggml.pre": PRE},
    ),
    "for code": Case(
        lambda folder: pooled(jina(folder, "JinaBertForMaskedLM", ROBERTA, code=True), "mean"),
        writes=False,
        computed=_computed,
        allowed={"tokenizer.ggml.pre": PRE},
    ),
}
