from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fixtures_gguf import edit_weights
from tests.parity import post_norm
from tests.parity.build import Tensors, build, drawn, write
from tests.parity.checkpoints.bert import BERT_SIZES, PRE
from tests.parity.encoder_words import BERT, XLM_ROBERTA
from tests.parity.families import Case
from tests.parity.post_norm import Layer, linear
from tests.parity.sentences import pooled

SHARP = {"q_proj.weight": 8, "k_proj.weight": 8, "word_embeddings.weight": 4}
EXPERTS, USED, FFN, LAYERS = 4, 2, 96, 2
# spelled twice: by its publisher, and as the class of that model_type in transformers wants it
OWN: dict[str, Any] = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "layer_norm_eps": 1e-12,
    "max_trained_positions": 2048,
    "hidden_size": 64,
    "n_embd": 64,
    "n_head": 4,
    "num_attention_heads": 4,
    "n_layer": LAYERS,
    "num_hidden_layers": LAYERS,
    "prenorm": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_rms_norm": False,
}


def in_transformers(folder: Path) -> Path:
    config = {
        **BERT_SIZES,
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-12,
        "rope_theta": 1000.0,
        "type_vocab_size": 2,
    }
    return build(folder, BERT, config, scales=SHARP)


def nomic(folder: Path) -> Path:
    in_transformers(folder)
    edit_weights(folder, _as_published)
    words: dict[str, Any] = {
        **OWN,
        "activation_function": "swiglu",
        "intermediate_size": 128,
        "n_inner": 128,
        "n_positions": 8192,
        "max_position_embeddings": 2048,
        "vocab_size": 384,
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
    }
    (folder / "config.json").write_text(json.dumps(words, indent=2))
    return pooled(folder, "mean")


def _as_published(tensors: Tensors) -> Tensors:
    import torch

    made = {n: v for n, v in tensors.items() if n.endswith("_embeddings.weight")}
    for kind in ("weight", "bias"):
        made[f"emb_ln.{kind}"] = tensors[f"embeddings.LayerNorm.{kind}"]
    for i in range(LAYERS):
        old, new = f"layers.{i}", f"encoder.layers.{i}"
        made[f"{new}.attn.Wqkv.weight"] = torch.cat([tensors[f"{old}.self_attn.{w}_proj.weight"] for w in "qkv"])
        made[f"{new}.attn.out_proj.weight"] = tensors[f"{old}.self_attn.o_proj.weight"]
        for was, name in (("up", "fc11"), ("gate", "fc12"), ("down", "fc2")):
            made[f"{new}.mlp.{name}.weight"] = tensors[f"{old}.mlp.{was}_proj.weight"]
        for was, name in (("attention", "norm1"), ("mlp", "norm2")):
            for kind in ("weight", "bias"):
                made[f"{new}.{name}.{kind}"] = tensors[f"{old}.post_{was}_layernorm.{kind}"]
    return made


def with_experts(folder: Path) -> Path:
    words: dict[str, Any] = {
        **OWN,
        "activation_function": "gelu",
        "intermediate_size": FFN,
        "n_inner": FFN,
        "n_positions": 2048,
        "max_position_embeddings": 512,
        "moe_every_n_layers": 2,
        "moe_top_k": USED,
        "num_experts": EXPERTS,
        "type_vocab_size": 1,
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
    }
    shapes = {"embeddings.word_embeddings": (382, 64), "embeddings.token_type_embeddings": (1, 64)}
    for i in range(LAYERS):
        at = f"encoder.layers.{i}"
        shapes |= {f"{at}.attn.Wqkv": (192, 64), f"{at}.attn.out_proj": (64, 64)}
        plain = {f"{at}.mlp.fc1": (FFN, 64), f"{at}.mlp.fc2": (64, FFN)}
        shapes |= {f"{at}.mlp.router.layer": (EXPERTS, 64)} if i % 2 else plain
    norms = ["emb_ln", *(f"encoder.layers.{i}.norm{n}" for i in range(LAYERS) for n in (1, 2))]
    sharp = {"Wqkv.weight": 4, "word_embeddings.weight": 4, "router.layer.weight": 8}
    tensors = drawn(shapes, norms, lambda name: not name.endswith(("_embeddings", "router.layer")), sharp)
    for which in ("w1", "w2"):
        tensors |= drawn({f"encoder.layers.1.mlp.experts.mlp.{which}": (EXPERTS * FFN, 64)}, (), None, {}, ending="")
    tensors["encoder.layers.1.mlp.experts.bias"] = tensors["emb_ln.bias"].clone()
    return pooled(write(folder, XLM_ROBERTA, words, tensors), "mean")


def _computed(folder: Path, tokens: Sequence[int]) -> np.ndarray:
    return post_norm.vectors(folder, tokens, [_computing(i) for i in range(LAYERS)], "emb_ln", 1000.0)


def _computing(number: int) -> Layer:
    at = f"encoder.layers.{number}"

    def query(tensors: Tensors, x: Any) -> tuple[Any, Any, Any]:
        q, k, v = linear(tensors, f"{at}.attn.Wqkv", x).chunk(3, -1)
        return q, k, v

    def mlp(tensors: Tensors, x: Any) -> Any:
        if number % 2:
            return _mixed(tensors, at, x)
        return linear(tensors, f"{at}.mlp.fc2", post_norm.gelu(linear(tensors, f"{at}.mlp.fc1", x)))

    return Layer(query, f"{at}.attn.out_proj", [f"{at}.norm1", f"{at}.norm2"], mlp)


def _mixed(tensors: Tensors, at: str, x: Any) -> Any:
    """Of each token the experts with the largest chances, weighted by those as they are."""
    import torch

    shares, chosen = linear(tensors, f"{at}.mlp.router.layer", x).softmax(-1).topk(USED)
    up, down = (tensors[f"{at}.mlp.experts.mlp.{name}"].reshape(EXPERTS, FFN, 64) for name in ("w1", "w2"))
    rows = []
    for row, weights, numbers in zip(x, shares, chosen, strict=True):
        rows.append(sum(w * (post_norm.gelu(up[e] @ row) @ down[e]) for w, e in zip(weights, numbers, strict=True)))
    return torch.stack(rows)


HEAD_SIZE = "of transformers' class for the model_type, which upstream's converter reads; it is hidden / heads"
ROWS = "upstream's converter counts positions from behind the padding, though there is no table of them"
SIZED = {f"nomic-bert{kind}.attention.{which}_length": HEAD_SIZE for kind in ("", "-moe") for which in ("key", "value")}
CASES = {
    "": Case(nomic, writes=False, equal=in_transformers, allowed={"tokenizer.ggml.pre": PRE, **SIZED}),
    "experts": Case(
        with_experts, writes=False, computed=_computed, allowed={**SIZED, "nomic-bert-moe.context_length": ROWS}
    ),
}
