"""Which models a batch is of: folders, patterns of folders, models of the hub, and lists of them.

    models.txt     a line a model: MODEL [name=NAME] [revision=R] [variable=value …]; # begins a comment
    models.csv     a column `model` (or `path`, or `hub`); `name` and `revision` where they are; others are variables
    models.jsonl   an object a line with the same words, or a text

Paths in a list are relative to the list. Nothing here opens a checkpoint: whether one can be converted, its plan says.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.batch.options import ModelEntry, Value
from convert.batch.variables import name_problem, typed
from convert.errors import Problem
from convert.files import read_regular
from convert.inspection.checkpoint_ref import FILES, hub_name
from convert.source.stage import TYPE_IN_NAME, safe
from convert.source.untrusted import shown

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_LIST_BYTES = 64 << 20
WEIGHTS = (".safetensors", ".bin", ".gguf")
LISTS = (".txt", ".csv", ".jsonl")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Model:
    """One model, by its folder or its name on the hub."""

    name: str
    where: str  # where it was asked for, as a person can open it: models.csv:7
    path: Path | None = None
    hub: str = ""
    revision: str = ""
    variables: Mapping[str, Value] = field(default_factory=dict)
    renamed: bool = False  # its name is one that somebody gave it here

    @property
    def place(self) -> str:
        """What it is, however it is called: two of one place are the same model."""
        return str(self.path) if self.path is not None else f"{self.hub}@{self.revision or 'main'}"

    def words(self) -> dict[str, str]:
        """As a recipe's `model:` says it."""
        name = {"name": self.name} if self.renamed else {}
        if self.path is not None:
            return {"path": str(self.path), **name}
        return {"hub": self.hub, **({"revision": self.revision} if self.revision else {}), **name}

    def known(self) -> dict[str, Value]:
        """What variables stand for."""
        own = {"name": self.name, "org": self.hub.rpartition("/")[0], "hub": self.hub, "revision": self.revision}
        own["path"] = str(self.path or "")
        return {**self.variables, **{f"model.{word}": value for word, value in own.items()}}


@dataclass
class Found:
    """What was named, and what was wrong with it."""

    models: list[Model] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def say(self, where: str, got: str, wanted: str = "", remedy: str = "") -> None:
        self.problems.append(Problem(where, got, wanted, remedy))


def add_word(found: Found, word: str, where: str, folder: Path, entry: ModelEntry | None = None) -> None:
    """The models that one word names: a folder, a pattern, a folder of folders, or org/name[@revision]."""
    entry = entry or ModelEntry.model_construct()
    path = folder / Path(word).expanduser()
    if any(c in word for c in "*?[") and not path.exists():
        matches = sorted(p for p in _matching(path) if p.is_dir() or p.suffix == ".gguf")
        if not matches:
            found.say(where, f"no folder is called {shown(word)}", "folders of checkpoints", "check the pattern")
        for match in matches:
            _add(found, _local(match, entry, where))
    elif path.is_dir() and not _is_model(path) and (inner := [p for p in sorted(path.iterdir()) if _is_model(p)]):
        for each in inner:
            _add(found, _local(each, entry, where))
    elif path.exists():
        _add(found, _local(path, entry, where))
    elif HUB.fullmatch(hub_name(word)[0]) and not word.endswith(FILES) and not path.parent.is_dir():
        hub, _, revision = word.partition("@")
        _add(found, _of_hub(hub, entry.revision or revision, entry, where))
    else:
        found.say(where, f"{shown(word)} is not there", "a folder, or org/name[@revision] of the hub", "check the path")


def add_entry(found: Found, entry: ModelEntry, where: str, folder: Path) -> None:
    """The models of an entry that has words of its own."""
    given = [word for word in ("path", "hub", "list") if dict(entry)[word] is not None]
    if len(given) != 1:
        found.say(where, f"names {' and '.join(given) or 'nothing'}", "one of path, hub and list")
    elif entry.list is not None:
        add_list(found, entry.list, entry.variables)
    elif entry.hub is not None:
        if HUB.fullmatch(entry.hub) or re.fullmatch(r"[A-Za-z0-9][\w.-]*", entry.hub):
            _add(found, _of_hub(entry.hub, entry.revision or "", entry, where))
        else:
            found.say(where, f"{shown(entry.hub)} is no name of a hub model", "org/name")
    elif entry.path is not None:
        add_word(found, str(entry.path), where, folder, entry)


def add_list(found: Found, path: Path, variables: Mapping[str, Value] | None = None) -> None:
    """The models of a list, and every line of it that is wrong."""
    before = len(found.models) + len(found.problems)
    for where, words in list_lines(found, path):
        _add_line(found, words, where, path.parent, variables or {})
    if before == len(found.models) + len(found.problems):
        found.say(str(path), "names no model", "a line a model")


def list_lines(found: Found, path: Path) -> Iterator[tuple[str, dict[str, Value]]]:
    """What each line of a list says, and where; what is wrong with others goes to `found`."""
    readers = {".txt": _text_lines, ".csv": _csv_lines, ".jsonl": _json_lines}
    if path.suffix not in readers:
        return found.say(str(path), f"is called {path.suffix or 'nothing'}", ".txt, .csv or .jsonl")
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            return found.say(str(path), "is larger than 64 MiB", "a list of models")
        text = read_regular(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        return found.say(str(path), "is not UTF-8", "a list of models as text")
    except OSError as error:
        return found.say(str(path), f"cannot be read: {error.strerror}", "a list of models")
    for number, words in readers[path.suffix](found, path, text):
        yield f"{path}:{number}", words
    return None


def _add_line(found: Found, words: dict[str, Value], where: str, folder: Path, variables: Mapping[str, Value]) -> None:
    """One line: `model`, `path` or `hub` is the model, `name` and `revision` are its own, the others are variables."""
    own = {
        word: words.pop(word)
        for word in ("model", "path", "hub", "name", "revision")
        if words.get(word) not in ("", None)
    }
    words = {word: value for word, value in words.items() if word not in ("model", "path", "hub", "name", "revision")}
    problems = [problem for word in words for problem in name_problem(word, where)]
    named = [word for word in ("model", "path", "hub") if word in own]
    if len(named) != 1:
        problems.append(Problem(where, f"names {' and '.join(named) or 'no model'}", "one of model, path and hub"))
    problems += [Problem(where, f"{w} is {shown(v)}", "a text") for w, v in own.items() if not isinstance(v, str)]
    if problems:
        found.problems += problems
        return
    texts = {word: str(value) for word, value in own.items()}
    entry = ModelEntry.model_construct(
        name=texts.get("name"), revision=texts.get("revision"), variables={**variables, **words}
    )
    if "hub" in texts:
        add_entry(found, entry.model_copy(update={"hub": texts["hub"]}), where, folder)
    else:
        add_word(found, texts[named[0]], where, folder, entry)


def _text_lines(found: Found, path: Path, text: str) -> Iterator[tuple[int, dict[str, Value]]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            found.say(f"{path}:{number}", f"cannot be read: {error}", "MODEL [variable=value …]")
            continue
        if not words:
            continue
        pairs = [word.partition("=") for word in words[1:]]
        for pair in pairs:
            if not pair[1]:
                found.say(f"{path}:{number}", f"{shown(pair[0])} follows the model", "variable=value")
        if all(pair[1] for pair in pairs):
            yield number, {"model": words[0], **{n: v if n in ("name", "revision") else typed(v) for n, _, v in pairs}}


def _csv_lines(found: Found, path: Path, text: str) -> Iterator[tuple[int, dict[str, Value]]]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        heads = [head.strip() for head in next(reader, [])]
        if not {"model", "path", "hub"} & set(heads):
            found.say(
                f"{path}:1", f"has the columns {', '.join(heads) or 'of nothing'}", "a column `model`, `path` or `hub`"
            )
            return
        if twice := sorted({head for head in heads if heads.count(head) > 1}):
            found.say(f"{path}:1", f"has the column '{twice[0]}' twice", "each once")
            return
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(heads):
                found.say(
                    where, f"has {len(row)} cells", f"{len(heads)}, as its first line", "quote a cell with commas"
                )
                continue
            own, cells = ("model", "path", "hub", "name", "revision"), zip(heads, map(str.strip, row), strict=True)
            yield reader.line_num, {head: cell if head in own else typed(cell) for head, cell in cells if cell}
    except csv.Error as error:
        found.say(f"{path}:{reader.line_num}", f"cannot be read: {error}", "a line of CSV")


def _json_lines(found: Found, path: Path, text: str) -> Iterator[tuple[int, dict[str, Value]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            found.say(where, f"is not valid JSON ({shown(str(error))[1:-1]})", "an object a line")
            continue
        if isinstance(value, str):
            value = {"model": value}
        if not isinstance(value, dict):
            found.say(where, f"is {shown(value)}", "an object")
            continue
        nested = value.pop("variables", {})
        value |= nested if isinstance(nested, dict) else {"variables": nested}
        odd = [key for key, inner in value.items() if not _is_value(inner)]
        for key in odd:
            found.say(where, f"{shown(key)} is {shown(value[key])}", "a text, a number, or a list of them")
        if not odd:
            yield number, value


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(inner, str | int | float) for inner in value)
    return isinstance(value, str | int | float)


def _matching(pattern: Path) -> list[Path]:
    """What a pattern names, however it begins."""
    root = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return list(root.glob(str(pattern.relative_to(root) if pattern.is_absolute() else pattern)))


def _is_model(path: Path) -> bool:
    """Whether a folder looks like a checkpoint, whole or not, or the file is one."""
    if path.is_dir():
        return (path / "config.json").exists() or any(p.suffix in WEIGHTS for p in path.iterdir())
    return path.suffix == ".gguf"


def _add(found: Found, model: Model) -> None:
    from convert.recipe import NAME

    if NAME.fullmatch(model.name):
        found.models.append(model)
    else:
        found.say(
            model.where, f"cannot be called {shown(model.name)}", "letters, digits, '.', '_' and '-'", "give a `name`"
        )


def _local(path: Path, entry: ModelEntry, where: str) -> Model:
    path = _plain(path.absolute())
    stem = path.resolve().name if path.is_dir() else TYPE_IN_NAME.sub("", path.stem)
    return Model(entry.name or safe(stem), where, path, variables=entry.variables, renamed=bool(entry.name))


def _plain(path: Path) -> Path:
    """The path without `..`, unless a link makes that another place."""
    plain = Path(os.path.normpath(path))
    return plain if plain.exists() and plain.samefile(path) else path


def _of_hub(hub: str, revision: str, entry: ModelEntry, where: str) -> Model:
    name = entry.name or hub.rpartition("/")[2]
    return Model(name, where, None, hub, revision, entry.variables, bool(entry.name))
