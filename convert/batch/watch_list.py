"""What is watched: owners and models of the hub, and which of their models are wanted.

    watch.txt      microsoft name=Phi-* tags=safetensors,text-generation min_downloads=1000
                   Qwen/Qwen3-8B revision=main

.csv has a column a filter beside `model`, .jsonl an object a line. A filter that is left out asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from convert.batch.models import COMMAND_LINE, HUB, LISTS, Found, list_lines
from convert.batch.options import Value
from convert.errors import Problem
from convert.source import hub
from convert.source.hub_listing import Listed
from convert.source.untrusted import shown
from convert.suggest import suggest

OWNER = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
DATE = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+Z?)?")
TEXTS = ("name", "without", "tags", "without_tags", "pipeline", "library", "since", "revision")
COUNTS = ("min_downloads", "min_likes")
FILTERS = (*TEXTS, *COUNTS, "gated")


@dataclass(frozen=True)
class Watch:
    """An owner, or one model, and which of its models count."""

    word: str  # org, or org/name
    where: str
    filters: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What was watched for: another filter is another watch, which has seen nothing yet."""
        return " ".join([self.word, *(f"{name}={self.filters[name]}" for name in sorted(self.filters))])

    @property
    def is_model(self) -> bool:
        return "/" in self.word

    @property
    def revision(self) -> str:
        return self.filters.get("revision") or hub.DEFAULT_REVISION

    @property
    def by_popularity(self) -> bool:
        """Whether a model may be wanted from one day to the next with no change of its own."""
        return any(name in self.filters for name in COUNTS)

    def wants(self, model: Listed) -> bool:
        """Whether the model passes all filters."""
        own, f = model.name.rpartition("/")[2], self.filters
        tags = {*model.tags, model.pipeline, model.library}
        return (
            (not f.get("name") or any(fnmatchcase(own, p) for p in _words(f["name"])))
            and not any(fnmatchcase(own, p) for p in _words(f.get("without", "")))
            and set(_words(f.get("tags", ""))) <= tags
            and not set(_words(f.get("without_tags", ""))) & tags
            and f.get("pipeline", model.pipeline) == model.pipeline
            and f.get("library", model.library) == model.library
            and model.downloads >= int(f.get("min_downloads", 0))
            and model.likes >= int(f.get("min_likes", 0))
            and f.get("gated", str(model.gated).lower()) == str(model.gated).lower()
            and model.modified >= f.get("since", "")
        )


@dataclass
class Watched:
    """What is watched, and what was wrong with other lines."""

    watches: list[Watch] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def watched(words: Sequence[str], filters: Sequence[str] = ()) -> Watched:
    """All that words and the lists among them name; `filters` are those of every line: name=Phi-*."""
    found, shared = Watched(), dict[str, Value]()
    for one in filters:
        name, mark, value = one.partition("=")
        if not mark:
            found.problems.append(Problem("--filter", f"{shown(one)} says no value", "name=Phi-*"))
        elif wrong := list(_wrong(name, value, "--filter")):
            found.problems += wrong
        else:
            shared[name] = value
    for word in words:
        if Path(word).suffix in LISTS:
            _add_list(found, Path(word), shared)
        else:
            _add(found, {"model": word}, COMMAND_LINE, shared)
    first: dict[str, Watch] = {}
    for watch in found.watches:
        other = first.setdefault(watch.key, watch)
        if other is not watch:
            found.problems.append(Problem(watch.where, f"watches {watch.key} again", "", f"{other.where} does"))
    found.watches = list(first.values())
    return found


def _add_list(found: Watched, path: Path, shared: Mapping[str, Value]) -> None:
    lines = Found()
    before = len(found.watches) + len(found.problems)
    for where, words in list_lines(lines, path):
        _add(found, words, where, shared)
    found.problems += lines.problems
    if before == len(found.watches) + len(found.problems):
        found.problems.append(Problem(str(path), "names nothing to watch", "a line an owner or a model"))


def _add(found: Watched, words: Mapping[str, Value], where: str, shared: Mapping[str, Value]) -> None:
    given = {name: value for name, value in words.items() if value not in ("", None)}
    word = given.pop("model", given.pop("hub", None))
    problems = []
    if not isinstance(word, str) or not (OWNER.fullmatch(word) or HUB.fullmatch(word)):
        got = "names no model" if word is None else f"{shown(word)} is no name of the hub"
        problems.append(Problem(where, got, "org, or org/name"))
    filters = {name: _text(value) for name, value in {**shared, **given}.items()}
    problems += [problem for name, value in filters.items() for problem in _wrong(name, value, where)]
    if not problems and "revision" in filters and not HUB.fullmatch(str(word)):
        problems.append(Problem(where, "`revision` is of one model", "org/name", "leave it out"))
    if problems:
        found.problems += problems
    else:
        found.watches.append(Watch(str(word), where, filters))


def _wrong(name: str, value: str, where: str) -> Iterable[Problem]:
    if name not in FILTERS:
        yield Problem(where, f"there is no filter {shown(name)}", "", suggest(name, FILTERS))
    elif name in COUNTS and not value.isdigit():
        yield Problem(where, f"{name} is {shown(value)}", "a number")
    elif name == "gated" and value not in ("true", "false"):
        yield Problem(where, f"gated is {shown(value)}", "true or false")
    elif name == "since" and not DATE.fullmatch(value):
        yield Problem(where, f"since is {shown(value)}", "a date: 2026-11-29")


def _text(value: Value) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
