"""`convert verify`: whether a repository is what was published, and if not, which file is not, and where.

Three lists name the files: SHA256SUMS, release.json and provenance.json. A file that none of them knows as it is was
changed; where some do, the others were. So a flipped bit in a list is not taken for one in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.errors import InputError
from convert.files import read_regular
from convert.json_types import JsonObject
from convert.progress import Progress
from convert.release import folder_store, signature, structure
from convert.release.hashing import FileHash, hash_file
from convert.release.provenance import subjects
from convert.release.signature import Trusted
from convert.release.sums import PROVENANCE, RELEASE, SIGNATURE, SUMS, is_whole, read_release, read_sums
from convert.source.untrusted import shown
from convert.table import size

IGNORED = (".gitattributes", ".git/", ".cache/")  # what hubs and downloads put there themselves
LISTS = (SUMS, RELEASE, PROVENANCE)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was published."""

    path: str
    what: str
    first: tuple[int, int] | None = None  # bytes, the first of them that are known to hold a difference
    inside: str = ""  # what lies there


@dataclass(frozen=True)
class Verified:
    """A repository that was looked at."""

    folder: Path
    files: int
    bytes: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Lists:
    """What the lists say; one that cannot be read says nothing, and is a finding."""

    sums: Mapping[str, str] | None = None
    entries: Mapping[str, FileHash] | None = None
    subjects: Mapping[str, str] | None = None
    words: JsonObject = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def said(self, path: str) -> dict[str, str]:
        """List -> the hash it has of a file, of those lists that have one."""
        entry = self.entries.get(path) if self.entries is not None else None
        found = {
            SUMS: (self.sums or {}).get(path),
            RELEASE: entry.sha256 if entry else None,
            PROVENANCE: (self.subjects or {}).get(path),
        }
        return {name: digest for name, digest in found.items() if digest is not None}

    @property
    def paths(self) -> list[str]:
        return sorted({*(self.sums or {}), *(self.entries or {}), *(self.subjects or {})})


def repositories(folder: Path) -> list[Path]:
    """The folder itself, or those in it that a release made. Raises InputError where there are none."""
    if any((folder / name).is_file() for name in LISTS):
        return [folder]
    if not folder.is_dir():
        raise InputError(str(folder), "is no folder", "one that `convert release` made")
    found = sorted(path for path in folder.iterdir() if any((path / name).is_file() for name in LISTS))
    if not found:
        raise InputError(str(folder), f"has no {SUMS}, and no folder in it has", "what `convert release` made")
    return [path for path in found if path.suffix not in (".partial", ".old")]


def verify(folder: Path, progress: Progress, trusted: Trusted | None = None) -> Verified:
    """Every file read, and held to what was said of it; the signature too, where somebody is trusted."""
    lists = _read_lists(folder)
    there = [path for path in folder_store.files_in(folder) if not path.startswith(IGNORED)]
    present = set(there)
    progress.start(
        f"reading {folder.name}", sum((folder / path).stat().st_size for path in there if _is_file(folder, path))
    )
    findings = list(lists.findings)
    for path in lists.paths:
        if path in present:
            findings += _checked(folder, path, lists, progress)
        else:
            findings += _missing(path, lists)
    findings += [Finding(path, "is no part of the release") for path in there if path not in {*lists.paths, SUMS}]
    findings += [
        Finding(path, what) for path in there if _is_file(folder, path) for what in structure.problems(folder / path)
    ]
    if trusted is not None and (said := signature.problem(folder, trusted)):
        findings.append(Finding(SIGNATURE, said))
    sized = sum((folder / path).stat().st_size for path in there if _is_file(folder, path))
    notes = ("it is signed; --key says by whom it has to be",) if SIGNATURE in present and trusted is None else ()
    return Verified(folder, len(there), sized, tuple(_merged(findings)), notes)


def _is_file(folder: Path, path: str) -> bool:
    return (folder / path).is_file()


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding a file and reason, in the order of files."""
    yield from sorted(dict.fromkeys(findings), key=lambda finding: finding.path)


def _read_lists(folder: Path) -> _Lists:
    lists = _Lists()
    try:
        lists.sums = read_sums(read_regular(folder / SUMS).decode("utf-8"))
    except (OSError, ValueError) as error:
        said = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        lists.findings.append(Finding(SUMS, said))
    try:
        lists.words, lists.entries = read_release(folder / RELEASE)
    except InputError as error:
        lists.findings.append(Finding(RELEASE, error.problem.got))
    try:
        lists.subjects = subjects(json.loads(read_regular(folder / PROVENANCE)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        missing = isinstance(error, FileNotFoundError)
        said = "is missing" if missing else f"cannot be read ({shown(str(error), 100)[1:-1]})"
        lists.findings.append(Finding(PROVENANCE, said))
    return lists


def _checked(folder: Path, path: str, lists: _Lists, progress: Progress) -> Iterator[Finding]:
    """What is wrong with a file that is there, or with the lists that speak of it."""
    said = lists.said(path)
    entry = (lists.entries or {}).get(path)
    if not _is_file(folder, path):
        yield Finding(path, "is no file")
        return
    found = hash_file(folder / path, progress, entry.part_bytes if entry else None)
    right = {name for name, digest in said.items() if digest == found.sha256}
    if path == RELEASE and not right and lists.words:
        whole = is_whole((folder / path).read_text(encoding="utf-8"), lists.words)
        yield Finding(SUMS, f"has another hash of {path}") if whole else _changed(folder, path, found, None)
        return
    if not right:
        yield _changed(folder, path, found, entry)
        if set(said) == {SUMS}:
            yield Finding(SUMS, f"has another hash of {path}: one of the two was changed")
        return
    for name in _speaking(path, lists):
        if name not in said:
            yield Finding(name, f"does not name {shown(path)}")
        elif name not in right:
            yield Finding(name, f"has another hash of {path} than that file, of which the other lists are right")


def _speaking(path: str, lists: _Lists) -> Iterator[str]:
    """The lists that have to name a file."""
    if lists.sums is not None:
        yield SUMS
    if lists.entries is not None and path not in (RELEASE, SIGNATURE):
        yield RELEASE
    if lists.subjects is not None and path not in (RELEASE, SIGNATURE, PROVENANCE):
        yield PROVENANCE


def _missing(path: str, lists: _Lists) -> Iterator[Finding]:
    """A file that is not there is gone; or a list's word for it was changed, where the other lists do not have it."""
    said = lists.said(path)
    others = [name for name in _speaking(path, lists) if name not in said]
    if others and len(said) == 1:
        (name,) = said
        yield Finding(name, f"names {shown(path)}, which is not there and in no other list")
    else:
        yield Finding(path, "is missing")


def _changed(folder: Path, path: str, found: FileHash, entry: FileHash | None) -> Finding:
    """The first range of a file that is not as it was."""
    if entry is None:
        return Finding(path, "was changed", (0, found.size))
    number = next(
        (i for i, (now, then) in enumerate(zip(found.parts, entry.parts, strict=False)) if now != then),
        min(len(found.parts), len(entry.parts)),
    )
    start = number * entry.part_bytes
    stop = min(start + entry.part_bytes, max(found.size, entry.size))
    length = f": it has {found.size:,} bytes, wanted {entry.size:,}" if found.size != entry.size else ""
    if start >= stop:  # the parts are right and the whole is not: release.json was changed too
        return Finding(path, f"was changed{length}", (0, found.size))
    inside = structure.named(structure.parts(folder / path), start, stop)
    return Finding(path, f"was changed{length}", (start, stop), inside)


def line(finding: Finding) -> str:
    """The finding for people."""
    place = f", first in bytes {finding.first[0]:,} to {finding.first[1] - 1:,}" if finding.first else ""
    inside = f" ({finding.inside})" if finding.inside else ""
    return f"{finding.path}: {finding.what}{place}{inside}"


def summary(found: Verified) -> str:
    """How much was read, and with what result."""
    bad = len({finding.path for finding in found.findings})
    verdict = "all as published" if not bad else f"{bad} not as published"
    return f"{found.folder}: {found.files} files, {size(found.bytes)}: {verdict}"
