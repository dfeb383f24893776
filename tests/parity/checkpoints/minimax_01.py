from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.fixtures_gguf import edit_weights
from tests.parity.build import QWEN, SIZES, Tensors, build, published
from tests.parity.experts import MIXTRAL, SCALES, renamed
from tests.parity.families import Case

HUB = renamed(tiny.hub_tensors, (".mlp.", ".block_sparse_moe."), *MIXTRAL.items())
NUMBERS: dict[str, Any] = {
    **SIZES,
    "hidden_act": "silu",
    "head_dim": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000000,
    "tie_word_embeddings": False,
}
ALPHA = 3.5565588200778455
CONFIG = {
    **NUMBERS,
    "architectures": ["MiniMaxText01ForCausalLM"],
    "model_type": "minimax_text_01",
    "attn_type_list": [0, 1, 0],
    "layernorm_full_attention_alpha": ALPHA,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": ALPHA,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": ALPHA,
    "layernorm_mlp_beta": 1.0,
    "postnorm": True,
    "rotary_dim": 24,
    "shared_intermediate_size": 0,
}


def equal(folder: Path) -> Path:
    """In transformers' own layout of it."""
    config = {
        **NUMBERS,
        "architectures": ["MiniMaxForCausalLM"],
        "model_type": "minimax",
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "full_attn_alpha_factor": ALPHA,
        "linear_attn_alpha_factor": ALPHA,
        "mlp_alpha_factor": ALPHA,
    }
    scales = {**SCALES, "qkv_proj.weight": 4, "output_gate.weight": 8}
    build(folder, QWEN, config, hub=HUB, scales=scales)
    edit_weights(folder, lambda tensors: tensors | decays(folder))
    return folder


def decays(folder: Path) -> Tensors:
    """What transformers computes from the config, and wants in the checkpoint all the same."""
    import transformers

    model = transformers.MiniMaxForCausalLM(transformers.AutoConfig.from_pretrained(folder))
    return {
        name: values.contiguous()
        for name, values in model.state_dict().items()
        if name.endswith(("decay", "slope_rate"))
    }


def as_published(tensors: Tensors) -> Tensors:
    return {name: values for name, values in tensors.items() if not name.endswith(("decay", "slope_rate"))}


OTHERWISE = {
    "minimax-01.attention.recurrent_layers": "stated, where it is not that each eighth layer is another",
    "tokenizer.chat_template": "upstream gives a template to a model that has none",
}
CASES = {"": Case(lambda folder: published(equal(folder), CONFIG, as_published), equal=equal, allowed=OTHERWISE)}
