from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, Hub, Tensors, build, same
from tests.parity.families import Case
from tests.parity.layouts import inside

LAYERS, OWN_KV, SPARSE = 22, 20, 10  # the last two take keys and values of the two before, with a window and without
SLIDING, FULL = "sliding_attention", "full_attention"
SCALES = {
    "q_norm.weight": 0.5,
    "embed_tokens_per_layer.weight": 4,
    "modality_router.weight": 50,
    "prediction_coefs.weight": 2,
    "correction_coefs.weight": 2,
    "post_feedforward_layernorm.weight": 0.1,  # so many layers would amplify what is rounded otherwise
    "post_attention_layernorm.weight": 0.4,
    "post_per_layer_input_norm.weight": 0.2,
}
NO_KEYS = "llama.cpp does not load upstream's file: it asks for keys and values in all layers, ours has zeros there"


def gemma3n(folder: Path, hub: Hub | None = None, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Gemma3nForCausalLM"],
        "model_type": "gemma3n_text",
        "num_hidden_layers": LAYERS,
        "intermediate_size": [1024] * LAYERS,
        "head_dim": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 320,
        "activation_sparsity_pattern": [0.95] * SPARSE + [0.0] * (LAYERS - SPARSE),
        "altup_active_idx": 0,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_num_inputs": 4,
        "laurel_rank": 64,
        "num_kv_shared_layers": LAYERS - OWN_KV,
        "layer_types": [FULL if layer % 2 else SLIDING for layer in range(LAYERS)],
        "sliding_window": 24,
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
    }
    return build(folder, LLAMA, config | words, hub=hub or with_keys, scales=SCALES)


def with_keys(name: str, values: Any) -> Tensors:
    """On the hub layers that take keys and values from others have their own too, which nothing uses."""
    import torch

    layer = name.partition("layers.")[2].partition(".")[0]
    tensors = same(name, values)
    if name.endswith("self_attn.q_norm.weight") and int(layer) >= OWN_KV:
        generator = torch.Generator().manual_seed(int(layer))
        for kind, shape in (("k_proj", (48, 64)), ("v_proj", (48, 64)), ("k_norm", (24,))):
            drawn = torch.empty(shape).normal_(0.0, 0.05, generator=generator).to(values.dtype)
            tensors[name.replace("q_norm", kind)] = drawn
    return tensors


def with_towers(folder: Path) -> Path:
    """The text of a model with towers."""
    names = (("model.", "model.language_model."),)
    return inside(gemma3n(folder), "Gemma3nForConditionalGeneration", "gemma3n", names, "model.vision_tower.one.weight")


CASES = {
    "": Case(gemma3n),
    "saved again": Case(lambda folder: gemma3n(folder, hub=same, vocab_size_per_layer_input=384), no_parity=NO_KEYS),
    "inside a model with towers": Case(with_towers, equal=gemma3n),
}
