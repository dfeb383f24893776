from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Tensors, as_llama, published
from tests.parity.families import Case

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 32}


def equal(folder: Path, **words: Any) -> Path:
    return as_llama(folder, **SIZES | words, num_key_value_heads=4)


def slopes(model: Any) -> None:
    """The 13B turns nothing; scores fall with the distance, by 2 ** -2 a token in the first of 4 heads, 2 ** -4 …"""
    import torch

    def lean(module: Any, arguments: Any, words: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cos, sin = words["position_embeddings"]
        places = torch.arange(cos.shape[1])
        distance = (places[:, None] - places).float()
        mask = -distance * 2.0 ** (-2.0 * torch.arange(1, 5)[:, None, None])
        mask = mask.masked_fill(distance < 0, float("-inf"))[None]
        return arguments, words | {"position_embeddings": (cos * 0 + 1, sin * 0), "attention_mask": mask}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lean, with_kwargs=True)


def of_2(folder: Path) -> Path:
    """The head as it is after Baichuan 2 has used it once."""
    import torch

    from tests.fixtures_gguf import edit_weights

    def normalize(tensors: Tensors) -> None:
        head = tensors["lm_head.weight"].float()
        tensors["lm_head.weight"] = torch.nn.functional.normalize(head)

    edit_weights(equal(folder), normalize)
    return folder


def baichuan(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "model_max_length": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    config = {key: value for key, value in (config | words).items() if value is not None}
    return published(as_llama(folder, **SIZES | _sizes(words), num_key_value_heads=4), config, packed)


def _sizes(words: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in words.items() if key in SIZES}


def packed(tensors: Tensors) -> Tensors:
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv"]
        tensors[name.replace("q_proj", "W_pack")] = torch.cat(parts)
    return tensors


NO_PARITY = "upstream's converter calls itself without end for a tensor whose name it knows"
CASES = {
    "": Case(lambda folder: baichuan(folder, architectures=["BaiChuanForCausalLM"]), equal=equal, no_parity=NO_PARITY),
    "13B": Case(
        lambda folder: baichuan(folder, num_hidden_layers=40, max_position_embeddings=None),
        equal=lambda folder: equal(folder, num_hidden_layers=40),
        as_source=slopes,
        no_parity=NO_PARITY,
    ),
    "2": Case(
        lambda folder: baichuan(folder, z_loss_weight=0),
        equal=of_2,
        no_parity="upstream leaves the head as it is, which Baichuan 2's code divides by the lengths of its rows",
    ),
}
