"""A model one layer at a time over all of its inputs at once: memory of one layer and the hidden states, at any size.

    model = Layered.open(folder)
    for index, output in model.run([{"input_ids": ids} for ids in windows]):
        ...                                  # output.logits, in the order in which the passes end

Every input's pass is taken to the same layer; the layer's weights are read, every pass goes through it, and the
weights are let go: each is read once, whatever the number of inputs. What is done with a layer while it is there
(statistics of its inputs, quantizing it) is a `Visitor`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import torch

from convert.model.forward import Call, Output, Pass
from convert.model.hollow import Weights, build
from convert.model.resume import Bookmark, Resume, names_of
from convert.model.scratch import Scratch

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Forward: TypeAlias = Callable[..., Output]
LARGE = 1 << 22  # values of a matrix outside the layers (embedding, head) that is a layer of its own


@dataclass(frozen=True, eq=False)
class Layer:
    """A module whose weights are in memory only while it runs."""

    name: str  # of the module: model.layers.3
    index: int  # in the model's order
    module: nn.Module
    forward: Forward  # the module's own
    in_list: bool  # one of a list of like ones: a decoder layer, a block of a tower


class _Elsewhere(torch.nn.Parameter):  # type: ignore[misc]
    """An embedding's weights that are not in memory: where they will be, Llama 4 sends its tokens before it asks."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class Visitor(Protocol):
    """Who looks at a layer while its weights are there. Gradients are off only where it says so."""

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, in order."""
        ...


class Through:
    """Every pass goes through, and nothing else happens."""

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, in order."""
        for call in calls:
            with torch.inference_mode():
                output = call.run()
            yield output
            del output  # logits may be as large as all else


class Loader(Protocol):
    """Who brings a module's weights."""

    @property
    def targets(self) -> Mapping[str, str]:
        """Tensor of the checkpoint -> the parameter that takes it; none where that is not known."""

    def load(self, module: str) -> None:
        """What is the module's own, not its children's, for good."""

    def loaded(self, module: str) -> contextlib.AbstractContextManager[nn.Module]:
        """All that is in it, while the block is open."""

    def expect(self, module: str) -> None:
        """It will be asked for next, as a rule."""

    def idle(self) -> None:
        """Nothing will be asked for next."""


@dataclass(frozen=True)
class Loaded:
    """The weights of a model that is in memory as a whole."""

    model: PreTrainedModel

    @property
    def targets(self) -> Mapping[str, str]:
        """Not known: transformers loaded it."""
        return {}

    def load(self, module: str) -> None:
        """It is there."""

    @contextlib.contextmanager
    def loaded(self, module: str) -> Iterator[nn.Module]:
        """It is there, and stays."""
        yield self.model.get_submodule(module)

    def expect(self, module: str) -> None:
        """It is there."""

    def idle(self) -> None:
        """Nothing is held that would not be held anyway."""


class Layered:
    """A model that is stopped at its layers; see above. Its weights are those in memory, or `weights` brings them.

    `resume` is where runs write down how far they are: one that was killed goes on at the layer it was at. It knows
    the statistics of the visitor that it is for.
    """

    resume: Resume | None = None

    through: Visitor = Through()  # where nobody looks at the layers

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Loader | None = None,
        scratch: Scratch | None = None,
        place: Callable[[Forward], Forward] = lambda forward: forward,
    ) -> None:
        """`place` makes of a layer's forward one that runs where its weights are."""
        self.model = model
        self.weights: Loader = weights or Loaded(model)
        self._scratch = scratch or Scratch()
        self.layers = _layers(model, place)
        for layer in self.layers:
            layer.module.forward = self._door(layer)
        self._load_rest()

    @classmethod
    def open(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        *,
        trust_remote_code: bool = False,
        scratch: Scratch | None = None,
    ) -> Self:
        """The model of a checkpoint's folder; `dtype` is that of the arithmetic.

        Opening it reads headers, and what belongs to no layer. Raises RuntimeFailure for a checkpoint that transformers
        does not load, or with tensors too few or too many.
        """
        model = build(folder, dtype, trust_remote_code=trust_remote_code)
        return cls(model, Weights(model, folder, dtype), scratch)

    def _load_rest(self) -> None:
        inside = tuple(f"{layer.name}." for layer in self.layers)
        for name, module in self.model.named_modules():
            own = [p for p in module._parameters.values() if p is not None]
            buffers = [b for b in module._buffers.values() if b is not None]
            if (own or buffers) and not f"{name}.".startswith(inside):
                self.weights.load(name)

    def _door(self, layer: Layer) -> Callable[..., Output]:
        def forward(*args: object, **kwargs: object) -> Output:
            current = Pass.here()
            if current is None:
                with self.weights.loaded(layer.name):
                    return layer.forward(*args, **kwargs)
            return current.at(Call(layer, args, kwargs, current.number))

        return forward

    def keep(self, output: Output) -> Output:
        """What a layer gave, in files where the hidden states of all inputs do not fit into memory."""
        return self._scratch.keep(output)

    @property
    def bytes_held(self) -> int:
        """What is in memory while nothing runs."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return sum(tensor.nbytes for tensor in tensors if not tensor.is_meta)

    def run(
        self,
        inputs: Sequence[Mapping[str, Tensor]],
        visitor: Visitor | None = None,
        on_call: Callable[[int], None] = lambda number: None,
        *,
        gradients: bool = False,
        head: bool = True,
    ) -> Generator[tuple[int, Output]]:
        """(number of the input, what the model gives for it), as the passes end; without a cache.

        `inputs` are the model's arguments; `on_call` is told of an input's number whenever it went through a layer.
        With `gradients` what the model does between its layers is recorded by autograd; without the `head` hidden
        states are the output. Raises what the model or the visitor raises.
        """
        mode = torch.enable_grad if gradients else torch.inference_mode
        passes = [Pass(number, self._forward(arguments, mode, head)) for number, arguments in enumerate(inputs)]
        layers = self.decoder_layers() if self.resume else ()
        bookmark = Bookmark(self.resume, names_of(inputs) if layers else (), layers)
        try:
            yield from self._run(passes, visitor or self.through, on_call, bookmark)
            bookmark.close()
        except GeneratorExit:  # by who has the last output, and asks for no more
            if all(one.ended for one in passes):
                bookmark.close()
            raise
        finally:
            for one in passes:
                one.stop()
            self._scratch.clear()
            self.weights.idle()

    def _forward(
        self, arguments: Mapping[str, Tensor], mode: Callable[[], contextlib.AbstractContextManager[object]], head: bool
    ) -> Callable[[], Output]:
        model = self.model if head else self.model.base_model

        def forward() -> Output:
            with mode():
                output: Output = model(**arguments, use_cache=False)
                return output

        return forward

    @property
    def tensors(self) -> Mapping[str, str]:
        """Parameter of the model -> the tensor of the checkpoint that it is, one of those that are put together."""
        return {parameter: name for name, parameter in self.weights.targets.items()}

    def decoder_layers(self) -> list[Layer]:
        """The layers of the text, in their order; none where the decoder has more than one list."""
        inside = set(self.model.get_decoder().modules())
        found = [layer for layer in self.layers if layer.in_list and layer.module in inside]
        return found if len({layer.name.rpartition(".")[0] for layer in found}) == 1 else []

    def _run(
        self, passes: Sequence[Pass], visitor: Visitor, on_call: Callable[[int], None], bookmark: Bookmark
    ) -> Generator[tuple[int, Output]]:
        waiting: dict[int, Call] = {}

        def advance(number: int, given: Output = None) -> Generator[tuple[int, Output]]:
            waiting.pop(number, None)
            if call := passes[number].advance(given):
                waiting[number] = call
            else:
                output, passes[number].output = passes[number].output, None
                yield number, output

        bookmark.open()
        for number in range(len(passes)):
            yield from advance(number)
        while waiting:
            layer = min((call.layer for call in waiting.values()), key=lambda layer: layer.index)
            calls = [waiting[number] for number in sorted(waiting) if waiting[number].layer is layer]
            self._scratch.expect(sum(_bytes(call.args) for call in calls))
            numbers = [call.number for call in calls]
            outputs = self._through(layer, calls, visitor, bookmark)
            del calls
            for number in numbers:
                given = next(outputs)
                on_call(number)
                yield from advance(number, given)
                del given
            next(outputs, None)  # what a visitor does behind the last

    def _through(self, layer: Layer, calls: Sequence[Call], visitor: Visitor, bookmark: Bookmark) -> Generator[Output]:
        """What goes on in each pass; what the layer gives is let go before the next call is run."""
        if bookmark.skips(layer, calls):
            for call in calls:
                yield bookmark.output(layer, call.number)
            return
        with self.weights.loaded(layer.name), bookmark.writing(layer, calls) as note:
            if layer.index + 1 < len(self.layers):
                self.weights.expect(self.layers[layer.index + 1].name)
            outputs = visitor.visit(layer, calls)
            for call in calls:
                output = self._scratch.keep(next(outputs))
                note(call.number, output)
                yield output
                del output
            next(outputs, None)


def _bytes(values: Sequence[object]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _layers(model: PreTrainedModel, place: Callable[[Forward], Forward]) -> list[Layer]:
    """The outermost members of lists, and large matrices outside of them, in the model's order."""
    found: list[Layer] = []

    def add(name: str, module: nn.Module, in_list: bool) -> None:
        found.append(Layer(name, len(found), module, place(module.forward), in_list))

    def look(name: str, module: nn.Module) -> None:
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}" if name else child_name
            if isinstance(child, torch.nn.ModuleList):
                for number, member in child.named_children():
                    add(f"{path}.{number}", member, in_list=True)
            elif _is_large(child):
                if isinstance(child, torch.nn.Embedding):
                    child._parameters["weight"] = _Elsewhere(child.weight, requires_grad=False)
                add(path, child, in_list=False)
            else:
                look(path, child)

    look("", model)
    return found


def _is_large(module: nn.Module) -> bool:
    return any(p is not None and p.numel() >= LARGE for p in module._parameters.values()) and not any(module.children())
