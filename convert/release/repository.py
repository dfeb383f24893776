"""Rows -> repositories: which file lies where, under which name, as each format's own `release` says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convert import registry
from convert.bundle import Artifact, Role
from convert.errors import Problem, raise_all
from convert.formats.base import Release, Usage
from convert.release.rows import Made, Row

LARGEST = 45_000_000_000  # bytes of a file; the hub takes 50 GB, and rounds them in its own way
IMATRIX = "imatrix.gguf"
NOTICES = ("LICENSE", "NOTICE")  # how files begin that a licence wants carried along


@dataclass(frozen=True)
class Place:
    """A row within a repository: what its files are called there."""

    row: Row
    weights: str
    files: tuple[str, ...]
    projector: str = ""


@dataclass(frozen=True)
class Repository:
    """What is published under one name. `files` are copied as they are, by their path in it."""

    name: str
    library: str
    places: tuple[Place, ...]
    files: Mapping[str, Artifact]
    usage: tuple[Usage, ...] = ()
    notices: tuple[str, ...] = ()  # licences carried along, among the files
    texts: Mapping[str, str] = field(default_factory=dict)  # written beside them

    @property
    def size(self) -> int:
        return sum(artifact.size for artifact in self.files.values())


def lay_out(made: Made, rows: Sequence[Row], name: str | None, most: int | None = LARGEST) -> list[Repository]:
    """The repositories of these rows, in their order. Raises PlanError for two files in one place, and for large ones.

    `most` bytes may be in one file, None: any number.
    """
    groups: dict[str, list[tuple[Row, Release]]] = {}
    for row in rows:
        format_, _ = registry.kinds()[row.output.weights.format]
        release = format_.release(row.output, row.folder)
        groups.setdefault(release.suffix, []).append((row, release))
    model = name or made.source.model.name
    drafts = [_Draft(f"{model}{suffix}", made).of(group) for suffix, group in groups.items()]
    raise_all([problem for draft in drafts for problem in draft.problems])
    repositories = [draft.repository() for draft in drafts]
    raise_all([problem for one in repositories for problem in _too_large(one, most)])
    return repositories


class _Draft:
    """One repository while its rows come in."""

    def __init__(self, name: str, made: Made) -> None:
        self.name, self.made = name, made
        self.files: dict[str, Artifact] = {}
        self.places: list[Place] = []
        self.problems: list[Problem] = []
        self.usage: dict[Usage, None] = {}
        self.library = ""

    def of(self, group: Iterable[tuple[Row, Release]]) -> _Draft:
        for row, release in group:
            self.library = self.library or release.library
            self.add(row, release)
        matrices = [name for name, artifact in self.files.items() if artifact.kind == "gguf/imatrix"]
        if len(matrices) == 1:
            self.files[IMATRIX] = self.files.pop(matrices[0])
        self.notices = tuple(self._carry_notices())
        return self

    def add(self, row: Row, release: Release) -> None:
        known = {artifact.path: artifact for artifact in (*row.output.files, *(a for _, a in row.bundle.artifacts()))}
        named: dict[Path, str] = {}
        for name, path in release.files.items():
            named[path] = self.put(name, known.get(path) or Artifact("", path, path.stat().st_size), row.name)
        for role in release.roles:
            for artifact in row.bundle.of(role):
                if artifact.path not in named:
                    self.put(_companion(role, artifact), artifact, row.name)
        projector = row.output.projector
        shown = named.get(projector.path, "") if projector and row.output.projector_apart else ""
        weights = named[row.output.weights.path]
        self.places.append(Place(row, weights, tuple(dict.fromkeys(named.values())), shown))
        self.usage |= dict.fromkeys(release.usage)

    def put(self, name: str, artifact: Artifact, whose: str) -> str:
        """Where the file lies in the repository; of two equal projectors of other names there is one."""
        there = self.files.get(name)
        if there is not None and there.sha256 != artifact.sha256:
            got = f"{whose} and another output both have a file {name}, with other content"
            remedy = "give one of the stages another `name:`, or publish them one by one with `which:`"
            self.problems.append(Problem(self.name, got, "one file of a name", remedy))
        if artifact.sha256 and artifact.path.name.startswith("mmproj"):
            same = (n for n, a in self.files.items() if a.sha256 == artifact.sha256)
            name = next(same, name)
        self.files.setdefault(name, artifact)
        return name

    def _carry_notices(self) -> Iterable[str]:
        for artifact in self.made.source.of(Role.CARD):
            if artifact.path.name.upper().startswith(NOTICES):
                self.files.setdefault(artifact.path.name, artifact)
                yield artifact.path.name

    def repository(self) -> Repository:
        files = dict(sorted(self.files.items()))
        return Repository(self.name, self.library, tuple(self.places), files, tuple(self.usage), self.notices)


def _companion(role: Role, artifact: Artifact) -> str:
    """Where a file that travels beside the weights lies: at the top, or in the one folder its reader looks in."""
    folder = artifact.path.parent.name
    inner = folder == "additional_chat_templates" or (role is Role.SENTENCES and artifact.path.name != "modules.json")
    return f"{folder}/{artifact.path.name}" if inner else artifact.path.name


def _too_large(repository: Repository, most: int | None) -> Iterable[Problem]:
    for name, artifact in repository.files.items():
        if most is not None and artifact.size > most:
            got = f"{name} has {artifact.size / 1e9:.1f} GB"
            remedy = "split it with `split: 45GB` in its stage" if name.endswith(".gguf") else "leave it out"
            yield Problem(repository.name, got, f"at most {most / 1e9:.0f} GB, which is what hubs take", remedy)
