"""README.md of a repository: the hub's metadata above, and what a person wants to know below.

The numbers are those of report.json; the commands are the formats' own. A recipe may name a template of its own, which
is given the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert import distribution
from convert.errors import PlanError, Problem
from convert.formats.base import Usage
from convert.formats.onnx.layouts import dtype
from convert.json_types import JsonDict
from convert.release import lineage
from convert.release.advice import CONTEXT, Choice, choices, estimated_bytes, first
from convert.release.metadata import Facts, header
from convert.release.repository import Place, Repository
from convert.release.rows import Made
from convert.table import size
from validate.report.words import scientific, visible

if TYPE_CHECKING:
    from convert.release_options import ReleaseOptions

TEMPLATE = Path(__file__).with_name("templates") / "card.md.jinja"
PICTURE = "size-against-drift.svg"
LONGEST_TEMPLATE = 1 << 20
NOTHING = "–"
LOADERS = {
    "image-text-to-text": "AutoModelForImageTextToText",
    "feature-extraction": "AutoModel",
    "sentence-similarity": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class Line:
    """A row of the table of files, in words."""

    file: str
    files: tuple[str, ...]
    type: str
    size: str
    bits: str
    kl: str
    top1: str
    ppl: str
    clicks: str
    state: str  # empty of one that passed
    reason: str


@dataclass(frozen=True)
class Shown:
    """A way to run it, filled in."""

    title: str
    language: str
    text: str


@dataclass(frozen=True)
class CardSource:
    """What a card is made of."""

    made: Made
    repository: Repository
    facts: Facts
    options: ReleaseOptions
    organization: str = ""  # on the hub, where it goes there
    picture: bool = False
    extras: tuple[str, ...] = ()  # files that were written for one runtime: Modelfile


def card(source: CardSource) -> str:
    """README.md. Raises PlanError for a template that cannot be rendered."""
    return f"---\n{header(source.repository, source.facts, source.made)}---\n{_body(source)}"


def _body(source: CardSource) -> str:
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    path = source.options.card or TEMPLATE
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > LONGEST_TEMPLATE:
            raise ValueError("is larger than 1 MiB")
        body = environment.from_string(text).render(words(source))
    except (OSError, TemplateError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, TemplateSyntaxError) else str(path)
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PlanError(
            Problem(where, f"the card's template: {said}", "", "correct it, or leave `card:` out")
        ) from None
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def words(source: CardSource) -> JsonDict:
    """What a template is given."""
    made, repository, model = source.made, source.repository, source.made.source.model
    best = first(repository.places)
    steps = lineage.steps_of(made, (place.row for place in repository.places))
    return {
        "name": repository.name,
        "repository": f"{source.organization}/{repository.name}" if source.organization else repository.name,
        "model": {"name": model.name, "hub": source.facts.base_model, "revision": model.revision},
        "formats": _formats(repository.places),
        "lines": [line(place) for place in repository.places],
        "first": line(best),
        "context": CONTEXT if estimated_bytes(best) else None,
        "choices": [_choice(choice) for choice in choices(repository.places)],
        "usage": list(_usage(source, best)),
        "projectors": list(dict.fromkeys(place.projector for place in repository.places if place.projector)),
        "picture": PICTURE if source.picture else "",
        "failed": [line(place) for place in repository.places if place.row.accepted],
        "unmeasured": [line(place) for place in repository.places if place.row.status not in ("passed", "failed")],
        "calibration": lineage.calibrated_on(made, steps),
        "validation": lineage.measured_on(made),
        "stages": list(lineage.stage_words(steps)),
        "calibrated": lineage.calibrated_by_stage(made, steps),
        "reference": None if made.report is None else made.report["reference"],
        "limits": _limits(repository.places),
        "packages": lineage.packages(made, steps),
        "licence": {"id": source.facts.licence, "spdx": source.facts.spdx, "link": source.facts.licence_link},
        "notices": list(repository.notices),
        "extras": list(source.extras),
        "tool": distribution.NAME,
        "version": distribution.RELEASE,
        "recipe": {"name": made.recipe.name, "sha256": made.recipe.sha256},
        "signed": source.options.sign is not None,
    }


def line(place: Place) -> Line:
    """The row of the table for a file."""
    row, metrics = place.row, dict(place.row.entry["metrics"]) if place.row.entry else {}

    def cell(name: str, write: object) -> str:
        value = metrics.get(name)
        assert callable(write)
        return NOTHING if value is None else str(write(value))

    bits = row.entry["bits_per_weight"] if row.entry else None
    words = {"failed": "did not pass", "not_run": "not run", "passed": ""}.get(row.status, row.status)
    return Line(
        file=place.weights,
        files=place.files,
        type=row.output.weights.type,
        size=size(row.output.weights_size),
        bits=NOTHING if bits is None else f"{bits:.2f}",
        kl=cell("kl_mean", scientific),
        top1=cell("top1", "{:.1%}".format),
        ppl=cell("ppl_ratio", "{:.4f}".format),
        clicks=cell("click_rate", "{:.1%}".format),
        state=words,
        reason=visible(row.reason),
    )


def _choice(choice: Choice) -> JsonDict:
    return {"memory": choice.memory_gb, "line": line(choice.place), "needs": size(choice.needed_bytes)}


def _formats(places: Sequence[Place]) -> list[str]:
    from convert import registry

    kinds = registry.kinds()
    return list(dict.fromkeys(kinds[place.row.output.weights.format][1].title for place in places))


def _limits(places: Sequence[Place]) -> Mapping[str, int]:
    """Status -> how many rows have it."""
    found: dict[str, int] = {}
    for place in places:
        found[place.row.status] = found.get(place.row.status, 0) + 1
    return found


def _usage(source: CardSource, best: Place) -> Iterable[Shown]:
    """The ways to run it that make sense where it is published, with its names in them."""
    words = {
        "repository": f"{source.organization}/{source.repository.name}",
        "name": source.repository.name.lower(),
        "file": best.weights,
        "type": best.row.output.weights.type,
        "projector": best.projector,
        "task": source.facts.task,
        "loader": LOADERS.get(source.facts.task, "AutoModelForCausalLM"),
        "dtype": dtype(best.weights),
    }
    for usage in source.repository.usage:
        if (usage.hub and not source.organization) or ("Modelfile" in usage.text and "Modelfile" not in source.extras):
            continue
        yield Shown(usage.title, usage.language, filled(usage, words))


def filled(usage: Usage, words: Mapping[str, str]) -> str:
    """The text with its words; without the lines that say a word there is nothing for."""
    lines = []
    for text in usage.text.rstrip("\n").splitlines():
        names = re.findall(r"\{(\w+)\}", text)
        if all(words.get(name, "?") for name in names):
            lines.append(re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), text))
    return "\n".join(lines)
