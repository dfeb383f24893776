from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, Layout, Tensors, build, published
from tests.parity.families import Case

NO_MODEL = "transformers has no model with slopes on its scores and a gate in its MLP: its bytes are the proof"
LAZY = "upstream's converter reads the slopes only with --no-lazy; its file is then that of the plain case"


def with_gate(tensors: Tensors) -> Tensors:
    """A gate beside each MLP, no positions, a head."""
    made = {name: values for name, values in tensors.items() if name != "transformer.wpe.weight"}
    for name in [name for name in made if ".c_fc." in name]:
        made[name.replace("c_fc", "c_fc2")] = made[name].flip(-1)
    made["lm_head.weight"] = made["transformer.wte.weight"].flip(0).clone()
    return made


def with_slopes(tensors: Tensors) -> Tensors:
    import torch

    return {**with_gate(tensors), "transformer.relative_pe.slopes": torch.tensor([0.25, 0.0625, 0.015625, 0.00390625])}


def jais(folder: Path, layout: Layout = with_gate) -> Path:
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "torch_dtype": "bfloat16",
        "n_embd": 64,
        "n_head": 4,
        "n_inner": 160,
        "n_layer": 2,
        "n_positions": 512,
    }
    published_config = {
        **config,
        "architectures": ["JAISLMHeadModel"],
        "model_type": "jais",
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-5,
        "mup_embeddings_scale": 9.1705785388303,
        "mup_output_alpha": 1.09518349815769,
        "mup_scale_qk_dot_by_d": True,
        "mup_width_scale": 0.125,
        "position_embedding_type": "alibi",
    }
    return published(build(folder, QWEN, config), published_config, layout)


CASES = {
    "": Case(jais, no_logits=NO_MODEL),
    "slopes beside": Case(lambda folder: jais(folder, with_slopes), no_logits=NO_MODEL, no_parity=LAZY),
}
