from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build, published
from tests.parity.families import Case


def falcon(folder: Path, **words: Any) -> Path:
    """As Falcon 7B: one key and value for all queries."""
    config = {
        **{key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "intermediate_size")},
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "max_position_embeddings": 2048,
        "alibi": False,
        "bias": False,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
        "new_decoder_architecture": False,
        "parallel_attn": True,
        "num_kv_heads": 1,
        "rope_theta": 10000.0,
    }
    scales = {"query_key_value.weight": 6, "word_embeddings.weight": 12}
    return build(folder, QWEN, config | words, scales=scales)


def new(folder: Path, **words: Any) -> Path:
    """As Falcon 40B: groups of queries, two norms."""
    return falcon(folder, **{"new_decoder_architecture": True, "num_kv_heads": 2} | words)


def first(folder: Path, large: bool = False) -> Path:
    """As the first files, with the class of the code that came with them."""
    config = {
        "architectures": ["RWForCausalLM"],
        "model_type": "RefinedWeb" if large else "RefinedWebModel",
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "bias": False,
        "hidden_size": 64,
        "layer_norm_epsilon": 1e-5,
        "n_head": 4,
        "n_layer": 2,
        **({"n_head_kv": 2} if large else {"multi_query": True}),
        "parallel_attn": True,
    }
    return published((new if large else falcon)(folder), config)


CASES = {
    "": Case(falcon),
    "40B": Case(new),
    "11B, one norm": Case(lambda folder: new(folder, num_ln_in_parallel_attn=1, tie_word_embeddings=False)),
    "the first files": Case(first, equal=falcon),
    "the first files of the 40B": Case(lambda folder: first(folder, large=True), equal=new),
    "number of keys unsaid": Case(
        lambda folder: falcon(folder, num_kv_heads=None),
        no_parity="upstream's converter reads num_kv_heads, which transformers makes the number of heads",
    ),
    "a key for each query": Case(lambda folder: falcon(folder, multi_query=False, num_kv_heads=4)),
}
