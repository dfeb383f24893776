from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, Tensors, build, published, renamed
from tests.parity.families import Case


def as_starcoder2(folder: Path) -> Path:
    """The same layers, q, k and v apart."""
    config = {
        **SIZES,
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 256,
        "norm_epsilon": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_bias": True,
    }
    return build(folder, QWEN, config, scales={**SHARP, "_proj.bias": 4, "c_fc.bias": 4})


def together(tensors: Tensors) -> Tensors:
    """q, k and v in one matrix, by the names of WisdomShell."""
    import torch

    made = dict(tensors)
    for kind in ("weight", "bias"):
        for layer in range(SIZES["num_hidden_layers"]):
            start = f"model.layers.{layer}.self_attn"
            parts = [made.pop(f"{start}.{one}_proj.{kind}") for one in "qkv"]
            made[f"{start}.c_attn.{kind}"] = torch.cat(parts)
    names = (("model.layers", "transformer.h"), ("self_attn.o_proj", "attn.c_proj"), ("self_attn", "attn"))
    norms = (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2"), ("model.norm", "transformer.ln_f"))
    return renamed(*names, *norms, ("model.embed_tokens", "transformer.wte"))(made)


def codeshell(folder: Path) -> Path:
    config = {
        "architectures": ["CodeShellForCausalLM"],
        "model_type": "codeshell",
        "activation_function": "gelu_pytorch_tanh",
        "group_query_attention": True,
        "layer_norm_epsilon": 1e-5,
        "n_embd": 64,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 512,
        "num_query_groups": 2,
        "position_embedding_type": "rope",
        "rope_scaling": None,
    }
    return published(as_starcoder2(folder), config, together)


CASES = {"": Case(codeshell, equal=as_starcoder2)}
