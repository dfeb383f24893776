"""Where a pass over the layers had got to, on disk: a run that was killed goes on at the layer it was at.

FOLDER/<key>.layers is a zip file: what the last finished decoder layer gave in every pass, the statistics gathered so
far, and whose they are. It becomes whole in one rename, the one before it goes with that, and it is thrown away when
the passes are through. A file that is broken, of another model or of other inputs is as good as none.

On the way back to that layer nothing in the decoder runs: its layers give zeros, the last of them what the file has.
Everything else (embeddings, towers, positions) is computed again, since what it gives may be wanted further on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch.utils._pytree import tree_map
from transformers.cache_utils import Cache

from convert.model.forward import Call, Output

if TYPE_CHECKING:
    from torch import Tensor

    from convert.model.layered import Layer

FORM = 1  # raise it when files of the same key would hold something else
SECONDS = 60.0  # of computing that may be lost
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.PickleError)


class Statistics(Protocol):
    """What a visitor has gathered: it has to go on from where the layers do."""

    def state(self) -> object:
        """All of it: tensors, numbers and strings, in dicts, lists and tuples."""

    def restore(self, state: object) -> None:
        """Go on from what `state` gave. Raises ValueError, KeyError or TypeError for what is none."""


@dataclass(frozen=True)
class Resume:
    """Where to write down how far the passes are. `folder` is nobody else's; `key` says what is computed.

    `key` names all that a layer's output depends on beside the inputs: the checkpoint, the type, the threads.
    """

    folder: Path
    key: str
    seconds: float = field(default_factory=lambda: SECONDS)  # between two files
    say: Callable[[str], None] = field(default=lambda line: None)  # told of a pass that goes on
    statistics: Statistics | None = None  # what a visitor gathers meanwhile

    @property
    def path(self) -> Path:
        """The file."""
        import transformers

        words = json.dumps([FORM, self.key, torch.__version__, transformers.__version__])
        return self.folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.layers"


def names_of(inputs: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """A name of each input, by its content."""
    return [_digest(arguments) for arguments in inputs]


def _digest(arguments: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(arguments.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass
class Bookmark:
    """The file of one run: what the last one left in it, and what this one writes. Without `resume` there is none.

    `names` are those of the passes; `layers` are the decoder's, and no others, in their order.
    """

    resume: Resume | None = None
    names: Sequence[str] = ()
    layers: Sequence[Layer] = ()
    _left: _Left | None = None
    _refused: bool = False
    _since: float = field(default_factory=time.monotonic)

    def open(self) -> None:
        """Look what the last run left, and throw away what nobody will ask for."""
        if self.resume is None or not self.layers:
            return
        path = self.resume.path
        if self.resume.folder.is_dir():
            for other in self.resume.folder.iterdir():
                if other != path:
                    other.unlink()
        with contextlib.suppress(*_BROKEN):
            left = _Left.read(path, self.names, [layer.name for layer in self.layers])
            if self.resume.statistics is not None:
                self.resume.statistics.restore(left.statistics_of(self.names))
            self._left = left
            self.resume.say(f"goes on behind {left.layer}, where the last run was")

    def skips(self, layer: Layer, calls: Sequence[Call]) -> bool:
        """Whether the layer ran before, in all of these calls."""
        return self._left is not None and layer in self.layers and layer.index <= self._last.index

    @property
    def _last(self) -> Layer:
        assert self._left is not None
        name = self._left.layer
        return next(layer for layer in self.layers if layer.name == name)

    def output(self, layer: Layer, number: int) -> Output:
        """What goes on in a pass in place of what a skipped layer gives."""
        assert self._left is not None
        name = self.names[number]
        return self._left.output(name) if layer is self._last else self._left.zeros(name)

    @contextlib.contextmanager
    def writing(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Callable[[int, Output], None]]:
        """Within the block a layer runs; what is called with (number of a pass, its output) notes that down."""
        if self.resume is None or not self._is_time(self.resume, layer, calls):
            yield lambda number, output: None
            return
        self.resume.folder.mkdir(parents=True, exist_ok=True)
        path = self.resume.path
        part = path.with_suffix(".part")
        try:
            with zipfile.ZipFile(part, "w") as file:
                yield lambda number, output: self._note(file, number, output)
                if self.resume.statistics is not None:
                    _put(file, "statistics", self.resume.statistics.state())
                about = {"layer": layer.name, "names": sorted({self.names[call.number] for call in calls})}
                file.writestr("about.json", json.dumps(about))
            if not self._refused:
                part.replace(path)
            self._since = time.monotonic()
        finally:
            part.unlink(missing_ok=True)

    def _is_time(self, resume: Resume, layer: Layer, calls: Sequence[Call]) -> bool:
        if layer not in self.layers or len(calls) < len(self.names) or self._refused:
            return False
        if any(map(carries_state, calls)):
            self._refuse()
        return not self._refused and time.monotonic() - self._since >= resume.seconds

    def _note(self, file: zipfile.ZipFile, number: int, output: Output) -> None:
        if not _is_plain(output):
            self._refuse()
        name = self.names[number]
        if not self._refused and name not in file.NameToInfo:
            _put(file, name, tree_map(_own, output))

    def _refuse(self) -> None:
        """Skipping layers would lose what they hand each other."""
        self._refused = True
        self.close()

    def close(self) -> None:
        """The passes are through: nobody goes on from here."""
        if self.resume is not None:
            self.resume.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Left:
    """What a run left behind."""

    path: Path
    layer: str  # the last that is finished
    names: frozenset[str]
    shapes: Mapping[str, object]  # what the layer gave, by the pass: tensors without values
    statistics: object

    @classmethod
    def read(cls, path: Path, names: Sequence[str], layers: Sequence[str]) -> _Left:
        """Raises what broken or foreign files raise."""
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read("about.json"))
            if about["layer"] not in layers:
                raise ValueError("a layer of another model")
            shapes = {name: _take(file, name, "meta") for name in dict.fromkeys(names)}
            statistics = _take(file, "statistics") if "statistics" in file.NameToInfo else None
        return cls(path, about["layer"], frozenset(about["names"]), shapes, statistics)

    def statistics_of(self, names: Sequence[str]) -> object:
        """What was gathered of these passes. Raises ValueError where it was of others too."""
        if self.names != frozenset(names):
            raise ValueError("statistics of other passes")
        return self.statistics

    def zeros(self, name: str) -> Output:
        """Of the shape that each layer gives."""
        return tree_map(lambda value: _zeros(value) if isinstance(value, torch.Tensor) else value, self.shapes[name])

    def output(self, name: str) -> Output:
        """What the last finished layer gave."""
        with zipfile.ZipFile(self.path) as file:
            return _take(file, name)


def _zeros(shape: Tensor) -> Tensor:
    return torch.zeros(shape.shape, dtype=shape.dtype)


def _own(value: object) -> object:
    """A tensor without what else lies in its memory."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _put(file: zipfile.ZipFile, name: str, value: object) -> None:
    with file.open(name, "w", force_zip64=True) as member:
        torch.save(value, member)


def _take(file: zipfile.ZipFile, name: str, device: str = "cpu") -> object:
    found: object = torch.load(io.BytesIO(file.read(name)), map_location=device, weights_only=True)
    return found


def _is_plain(output: Output) -> bool:
    """Whether it is read again as it was written."""
    if type(output) in (tuple, list):
        return all(map(_is_plain, output))  # type: ignore[call-overload]
    return output is None or isinstance(output, torch.Tensor | int | float | bool)


def carries_state(call: Call) -> bool:
    """Whether a layer is handed something that it may write into, for layers further on."""
    return any(isinstance(value, Cache | dict | list) for value in (*call.args, *call.kwargs.values()))
