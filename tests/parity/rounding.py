"""llama.cpp's own arithmetic put into transformers, so that what is left of a difference is the conversion's."""

from __future__ import annotations

from typing import Any


def look_up_gelu(model: Any) -> int:
    """Make a torch model compute GELU as ggml does on processors; the number of places where it does.

    ggml has the tanh formula as a table from float16 to float16 for inputs within ±10 (ggml-cpu/vec.h,
    GGML_GELU_FP16), also where a model asks for the exact function.
    """
    import torch

    def table(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        values = arguments[0]
        halves = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
        return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, halves))

    places = [
        m for m in model.modules() if "gelu" in type(m).__name__.lower() and "quick" not in type(m).__name__.lower()
    ]
    for module in places:
        module.register_forward_hook(table)
    return len(places)
