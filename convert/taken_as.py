"""`as: FAMILY` in a recipe's `model:`: a checkpoint whose class no family serves, taken for one of a family it fits.

The source's output has a config.json that names the family's class, so that every stage and every library reads the
model as one. Nothing takes a model so by itself: equal names and shapes are no proof of an equal model.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from convert import architectures
from convert.architectures._nearest import compared
from convert.bundle import Bundle, Pending
from convert.errors import ConvertError, InputError, Problem
from convert.json_types import JsonDict, JsonObject
from convert.progress import Progress, Silent
from convert.source import mend
from convert.source.checkpoint import CLASSES, LazyTensor, shapes_of, stored_config
from convert.source.model_types import CLASS_OF, class_of
from convert.source.remake import base_of
from convert.source.stage import SourceOptions, SourceStage, gguf_file, locate, remade
from convert.stage import Inputs
from convert.suggest import suggest

WHERE = "as"
WRITES = r"\w+(?:ForCausalLM|ForConditionalGeneration|LMHeadModel)"


@dataclass(frozen=True)
class Taken:
    """A checkpoint as one of another class."""

    changes: JsonObject  # what its config.json says otherwise
    words: str  # for the report and the metadata

    def config(self, config: JsonObject) -> JsonDict:
        """The config with the family's class."""
        return {**config, **self.changes}


class Source(SourceStage):
    """The checkpoint that all is made from: a folder, or a model of the Hugging Face hub at a pinned revision."""

    def tools(self, options: SourceOptions) -> tuple[str, ...]:
        """transformers, where it decides by whose class the reference runs."""
        return (*super().tools(options), *(() if options.as_ is None else ("transformers",)))

    def notes(self, options: SourceOptions) -> list[str]:
        """What the base says, and as what the model is taken."""
        said = super().notes(options)
        if options.as_ is None or _misfit(options):
            return said
        taken = _taken(options.as_, *_checkpoint(options))
        return [*said, *([f"{taken.words}: let a validate stage prove that it is the same model"] if taken else [])]

    def check(self, options: SourceOptions, inputs: Inputs) -> list[Problem]:
        """What the base finds, and what keeps the checkpoint from being one of the family."""
        found = super().check(options, inputs)
        wrong = _misfit(options) if options.as_ is not None and not found else None
        return [*found, *([wrong] if wrong else [])]

    def forecast(self, options: SourceOptions, inputs: Inputs) -> Bundle:
        """The bundle, whose config.json will be another."""
        bundle = super().forecast(options, inputs)
        if options.as_ is None or _folder(options) is None:
            return bundle
        config, tensors = _checkpoint(options)
        taken = _taken(options.as_, config, tensors)
        if taken is None:
            return bundle
        model = replace(bundle.model, taken_as=taken.words)
        return replace(bundle, model=model, pending=Pending(taken.config(config), tensors))

    def run(self, options: SourceOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The bundle with the config that names the family's class, in `out` with all small files beside it."""
        bundle = super().run(options, inputs, out, progress)
        if options.as_ is None:
            return bundle
        if wrong := _misfit(options):
            raise ConvertError(wrong)
        taken = _taken(options.as_, *_checkpoint(options))
        folder = _folder(options)
        if taken is None or folder is None:
            return replace(bundle, pending=None)
        progress.note(taken.words)
        bundle = replace(bundle, model=replace(bundle.model, taken_as=taken.words), pending=None)
        written = out / "config.json"
        config = stored_config(out if written.exists() else folder)
        return mend.with_config(bundle, folder, out, taken.config(config))


STAGE = Source()


def _folder(options: SourceOptions) -> Path | None:
    folder = locate(options, download=False, progress=Silent())
    return folder.absolute() if folder is not None else None


def _checkpoint(options: SourceOptions) -> tuple[JsonObject, Mapping[str, LazyTensor]]:
    """Config and tensors of the model, adapters merged. Raises InputError."""
    folder = _folder(options)
    assert folder is not None
    found = remade(options, folder) or base_of(folder)
    return found.config, found.tensors


def _misfit(options: SourceOptions) -> Problem | None:
    """Why the model cannot be taken as what `as` says."""
    name = options.as_ or ""
    if gguf_file(options):
        return Problem(WHERE, "the model is a GGUF file, which names its own architecture", "", "leave `as` out")
    if name not in architectures.names():
        return Problem(
            WHERE, f"there is no family '{name}'", "", suggest(name, architectures.names(), architectures.LIST)
        )
    if _folder(options) is None:
        return None
    try:
        config, tensors = _checkpoint(options)
    except InputError as error:
        return error.problem
    first = class_of(config)
    own = architectures.served().get(first) if isinstance(first, str) else None
    if own is not None:
        said = f"config.json names {first}, which the family {own} serves"
        return None if own == name else Problem(WHERE, said, own, "leave `as` out")
    return _difference(name, config, tensors)


def _difference(name: str, config: JsonObject, tensors: Mapping[str, LazyTensor]) -> Problem | None:
    """What of the checkpoint the family does not take."""
    near = compared(config, shapes_of(tensors), name)
    if near is not None and near.takes_tensors:
        return None
    what = f": {near.differences}" if near else ""
    wanted = "a checkpoint all of whose tensors are in its table"
    return Problem(WHERE, f"the model is no {name}{what}", wanted, "`convert inspect` names the nearest family")


def _taken(name: str, config: JsonObject, tensors: Mapping[str, LazyTensor]) -> Taken | None:
    """What becomes of the config; None where the class is the family's own."""
    if class_of(config) in architectures.load(name).classes:
        return None
    near = compared(config, shapes_of(tensors), name)
    served = near.served if near else architectures.load(name).classes[0]
    first, kind = class_of(config), config.get("model_type")
    if isinstance(kind, str) and _is_known(kind):
        own = f"{first}, converted as {name}; transformers runs it by its own model_type, {kind}"
        return Taken({CLASSES: [served]}, own)
    types = [model_type for model_type, one in CLASS_OF.items() if one == served and _is_known(model_type, served)]
    types.sort(key=lambda word: not served.lower().startswith(re.sub(r"\W|_", "", word)))  # llama before internlm3
    changes: JsonDict = {CLASSES: [served], **({"model_type": types[0]} if types else {})}
    runs = f"; transformers runs it as {served}, as it has no class for it" if types else ""
    return Taken(changes, f"{first}, converted as {name}{runs}")


def _is_known(kind: str, named: str = WRITES) -> bool:
    """Whether transformers has a class for a model_type, of this name, a regular expression."""
    return re.search(rf'\("{re.escape(kind)}",\s*"{named}"', _table()) is not None


@functools.cache
def _table() -> str:
    """transformers' classes by model_type, read as text: importing it takes seconds."""
    found = importlib.util.find_spec("transformers")
    path = Path(found.origin).parent / "models/auto/modeling_auto.py" if found and found.origin else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else ""
