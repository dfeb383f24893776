from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import LLAMA3_ROPE
from tests.parity.build import QWEN, as_llama, published, renamed
from tests.parity.families import Case

RENAMES = (
    ("model.layers.", "transformer.h."),
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "transformer.ln_f"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("self_attn.o_proj", "attn.attention.out_proj"),
    ("self_attn", "attn.attention"),
    ("mlp.gate_proj", "mlp.c_fc_0"),
    ("mlp.up_proj", "mlp.c_fc_1"),
    ("mlp.down_proj", "mlp.c_proj"),
)


def equal(folder: Path, **words: Any) -> Path:
    return as_llama(folder, QWEN, **{"rope_scaling": LLAMA3_ROPE, "head_dim": 16} | words)


def exaone(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["ExaoneForCausalLM"],
        "model_type": "exaone",
        "activation_function": "silu",
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_layers": 2,
        "rope_scaling": LLAMA3_ROPE,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(equal(folder, **words), config | words, renamed(*RENAMES))


ALLOWED = {
    "exaone.attention.layer_norm_epsilon": "upstream takes the config at its word; llama.cpp wants the RMS norm's",
    "exaone.attention.layer_norm_rms_epsilon": "upstream takes the config at its word; llama.cpp wants the RMS norm's",
}
TIED = {"rope_scaling": None, "tie_word_embeddings": True}
CASES = {
    "": Case(exaone, equal=equal, allowed=ALLOWED),
    "tied": Case(lambda folder: exaone(folder, **TIED), equal=lambda folder: equal(folder, **TIED), allowed=ALLOWED),
}
