"""llama.cpp's own arithmetic put into transformers, so that what is left of a difference is the conversion's."""

from __future__ import annotations

from typing import Any


def look_up_gelu(model: Any) -> int:
    """Make a torch model compute GELU as ggml does on processors; the number of places where it does.

    ggml has the tanh formula as a table from float16 to float16 for inputs within ±10, also where a model asks for
    the exact function, and one of the quick formula (ggml-cpu/vec.h, GGML_GELU_FP16 and GGML_GELU_QUICK_FP16).
    """
    import torch

    def table(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        values = arguments[0]
        halves = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, halves))

    def quick(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        values = arguments[0].half().float()
        return (values * torch.sigmoid(1.702 * values)).half().float()

    places = [m for m in model.modules() if "gelu" in type(m).__name__.lower()]
    for module in places:
        module.register_forward_hook(quick if "quick" in type(module).__name__.lower() else table)
    return len(places)


def round_pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with pixels as ggml has them when it cuts an image into patches: float16 (ggml.c, ggml_conv_2d)."""
    return {**inputs, "pixel_values": inputs["pixel_values"].half().float()}


def round_convolutions(model: Any) -> int:
    """Make the 1-d convolutions of a torch model multiply float16 values, as ggml's do; their number (ggml.c,
    ggml_conv_1d)."""
    import torch

    places = [m for m in model.modules() if isinstance(m, torch.nn.Conv1d)]
    for module in places:
        module.weight.data = module.weight.data.half().float()
        module.register_forward_pre_hook(lambda module, given: (given[0].half().float(), *given[1:]))
    return len(places)
