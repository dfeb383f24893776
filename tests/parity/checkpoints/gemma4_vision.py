from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Tensors, build, with_last_tokens
from tests.parity.checkpoints.gemma4 import SCALES, WORDS, scaled, text
from tests.parity.families import Case
from tests.parity.seeing import with_processor

SEEING = with_last_tokens(WORDS, "<|image>", "<image|>", "<|image|>")
PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": False,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.0, 0.0, 0.0],
    "image_processor_type": "Gemma4ImageProcessor",
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": 70,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "processor_class": "Gemma4Processor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
VISION = {
    "head_dim": 24,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 48,
    "intermediate_size": 100,
    "model_type": "gemma4_vision",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 40,
    "rms_norm_eps": 1e-6,
    "standardize": False,
    "use_clipped_linears": False,
}
TOWER = {
    "input_proj.weight": 4,
    "position_embedding_table": 6,
    "proj.linear.weight": 4,
    "embedding_projection.weight": 2,
}


def of_text(name: str, values: Any) -> Tensors:
    """The text's layers have scales of what comes out of them, the tower's none."""
    return scaled(name, values) if "language_model" in name else {name: values}


def with_bounds(name: str, values: Any) -> Tensors:
    """What linear layers of a tower clip to is no parameter in transformers, nor is what standardizes its tokens."""
    import torch

    made = of_text(name, values)
    bounds = {"input_min": -1.5, "input_max": 1.25, "output_min": -2.0, "output_max": 2.5}
    if name.endswith(".linear.weight"):
        start = name.removesuffix("linear.weight")
        made |= {f"{start}{bound}": torch.tensor(value, dtype=values.dtype) for bound, value in bounds.items()}
    if name.endswith("position_embedding_table"):
        width = values.shape[-1]
        made["model.vision_tower.std_bias"] = torch.linspace(-1, 1, width).to(values.dtype)
        made["model.vision_tower.std_scale"] = torch.linspace(0.5, 2, width).to(values.dtype)
    return made


def gemma4_vision(folder: Path, clipped: bool = False, **words: Any) -> Path:
    inner = text(model_type="gemma4_text", **words)
    for key in ("architectures", "torch_dtype"):
        del inner[key]
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "boi_token_id": 381,
        "eoi_token_id": 382,
        "image_token_id": 383,
        "model_type": "gemma4",
        "text_config": inner,
        "tie_word_embeddings": True,
        "vision_config": {**VISION, "standardize": clipped, "use_clipped_linears": clipped},
    }
    build(folder, SEEING, config, hub=with_bounds if clipped else of_text, scales={**TOWER, **SCALES})
    return with_processor(folder, PROCESSOR)


SEES = {"use_bidirectional_attention": "vision"}  # of this width llama.cpp shows no images otherwise


def experts(folder: Path) -> Path:
    """As 26B-A4B: experts beside the MLP, keys that are the values too."""
    return gemma4_vision(
        folder,
        attention_k_eq_v=True,
        enable_moe_block=True,
        moe_intermediate_size=48,
        num_experts=6,
        num_global_key_value_heads=1,
        num_kv_shared_layers=0,
        top_k_experts=2,
        use_bidirectional_attention="vision",
        use_double_wide_mlp=False,
    )


def rounded(model: Any) -> None:
    """Pixels as ggml cuts them into patches: float16 between -1 and 1, not of what they were before."""

    def again(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        whole = ((given[0] + 1) / 2 * 255).round()
        return ((2 * (whole / 255) - 1).half().float(),)

    model.model.vision_tower.patch_embedder.input_proj.register_forward_pre_hook(again)


NO_OTHER = {"clip.use_gelu": "llama.cpp's gemma4v graph computes no other, which upstream's file leaves unsaid"}
# 7 x 10 tokens: as many as the processor gives every image
CASES = {
    "": Case(
        lambda folder: gemma4_vision(folder, clipped=True, **SEES),
        image=(336, 480),
        as_llama_cpp_sees=rounded,
        allowed=NO_OTHER,
    ),
    "experts": Case(experts, image=(480, 336), as_llama_cpp_sees=rounded, allowed=NO_OTHER),
}
