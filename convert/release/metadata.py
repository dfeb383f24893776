"""The YAML above a card, as the hub reads it: licence, languages, base model, tags, and what was measured.

Made with huggingface_hub's own classes, which know its words. What the source's card says is a stranger's: what is of
another type than the hub's is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.bundle import Role
from convert.json_types import JsonDict, JsonObject
from convert.release.licences import hub_id, spdx
from convert.release.repository import Repository
from convert.release.rows import Made
from convert.source.card import read_card

if TYPE_CHECKING:
    from convert.release_options import ReleaseOptions

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z")
MEASURED = (
    ("kl_mean", "kl_divergence", "mean KL to the source, nats"),
    ("top1", "top1_agreement", "equal most likely tokens"),
)
MOST_TAGS = 40


@dataclass(frozen=True)
class Facts:
    """What is known of the model beside its files."""

    licence: str = ""  # as the hub calls it
    licence_name: str = ""
    licence_link: str = ""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    task: str = "text-generation"
    base_model: str = ""  # the hub's id of the source

    @property
    def spdx(self) -> str:
        return spdx(self.licence, self.licence_name)


def facts(made: Made, options: ReleaseOptions) -> Facts:
    """By the source's card, its config, and what the recipe says."""
    files = made.source.of(Role.CARD)
    said, _ = read_card(next((a.path for a in files if a.path.name == "README.md"), None))
    hub = options.base_model or made.source.model.hub
    licence = _text(said.get("license")) or hub_id(options.license or "")
    return Facts(
        licence=licence.lower(),
        licence_name=_text(said.get("license_name")),
        licence_link=_text(said.get("license_link")),
        languages=tuple(_texts(said.get("language")) or options.languages),
        tags=tuple(dict.fromkeys([*options.tags, *_texts(said.get("tags"))]))[:MOST_TAGS],
        task=_text(said.get("pipeline_tag")) or _task(made),
        base_model=hub if HUB_ID.match(hub) else "",
    )


def header(repository: Repository, known: Facts, made: Made) -> str:
    """The YAML, with a newline at its end."""
    from huggingface_hub import ModelCardData

    words: JsonDict = {
        "license": known.licence or None,
        "license_name": known.licence_name or None,
        "license_link": known.licence_link or None,
        "language": list(known.languages) or None,
        "library_name": repository.library or None,
        "pipeline_tag": known.task or None,
        "base_model": known.base_model or None,
        "tags": list(dict.fromkeys([*_format_tags(repository), *known.tags])) or None,
    }
    if known.base_model:
        words["base_model_relation"] = "quantized"
    results = list(_results(repository, known, made))
    if results:
        words |= {"model_name": repository.name, "eval_results": results}
    return str(ModelCardData(**{name: value for name, value in words.items() if value is not None}).to_yaml()) + "\n"


def _results(repository: Repository, known: Facts, made: Made) -> Iterable[object]:
    from huggingface_hub import EvalResult

    if made.report is None:
        return
    texts = ", ".join(text["name"] for text in made.report["texts"]) or "texts"
    for place in repository.places:
        entry = place.row.entry
        for metric, kind, words in MEASURED:
            value = entry["metrics"].get(metric) if entry else None
            if value is not None:
                yield EvalResult(
                    task_type=known.task or "text-generation",
                    dataset_type=re.sub(r"[^\w.-]+", "-", texts),
                    dataset_name=texts,
                    metric_type=kind,
                    metric_name=f"{place.weights}: {words}",
                    metric_value=float(f"{value:.6g}"),
                )


def _format_tags(repository: Repository) -> Iterable[str]:
    yield from ("quantized", repository.library)
    for place in repository.places:
        yield place.row.output.weights.format.partition("-")[0]


def _task(made: Made) -> str:
    """Where no card says: by what the config shows."""
    config = _config(made)
    if isinstance(config.get("vision_config"), dict):
        return "image-text-to-text"
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if made.source.of(Role.SENTENCES):
        return "sentence-similarity"
    return "feature-extraction" if architecture.endswith("Model") else "text-generation"


def _config(made: Made) -> JsonObject:
    from convert.source.companions import read_companions

    return read_companions(made.source, tokenizer=False).config


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) and value.isprintable() else ""


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for one in values if (text := _text(one))]
