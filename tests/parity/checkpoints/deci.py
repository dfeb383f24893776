from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build, published
from tests.parity.families import Case
from tests.parity.layouts import edited, of_layer

HEAD, WIDTH = 16, 512
NO_LINEAR = (
    "transformers has no model with a matrix in place of attention; the other layers are those of the plain case"
)


def as_llama(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }
    words = {"num_hidden_layers": 4, "intermediate_size": WIDTH, **words}
    return edited(build(folder, LLAMA, config | words, scales=SHARP), one_is_heard)


def one_is_heard(tensors: Tensors) -> None:
    """The first layer has one head of keys and half the width, the second no attention, the third nothing."""
    first, second, third = (of_layer(tensors, i) for i in range(3))
    same_heads(first)
    first["mlp.down_proj.weight"][:, WIDTH // 2 :] = 0
    second["self_attn.o_proj.weight"][:] = 0
    third["self_attn.o_proj.weight"][:] = 0
    third["mlp.down_proj.weight"][:] = 0


def same_heads(layer: Tensors) -> None:
    for name in ("k_proj", "v_proj"):
        layer[f"self_attn.{name}.weight"][HEAD:] = layer[f"self_attn.{name}.weight"][:HEAD].clone()


def without(tensors: Tensors) -> Tensors:
    """The tensors without those that do nothing."""
    gone = ("model.layers.1.self_attn.", "model.layers.1.input", "model.layers.2.")
    return {name: cut(name, values) for name, values in tensors.items() if not name.startswith(gone)}


def cut(name: str, values: Any) -> Any:
    if name.startswith("model.layers.0.mlp."):
        return values[:, : WIDTH // 2] if "down" in name else values[: WIDTH // 2]
    keys = name.startswith("model.layers.0.self_attn.") and ("k_proj" in name or "v_proj" in name)
    return values[:HEAD] if keys else values


def block(group: int | None, factor: float | None, linear: bool = False) -> dict[str, Any]:
    attention = {"n_heads_in_group": group, "no_op": group is None and not linear, "replace_with_linear": linear}
    return {"attention": attention, "ffn": {"ffn_mult": factor, "no_op": factor is None, "replace_with_linear": False}}


BLOCKS = [block(4, 5.0), block(None, 10.5), block(None, None), block(2, 12.0)]  # 2/3 x 64 x 5, up to 256


def deci(folder: Path) -> Path:
    config = json.loads((as_llama(folder) / "config.json").read_text())
    for key in ("intermediate_size", "num_key_value_heads"):
        config[key] = None
    config |= {"architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas", "block_configs": BLOCKS}
    return published(folder, config, without)


def linear(folder: Path) -> Path:
    """As 51B: a matrix in place of attention."""
    deci(folder)
    config = json.loads((folder / "config.json").read_text())
    config["block_configs"] = [BLOCKS[0], block(None, 10.5, True), *BLOCKS[2:]]

    def with_matrix(tensors: Tensors) -> Tensors:
        norm, matrix = (
            tensors["model.layers.3.input_layernorm.weight"],
            tensors["model.layers.3.self_attn.o_proj.weight"],
        )
        more = {"input_layernorm.weight": norm * 2, "self_attn.linear_attn.weight": matrix * 2}
        return tensors | {f"model.layers.1.{name}": values for name, values in more.items()}

    return published(folder, config, with_matrix)


def as_small_llama(folder: Path) -> Path:
    """Two layers, of which the first has one head of keys."""
    config = {"num_hidden_layers": 2, "intermediate_size": 128}
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5}
    config |= {"rope_theta": 10000.0, "tie_word_embeddings": False}
    folder = build(folder, LLAMA, {**SIZES, **config}, scales=SHARP)
    return edited(folder, lambda tensors: same_heads(of_layer(tensors, 0)))


def seven(folder: Path) -> Path:
    """DeciLM 7B, whose layers differ only in their heads."""
    config = json.loads((as_small_llama(folder) / "config.json").read_text())
    del config["num_key_value_heads"]
    config |= {"architectures": ["DeciLMForCausalLM"], "model_type": "deci", "num_key_value_heads_per_layer": [1, 2]}
    heads = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight")
    return published(
        folder, config, lambda tensors: {name: t[:HEAD] if name in heads else t for name, t in tensors.items()}
    )


CASES = {
    "": Case(deci, equal=as_llama),
    "a matrix in place of attention": Case(linear, no_logits=NO_LINEAR),
    "7B": Case(seven, equal=as_small_llama),
}
