"""A reference in half the memory: matrices stay in the 16 bits they are stored in, everything computes in float32.

bfloat16 and float16 turn into float32 without loss, so that the logits are those of a model loaded in float32, bit for
bit; what it costs is turning each matrix again at every pass.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel


def compute_in_float32(torch: ModuleType, model: PreTrainedModel) -> None:
    """Make a model loaded in 16 bits compute in float32: matrices of the text while they are used, all else now.

    A vision tower becomes float32 for good: it asks its own weights what type its input should have.
    """
    text = list(model.get_decoder().modules())
    kept = [m for m in (*text, model.get_output_embeddings()) if isinstance(m, torch.nn.Linear | torch.nn.Embedding)]
    mine = {id(m) for m in kept}
    for module in model.modules():
        if id(module) not in mine:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.float()
    for module in kept:
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda _, __, rows: rows.float())
        else:
            module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_narrow, always_call=True)


def _widen(module: Module, _: object) -> None:
    module.stored = dict(module._parameters)
    for name, parameter in module.stored.items():
        if parameter is not None:
            module._parameters[name] = parameter.float()


def _narrow(module: Module, _: object, __: object) -> None:
    module._parameters.update(module.__dict__.pop("stored"))
