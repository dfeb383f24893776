"""Matrices of gptqmodel's kernels on a CPU, decoded once: without it every pass decodes them anew.

What is multiplied is what the kernels' own decoders give, so that logits are the same to the last bit; a pass over one
token, as greedy answers need many of, takes a fifth to a twelfth of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validate.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_SHARE = 4  # of the memory that is free, one part in so many: it is a convenience, and others plan with the rest
_GPTQ_BYTES, _AWQ_BYTES = 4, 2  # of a value, in the type that each kernel multiplies in


def keep_decoded(model: nn.Module) -> bool:
    """Whether the kernels of `model` keep their matrices from now on; not where they take too much of what is free."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    gptq = [module for module in model.modules() if isinstance(module, TorchLinear)]
    awq = [module for module in model.modules() if isinstance(module, AwqTorchLinear)]
    size = _GPTQ_BYTES * sum(map(_values, gptq)) + _AWQ_BYTES * sum(map(_values, awq))
    free = free_bytes()
    if free is None or size * _SHARE > free:
        return False
    for module in gptq:
        module.enable_weight_cache(True)
    if awq:
        _decode_awq_once()
    return True


def _values(module: Any) -> int:
    return int(module.in_features) * int(module.out_features)


def _decode_awq_once() -> None:
    """Put what remembers in front of AWQ's decoder; matrices go when their module does."""
    from gptqmodel.nn_modules.qlinear import torch_awq

    if not isinstance(torch_awq.dequantize_gemm, _Once):
        torch_awq.dequantize_gemm = _Once(torch_awq.dequantize_gemm)


class _Once:
    def __init__(self, decode: Callable[..., Tensor]) -> None:
        from torch.utils.weak import WeakTensorKeyDictionary

        self._decode = decode
        self._kept = WeakTensorKeyDictionary()  # packed matrix -> the floats in it

    def __call__(self, *, qweight: Tensor, **others: Any) -> Tensor:
        found: Tensor | None = self._kept.get(qweight)
        if found is None:
            found = self._kept[qweight] = self._decode(qweight=qweight, **others)
        return found
