"""GPTQ and AWQ of a whole model, one layer at a time; what is made of each is kept at once.

A layer is run over all rows; what goes into its matrices gives Gram matrices, these the integers (quantize/layer.py).
Then the layer is run again with what the integers amount to, so that the layers behind it are made for the inputs that
they will have. A run that was killed goes on at the layer where it was: those before it are read from what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from convert.errors import StageError
from convert.formats.compressed.folder import Layout, as_stored, values
from convert.formats.compressed.groups import LayerMatrices, MatrixGroup, source_rows
from convert.formats.compressed.kept_layers import KeptLayers, Scaled, packed_tensors
from convert.formats.compressed.method import Method
from convert.model.forward import Call, Output
from convert.model.hollow import Weights
from convert.model.inputs import Listening
from convert.model.layered import Layer, Layered
from convert.model.statistics import LayerInputs, Statistics
from quantize.grids import Quantized
from quantize.layer import Group, Norm, Source, quantize_group

if TYPE_CHECKING:
    from torch import Tensor

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ALLOWED = 1e-4  # of the largest output: by how much factors of two may change a layer that they cancel out in
FEW_TOKENS = 128  # fewer say little of an expert's inputs


@dataclass
class Quantizer:
    """A visitor that quantizes the layers of `layout`'s checkpoint, and keeps what it makes of each in `kept`.

    `on_layer` is told when a layer is done; `warn` of what should be known.
    """

    model: Layered
    layout: Layout
    method: Method
    kept: KeptLayers
    on_layer: Callable[[], None]
    warn: Callable[[str], None]
    measured: Statistics | None = None  # what a calibration stage kept: nothing is listened to
    _trials: dict[tuple[str, ...], Front | None] = field(default_factory=dict)
    _few: list[str] = field(default_factory=list)

    @cached_property
    def weights(self) -> Weights:
        """The checkpoint's tensors, by the parameters they become."""
        return cast("Weights", self.model.weights)

    @cached_property
    def _tensors(self) -> Mapping[str, str]:
        return self.model.tensors

    def _modules(self, layer: Layer) -> dict[str, str]:
        """The quantized modules of a layer, with the parameters that hold them."""
        named = (
            (module, self.weights.targets.get(f"{module}.weight", "")) for module in self.layout.decision.quantized
        )
        return {module: parameter for module, parameter in named if parameter.startswith(f"{layer.name}.")}

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, in order: of the quantized layer, where later ones are to see that."""
        modules = self._modules(layer)
        done = self.kept.load(layer.name, self.layout.scheme) if modules else None
        if modules and done is None:
            listening = Listening(layer, set(modules.values()).__contains__, self.method.all_experts)
            for call in calls:
                with torch.inference_mode(), nullcontext() if self.measured else listening.open(self.model.model):
                    output = call.run()
                if not self.method.sequential:
                    yield output
                del output
            heard = LayerInputs(layer.name, listening.found, listening.norms)
            done = self._quantize(layer, modules, self.measured.load(layer.name) if self.measured else heard, calls[0])
        if modules:
            self.on_layer()
        if modules and self.method.sequential and done is not None:
            self.weights.change(layer.name, {name: torch.from_numpy(value) for name, value in done.items()})
        if not modules or self.method.sequential or done is None:
            for call in calls:
                with torch.inference_mode():
                    output = call.run()
                yield output

    # ---- one layer

    def _quantize(
        self, layer: Layer, modules: Mapping[str, str], inputs: LayerInputs, call: Call
    ) -> Mapping[str, np.ndarray]:
        """What each matrix amounts to, by its tensor's name; what the file will hold is kept."""
        looked = LayerMatrices(modules, self.layout.roles.of, inputs.found, inputs.norms, self._tensors)
        if unseen := looked.unseen():
            remedy = "calibrate_all_experts: true, or more rows" if "expert" in unseen[0] else "report this model"
            raise StageError(layer.name, f"nothing went into {unseen[0]}", "every matrix used", remedy)
        made, matrices = dict[str, np.ndarray](), dict[str, Scaled]()
        quantized: dict[str, Quantized] = {}
        for group in looked.groups(self.method.factors):
            self._note_few(group)
            front = self._front(layer, group, call) if self.method.factors else None
            found = self._group(group, front)
            quantized |= found.made
            factors = found.factors
            if front is not None and found.multiplier is not None:
                factors = self._fold_norm(made, group, front, found)
            if found.source_factors is not None:
                quantized[group.source] = quantized[group.source].divided(found.source_factors)
                self._divide_bias(made, group.source, found.source_factors)
            matrices |= {module: Scaled(found.made[module], factors) for module in group.modules}
        for module, one in quantized.items():
            made |= packed_tensors(module, one, self.layout.scheme)
            if f"{module}.bias" in self.layout.checkpoint.tensors:
                made.setdefault(f"{module}.bias", self._values(f"{module}.bias"))
        self.kept.save(layer.name, made, matrices)
        return {f"{module}.weight": one.effective() for module, one in matrices.items()}

    def _group(self, group: MatrixGroup, front: Front | None) -> Group:
        weights = {module: self._values(f"{module}.weight") for module in group.modules}
        gram = group.inputs.take_gram(group.expert).numpy()
        try:
            stands = front.stands(self._values(group.norm)) if front is not None and group.norm else None
            source = front.source if front is not None else None
            return quantize_group(weights, gram, self.method.grid, self.method.effort, stands or source)
        except ValueError as error:
            raise StageError(
                f"{group.modules[0]}.weight", str(error), "finite numbers", "is the checkpoint sound?"
            ) from error

    def _fold_norm(self, made: dict[str, np.ndarray], group: MatrixGroup, front: Front, found: Group) -> np.ndarray:
        """Enter the norm's new weight and bias; the factors that are left when it is rounded to its type."""
        assert found.multiplier is not None
        tensor = self.layout.checkpoint.tensors[group.norm]
        raw = as_stored(found.multiplier - front.plus, tensor.dtype)
        weight = (raw.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else raw.astype(np.float32)
        before, after = self._values(group.norm) + front.plus, weight + front.plus
        factors = np.where(after != 0, before / np.where(after != 0, after, 1), found.factors).astype(np.float32)
        made[group.norm] = weight
        bias = group.norm.removesuffix("weight") + "bias"
        if bias in self.layout.checkpoint.tensors:
            made[bias] = self._values(bias) / factors
        return factors

    def _divide_bias(self, made: dict[str, np.ndarray], module: str, factors: np.ndarray) -> None:
        name = f"{module}.bias"
        if name in self.layout.checkpoint.tensors:
            made[name] = made.get(name, self._values(name)) / factors

    def _values(self, name: str) -> np.ndarray:
        return values(self.layout.checkpoint.tensors[name]).astype(np.float32)

    def _note_few(self, group: MatrixGroup) -> None:
        if group.inputs.experts > 1 and int(group.inputs.counts[group.expert]) < FEW_TOKENS:
            self._few += group.modules

    def finish(self) -> None:
        """Say which experts saw few tokens."""
        if self._few:
            self.warn(
                f"{len(self._few)} matrices of experts saw fewer than {FEW_TOKENS} tokens each ({self._few[0]}, …): "
                "their integers are little better than rounded ones; calibrate_all_experts: true shows them all"
            )

    # ---- what stands in front

    def _front(self, layer: Layer, group: MatrixGroup, call: Call) -> Front | None:
        """What can take the group's factors, once per kind of group: tried on the layer with one input."""
        if not (group.norm or group.source):
            return None
        if group.kind not in self._trials:
            self._trials[group.kind] = next(
                (front for front in self._candidates(group) if self._cancels(layer, group, front, call)), None
            )
        return self._trials[group.kind]

    def _candidates(self, group: MatrixGroup) -> Iterator[Front]:
        if group.norm:
            dtype = TYPES[self.layout.checkpoint.tensors[group.norm].dtype]
            yield Front(None, 0.0, dtype)
            yield Front(None, 1.0, "float32")  # a norm that multiplies with 1 + weight
        else:
            rows = self.layout.checkpoint.tensors[f"{group.source}.weight"].shape[0]
            columns = self.layout.checkpoint.tensors[f"{group.modules[0]}.weight"].shape[1]
            if source := source_rows(rows, columns, self._heads):
                yield Front(source, 0.0, "float32")

    @cached_property
    def _heads(self) -> int:
        config = self.model.model.config.get_text_config().to_dict()
        found = config.get("num_attention_heads")
        return found if isinstance(found, int) else 0

    def _cancels(self, layer: Layer, group: MatrixGroup, front: Front, call: Call) -> bool:
        """Whether the layer gives the same when columns are doubled or halved, and what is in front the other way."""
        tensors = self.layout.checkpoint.tensors
        columns = tensors[f"{group.modules[0]}.weight"].shape[1]
        draw = np.random.default_rng(0)
        changed: dict[str, np.ndarray] = {}
        if front.source is None:
            factors = draw.choice(np.array([0.5, 1, 2], np.float32), columns)
            changed[group.norm] = (self._values(group.norm) + np.float32(front.plus)) / factors - np.float32(front.plus)
            bias = group.norm.removesuffix("weight") + "bias"
            if bias in tensors:
                changed[bias] = self._values(bias) / factors
        else:
            of_rows = draw.choice(np.array([0.5, 1, 2], np.float32), tensors[f"{group.source}.weight"].shape[0])
            factors = of_rows[front.source.rows]
            changed[f"{group.source}.weight"] = self._values(f"{group.source}.weight") / of_rows[:, None]
            if f"{group.source}.bias" in tensors:
                changed[f"{group.source}.bias"] = self._values(f"{group.source}.bias") / of_rows
        changed |= {f"{module}.weight": self._values(f"{module}.weight") * factors for module in group.modules}
        with torch.inference_mode():
            wanted = _hidden(call.run())
            self.weights.change(layer.name, {name: torch.from_numpy(value) for name, value in changed.items()})
            got = _hidden(call.run())
            self.weights.change(layer.name, {})
        return bool((got - wanted).abs().max() <= ALLOWED * wanted.abs().max())


@dataclass(frozen=True)
class Front:
    """What takes the factors: a matrix, or a norm that multiplies with `plus` + its weight, whose type is `dtype`."""

    source: Source | None
    plus: float
    dtype: str

    def stands(self, weight: np.ndarray) -> Norm:
        """The norm whose weight that is."""
        return Norm(weight + np.float32(self.plus), self.dtype)


def _hidden(output: Output) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    return cast("Tensor", found)
