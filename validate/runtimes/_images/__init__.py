"""One file per way in which transformers puts images into a prompt; the checkpoint's model_type chooses.

A module of this folder has

    MODELS: tuple[str, ...]     the model_types it is for
    Images                      a subclass of base.Images
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from validate.runtimes._images.base import Images


def for_model(model_type: str) -> type[Images] | None:
    """The Images of a model_type, None where no file here is for it."""
    return next((images for models, images in _families() if model_type in models), None)


def known() -> list[str]:
    """Every model_type whose images are known."""
    return sorted(model for models, _ in _families() for model in models)


def _families() -> Iterator[tuple[tuple[str, ...], type[Images]]]:
    for found in pkgutil.iter_modules(__path__):
        if found.name != "base":
            module = importlib.import_module(f"{__name__}.{found.name}")
            yield module.MODELS, module.Images
