from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, build, same
from tests.parity.families import Case


def starcoder(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "activation_function": "gelu",
        "attention_softmax_in_fp32": True,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
        "n_embd": 64,
        "n_head": 4,
        "n_inner": 256,
        "n_layer": 2,
        "n_positions": 512,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
    }
    scales = {"c_attn.weight": 8, "wpe.weight": 8}
    return build(folder, QWEN, config | words, hub=same, scales=scales)


CASES = {
    "": Case(starcoder),
    "untied, width unsaid": Case(
        lambda folder: starcoder(
            folder, activation_function="gelu_pytorch_tanh", n_inner=None, tie_word_embeddings=False
        )
    ),
    "a key for each query": Case(
        lambda folder: starcoder(folder, multi_query=False),
        no_parity="upstream's converter says one key and value for all queries, always",
    ),
}
