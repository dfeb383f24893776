"""What of a model goes into 8-bit floats, and the layout compressed-tensors gives them. Names and shapes only.

A matrix becomes its own shape in F8_E4M3 and one `weight_scale`, in the type it was stored in; weight = scale * q.
What it is multiplied with is rounded while the model runs, by the largest value of the moment: nothing is calibrated.
Source: compressed-tensors, compressors/quantized_compressors/naive_quantized.py ("float-quantized").
"""

from __future__ import annotations

from collections.abc import Sequence

from quantize.gptq_layout import HEAD, Spec

LARGEST = 448.0  # of E4M3 without infinities
TENSOR = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}


def packed(shape: tuple[int, ...], dtype: str) -> dict[str, Spec]:
    """Suffix -> dtype and shape of the tensors that a matrix stored in `dtype` becomes."""
    return {"weight": ("F8_E4M3", shape), "weight_scale": (dtype, (1,))}


def quantization_config(towers: Sequence[str], head: str = HEAD) -> dict[str, object]:
    """config.json's words for it. The patterns match from a name's beginning, in vLLM's spelling and transformers'.

    `towers` are the beginnings of vision tower and projector, `head` is what the checkpoint calls the head.
    """
    heads = dict.fromkeys((HEAD, head))
    kept = [word for name in heads for word in (name, f"re:.*\\.{name}")]
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": [*kept, *(f"re:(?:model\\.)?{tower}\\..*" for tower in sorted(towers))],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**TENSOR, "dynamic": False},
                "input_activations": {**TENSOR, "dynamic": True},
            }
        },
    }
