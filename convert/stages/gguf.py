"""GGUF files for llama.cpp: the language model in any number of types, and the projector of a model that sees.

One pass over the checkpoint writes every file; nothing lies in between.
"""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import ConvertError, InputError, Problem
from convert.options import Options as BaseOptions
from convert.progress import Progress
from convert.stages import Inputs, only
from quantize.mixes import MIXES

if TYPE_CHECKING:
    from convert.gguf.conversion import Conversion, Wish

VERSION = 1
TOOLS = ("numpy",)
NEEDS: dict[str, str] = {}

PROJECTOR_TYPES = ("F32", "F16", "BF16", "Q8_0")


def _one_of(words: Sequence[str]) -> tuple[Any, ...]:
    """What makes a `str` option one of `words`; the message for another names the nearest."""

    def check(word: object) -> object:
        if word in words:
            return word
        close = difflib.get_close_matches(str(word).upper().replace("-", "_"), words, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{word!r} is not one of {', '.join(words)}{hint}")

    return BeforeValidator(check), WithJsonSchema({"enum": list(words), "type": "string"})


def _type_or_none(word: object) -> object:
    """A projector's type, or False or None; one message where a union's members would each have theirs."""
    if word is None or word is False or word in PROJECTOR_TYPES:
        return word
    raise ValueError(f"{word!r} is not one of {', '.join(PROJECTOR_TYPES)} or false")


TextType = Annotated[str, *_one_of(tuple(MIXES))]
ProjectorType = Annotated[
    str | bool | None,
    BeforeValidator(_type_or_none),
    WithJsonSchema({"enum": [*PROJECTOR_TYPES, False, None]}),
]


class Options(BaseOptions):
    """Which files to make."""

    types: list[TextType] = Field(min_length=1, description="types of the language model's files: [F16, Q8_0]")
    mmproj: ProjectorType = Field(
        None, description="type of the projector's file, F16 when left out; false to make none"
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the file names; the model's name when left out",
    )
    pre_tokenizer: str | None = Field(
        None, max_length=64, description="llama.cpp's name of the pre-tokenizer, where it is not recognized"
    )


def check(options: Options, inputs: Inputs) -> list[Problem]:
    """What keeps the model from being converted, by its headers and configs."""
    try:
        _prepare(options, inputs)
    except ConvertError as error:
        return [p if isinstance(p, Problem) else Problem("gguf", p) for p in error.problems]
    return []


def forecast(options: Options, inputs: Inputs) -> Bundle:
    """The bundle that `run` will return, with the exact sizes of its files."""
    conversion = _prepare(options, inputs)
    made = [
        tuple(Artifact(plan.kind, Path(plan.name), plan.size) for plan in group.plans) for group in conversion.groups
    ]
    return _bundle(inputs, made)


def explain(options: Options, inputs: Inputs) -> Iterator[str]:
    """Lines about every file: its types and the rules that picked them; then what is left out, and notes."""
    conversion = _prepare(options, inputs)
    for group in conversion.groups:
        for plan in group.plans:
            yield f"{plan.name}: {plan.size:,} bytes"
            mix = MIXES[plan.kind.partition("/")[2]]
            count: Counter[tuple[str, str]] = Counter()
            for info in plan.infos:
                count[info.type.name, mix.choose(info.name, info.shape).why] += 1
            yield from (f"  {kind:5} {number:5} tensors: {why}" for (kind, why), number in count.items())
    reasons = Counter(rule.reason for rule in conversion.left_out.values())
    yield from (f"left out: {number} tensors, {reason}" for reason, number in reasons.items())
    yield from (f"note: {note}" for note in conversion.notes)


def run(options: Options, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
    """Write the files into `out`. Raises ConvertError before a byte is written when the model does not fit."""
    from convert.gguf.conversion import prove_twins
    from convert.gguf.writer import write_files

    conversion = _prepare(options, inputs)
    prove_twins(conversion)
    for name, rule in conversion.left_out.items():
        progress.note(f"left out: {name}, {rule.reason}")
    for note in conversion.notes:
        progress.warn(note)
    names = ", ".join(plan.name for group in conversion.groups for plan in group.plans)
    progress.start(f"writing {names}", sum(group.source_bytes for group in conversion.groups))
    return _bundle(inputs, [write_files(out, group.plans, group.tensors, progress) for group in conversion.groups])


def _prepare(options: Options, inputs: Inputs) -> Conversion:
    """The conversion; worked out once for check, forecast, explain and run, unless a file changes in between."""
    from convert.gguf.conversion import Wish

    source = _checkpoint(inputs)
    wish = Wish(tuple(options.types), options.mmproj, options.name or "", options.pre_tokenizer)
    return _prepared(source.model, tuple(source.roles.items()), _stamps(source), wish)


def _checkpoint(inputs: Inputs) -> Bundle:
    """The one input. Raises InputError for more than one, and for weights that are no checkpoint's."""
    if len(inputs) != 1:
        got = f"takes from {len(inputs)} stages: {', '.join(inputs)}"
        raise InputError("gguf", got, "one", "name one in `from:`")
    ((stage, source),) = inputs.items()
    if other := sorted({a.format for a in source.of(Role.WEIGHTS)} - {"safetensors"}):
        remedy = "take it `from:` source or a stage that makes one"
        raise InputError("gguf", f"stage '{stage}' gives {', '.join(other)} weights", "a checkpoint", remedy)
    return source


@functools.lru_cache(maxsize=2)
def _prepared(
    model: Model, roles: tuple[tuple[Role, tuple[Artifact, ...]], ...], stamps: tuple[object, ...], wish: Wish
) -> Conversion:
    from convert.gguf.conversion import prepare

    return prepare(Bundle(model, dict(roles)), wish)


def _stamps(source: Bundle) -> tuple[object, ...]:
    """What changes when a file of the bundle does."""
    paths = [artifact.path for _, artifact in source.artifacts() if artifact.path.is_file()]
    return tuple((str(path), status.st_mtime_ns, status.st_size) for path in paths for status in [path.stat()])


def _bundle(inputs: Inputs, made: Sequence[tuple[Artifact, ...]]) -> Bundle:
    source = only(inputs)
    return source.with_(weights=made[0], projector=made[1] if len(made) > 1 else ())
