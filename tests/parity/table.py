"""The tables of families in the docs, made of the folder of families and the registry of tiny checkpoints.

python -m tests.parity.table            prints them
python -m tests.parity.table --write    puts them into docs/reference/families.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from convert import architectures, registry
from convert.architectures import ANSWERS, EXPERTS, Family, TensorRole
from tests.marked import between, put_between
from tests.parity.families import Case, families

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
BEGIN, END = "<!-- families: python -m tests.parity.table --write -->", "<!-- /families -->"

HEAD = (
    "| family | model classes (`architectures` in config.json) | besides GGUF | proof |",
    "| :-- | :-- | :-- | :-- |",
)
SHORT = {"compressed": "GPTQ/AWQ/FP8", "onnx": "ONNX"}  # formats of a family's own models; TensorRT is made of ONNX
PROOF = """\
What is compared, on tiny checkpoints of random weights in the layout of the real ones (with their number):

- bytes: upstream's converter makes the same tensors, byte for byte, and the same metadata but for a short list
- logits: llama.cpp computes from our file what transformers computes from the source
- vectors: the same of embedders and rerankers
- images, sound: the embeddings that the projector's file gives, and the logits behind them"""
STATES = {TensorRole.STATE_SPACE, TensorRole.CONVOLUTION}


def _gives(family: Family) -> str:
    """What most of its classes give."""
    said = [family.gives.get(name, architectures.TEXT) for name in family.classes]
    return max(said, key=said.count)


def _has(family: Family, roles: Iterable[TensorRole]) -> bool:
    return not family.usual_roles().present.isdisjoint(roles)


GROUPS: tuple[tuple[str, Callable[[Family], bool]], ...] = (  # a family is in the first that fits
    ("Images", lambda family: family.has_vision),
    ("Sound", lambda family: family.has_audio),
    ("Encoder-decoders", lambda family: _gives(family) == ANSWERS),
    ("Encoders", lambda family: _gives(family) != architectures.TEXT),
    ("State space and hybrids", lambda family: _has(family, STATES)),
    ("Experts", lambda family: _has(family, EXPERTS)),
    ("Text", lambda family: True),
)
ORDER = ("Text", "Experts", "State space and hybrids", "Encoders", "Encoder-decoders", "Images", "Sound")


def table() -> str:
    """The tables in Markdown, one a group, each with what is not compared in it and why."""
    every, found = architectures.families(), grouped()
    classes = sum(len(family.classes) for family in every)
    counts = ", ".join(f"{len(found[group])} {_inside(group)}" for group in ORDER if found[group])
    lines = [f"{len(every)} families with {classes} classes: {counts}.", "", PROOF]
    for group in ORDER:
        if found[group]:
            lines += ["", f"## {group}", "", *_table(found[group])]
    return "\n".join(lines)


def _inside(group: str) -> str:
    """The group's name within a sentence."""
    return {"Images": "with images", "Sound": "with sound", "Text": "of plain text", "Experts": "with experts"}.get(
        group, group[0].lower() + group[1:]
    )


def grouped() -> dict[str, list[Family]]:
    """Group -> its families, in the order of their titles."""
    found: dict[str, list[Family]] = {group: [] for group in ORDER}
    for family in sorted(architectures.families(), key=lambda family: family.title.lower()):
        found[next(group for group, fits in GROUPS if fits(family))].append(family)
    return found


def _table(members: Sequence[Family]) -> Iterator[str]:
    cases = families()
    yield from HEAD
    for family in members:
        classes = ", ".join(f"`{name}`" for name in family.classes)
        proof = ", ".join(proofs(cases.get(family.name, []))) or "none"
        yield f"| {family.title} | {classes} | {_formats(family)} | {proof} |"
    if reasons := [line for family in members for line in _reasons(family, cases.get(family.name, []))]:
        yield from ("", *reasons)


def _formats(family: Family) -> str:
    takes = {format_.name for format_ in registry.formats() if format_.supports_family(family).yes}
    return ", ".join(words for name, words in SHORT.items() if name in takes)


def proofs(cases: Sequence[Case]) -> Iterator[str]:
    """What of a family's tiny checkpoints is compared, in a word each; with a number where there are several."""
    computed = [case for case in cases if not case.no_logits]
    counts = {
        "bytes": [case for case in cases if not case.no_parity],
        "logits": [case for case in computed if case.writes],
        "vectors": [case for case in computed if not case.writes],
        "images": [case for case in cases if case.image],
        "sound": [case for case in cases if case.sound],
    }
    for word, having in counts.items():
        if having:
            yield f"{word} ({len(having)})" if len(having) > 1 else word


def _reasons(family: Family, cases: Sequence[Case]) -> Iterator[str]:
    """Why nothing of a family is compared in one of the two ways."""
    if cases and all(case.no_parity for case in cases):
        yield f"- {family.title}, no bytes: {cases[0].no_parity}"
    if cases and all(case.no_logits for case in cases):
        yield f"- {family.title}, no logits: {cases[0].no_logits}"


def on_page(text: str) -> str:
    """What the page has between the two comments."""
    return between(text, BEGIN, END)


def write() -> None:
    """Put the tables into the page."""
    put_between(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(table())
