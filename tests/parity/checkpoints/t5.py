from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_config, edit_weights
from tests.parity.build import Tensors, build
from tests.parity.encoder_words import T5, t5_model
from tests.parity.families import Case
from tests.parity.sentences import pooled

SHARP = {"SelfAttention.q.weight": 4, "SelfAttention.k.weight": 4, "EncDecAttention.q.weight": 4} | {
    "EncDecAttention.k.weight": 4,
    "relative_attention_bias.weight": 20,
    "shared.weight": 10,
}
HEADS, HEAD = 4, 24  # together not the model's width


def t5(folder: Path, name: str = "T5ForConditionalGeneration", kind: str = "t5", **words: Any) -> Path:
    config = {
        "architectures": [name],
        "model_type": kind,
        "d_ff": 128,
        "d_kv": HEAD,
        "d_model": 64,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-6,
        "num_decoder_layers": 2,
        "num_heads": HEADS,
        "num_layers": 3,
        "n_positions": 512,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    build(folder, T5, config | words, scales=SHARP)
    (folder / "spiece.model").write_bytes(t5_model())
    if not (config | words)["tie_word_embeddings"] and name.endswith("Generation"):
        edit_weights(folder, _with_head)
    return folder


def _with_head(tensors: Tensors) -> None:
    import torch

    draw = torch.Generator().manual_seed(2)
    tensors["lm_head.weight"] = torch.empty(tensors["shared.weight"].shape).normal_(0, 0.1, generator=draw)


def renamed(folder: Path) -> Path:
    edit_config(t5(folder, tie_word_embeddings=True, feed_forward_proj="relu"), architectures=["T5WithLMHeadModel"])
    return folder


def undivided(model: Any) -> None:
    """As transformers 4, and who trained it: 5 takes every UMT5 for tied, and divides by the root of its width."""
    model.config.tie_word_embeddings = False


DIVIDED = "transformers divides what the decoder gives by the root of its width, which llama.cpp's graph does not"
SMALLER = {"tensor dec.output_norm.weight": DIVIDED}
CASES = {
    "": Case(t5, writes=False),
    "first version": Case(
        lambda folder: t5(folder, tie_word_embeddings=True, feed_forward_proj="relu"), writes=False, allowed=SMALLER
    ),
    "under its old name": Case(renamed, writes=False, allowed=SMALLER),
    "mT5": Case(lambda folder: t5(folder, "MT5ForConditionalGeneration", "mt5"), writes=False),
    "UMT5": Case(
        lambda folder: t5(folder, "UMT5ForConditionalGeneration", "umt5"), writes=False, as_llama_cpp_sees=undivided
    ),
    "UMT5 without a head": Case(lambda folder: t5(folder, "UMT5Model", "umt5"), writes=False),
    "encoder alone": Case(lambda folder: pooled(t5(folder, "T5EncoderModel"), "mean"), writes=False),
}
