"""All that a model takes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convert.estimate.cache import FLOAT32, LayerCache, layer_caches
from convert.estimate.compute import compute_bytes
from convert.estimate.hyper import Hyper, read_hyper
from convert.estimate.model_file import ModelFile
from convert.estimate.projector import projector_compute_bytes
from convert.estimate.setting import Setting


@dataclass(frozen=True)
class Memory:
    """Bytes beside the weights of the language model."""

    layers: Sequence[LayerCache]
    compute: int
    output: int  # where logits are copied to, always in the host's memory
    projector: int = 0  # its weights
    projector_compute: int = 0

    @property
    def cache(self) -> int:
        """Keys, values and states."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def beside_on_gpu(self) -> int:
        """All of it that lies on a GPU when the model does."""
        return self.cache + self.compute + self.projector + self.projector_compute

    @property
    def beside(self) -> int:
        """All of it."""
        return self.beside_on_gpu + self.output

    def parts(self, gpu: bool) -> str:
        """The parts in words."""
        named = (
            ("cache", self.cache),
            ("compute buffer", self.compute),
            ("output buffer", 0 if gpu else self.output),
            ("projector", self.projector),
            ("its compute buffer", self.projector_compute),
        )
        return ", ".join(f"{name} {size:,}" for name, size in named if size)


def estimate(model: ModelFile, setting: Setting, projector: ModelFile | None = None) -> Memory:
    """What it takes. Raises InputError for an architecture that is not known."""
    hyper = read_hyper(model)
    return Memory(
        layer_caches(hyper, setting),
        compute_bytes(model, hyper, setting),
        output_bytes(hyper, setting),
        sum(weight.nbytes for weight in projector.weights) if projector and setting.images else 0,
        projector_compute_bytes(projector) if projector and setting.images else 0,
    )


def output_bytes(hyper: Hyper, setting: Setting) -> int:
    """What logits are copied into, before the first batch asks for more."""
    return FLOAT32 * hyper.vocabulary * setting.texts
