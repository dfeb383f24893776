"""What a kind of damage is, and the list of them that the modules beside this fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SETTINGS = "settings"  # whose comparison places a fault, where it is not that of tensors and hyper-parameters


@dataclass(frozen=True)
class Honest:
    """Honest outputs of one checkpoint, by name (`f16`, `q4`, `gptq` …), and what GGUF files go with."""

    source: Path
    outputs: Mapping[str, Path]
    projector: Path | None = None


@dataclass(frozen=True)
class Damaged:
    """What is validated: a file or folder, and a GGUF file's projector."""

    path: Path
    projector: Path | None = None


@dataclass(frozen=True)
class Fault:
    """A kind of damage. `place` is what advice has to name; empty where the verdict alone is asked for."""

    name: str
    model: str  # whose honest outputs it is made on
    make: Callable[[Honest, Path], Damaged]
    place: str
    by: str = ""
    fast: bool = False


@dataclass
class Suite:
    """Every fault, in the order in which they were declared."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, name: str, make: Callable[[Honest, Path], Damaged], place: str, **words: object) -> None:
        model = str(words.get("model", "nano"))
        self.faults.append(Fault(name, model, make, place, str(words.get("by", "")), bool(words.get("fast"))))


SUITE = Suite()
