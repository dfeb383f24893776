"""All files of a repository: those of the run as they are, and the texts that go with them, each with its hash.

The order matters: a card shows what was made, a bill of materials counts the card, the provenance counts both, and
SHA256SUMS everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert import distribution
from convert.bundle import Artifact
from convert.errors import StageError
from convert.progress import Progress
from convert.release import provenance
from convert.release.card import PICTURE, CardSource, card
from convert.release.extras import extras
from convert.release.hashing import FileHash, PartMemory, hash_file, hash_text
from convert.release.metadata import facts
from convert.release.repository import Repository
from convert.release.rows import Made
from convert.release.sums import BILL, PROVENANCE, RELEASE, SUMS, write_release, write_sums

if TYPE_CHECKING:
    from convert.release_options import ReleaseOptions

CARD = "README.md"
Reader = Callable[[Mapping[str, Artifact]], Mapping[str, FileHash]]


@dataclass(frozen=True)
class Contents:
    """A repository, whole: `files` are copied, `texts` written. `hashes` are of all but SHA256SUMS itself."""

    repository: Repository
    files: Mapping[str, Path]
    texts: Mapping[str, str]
    hashes: Mapping[str, FileHash]

    @property
    def size(self) -> int:
        return sum(found.size for found in self.hashes.values()) + len(self.texts[SUMS].encode())


def contents(made: Made, repository: Repository, options: ReleaseOptions, organization: str, read: Reader) -> Contents:
    """The repository with its texts; `read` gives the hashes of files."""
    added = extras(made, repository, options, organization)
    repository = replace(repository, files={**repository.files, **added.files})
    hashes = read(repository.files)
    texts = dict(added.texts)
    known = facts(made, options)
    picture = _picture(made, repository)
    if picture:
        texts[PICTURE] = picture
    names = tuple(added.texts)
    texts[CARD] = card(CardSource(made, repository, known, options, organization, bool(picture), names))
    every = {**hashes, **_of_texts(texts)}
    texts[BILL] = provenance.bill(made, repository, every, known.spdx)
    every |= _of_texts({BILL: texts[BILL]})
    texts[PROVENANCE] = provenance.statement(made, repository, every)
    every |= _of_texts({PROVENANCE: texts[PROVENANCE]})
    texts[RELEASE] = write_release(_words(made, repository), every)
    every |= _of_texts({RELEASE: texts[RELEASE]})
    texts[SUMS] = write_sums({path: found.sha256 for path, found in every.items()})
    files = {name: artifact.path for name, artifact in repository.files.items() if name not in texts}
    return Contents(repository, files, texts, every)


def _of_texts(texts: Mapping[str, str]) -> dict[str, FileHash]:
    return {name: hash_text(text) for name, text in texts.items()}


def _words(made: Made, repository: Repository) -> dict[str, object]:
    model = made.source.model
    return {
        "name": repository.name,
        "model": {"name": model.name, "hub": model.hub, "revision": model.revision},
        "recipe": {"name": made.recipe.name, "sha256": made.recipe.sha256},
        "made_by": {"name": distribution.NAME, "version": distribution.RELEASE},
        "outputs": [
            {
                "file": place.weights,
                "files": list(place.files),
                "projector": place.projector,
                "stage": place.row.output.stage,
                "format": place.row.output.weights.format,
                "type": place.row.output.weights.type,
                "status": place.row.status,
                "accepted": place.row.accepted,
            }
            for place in repository.places
        ],
    }


def _picture(made: Made, repository: Repository) -> str:
    from validate.report.picture import size_against_drift

    labels = {place.row.entry["label"] for place in repository.places if place.row.entry is not None}
    return size_against_drift(made.report, labels) if made.report is not None else ""


def hashed(files: Mapping[str, Artifact], made: Made, memory: PartMemory, progress: Progress) -> dict[str, FileHash]:
    """The hashes of a run's files; what is known and unchanged is not read. Raises StageError for what was changed."""
    found: dict[str, FileHash] = {}
    unread = []
    for name, artifact in files.items():
        now = made.planned.hashes.recall(artifact.path)
        known = memory.recall(artifact.sha256) if now and now == artifact.sha256 else None
        if known is None:
            unread.append(name)
        else:
            found[name] = known
    if unread:
        progress.start("hashing what is published", sum(files[name].path.stat().st_size for name in unread))
    for name in unread:
        found[name] = hash_file(files[name].path, progress)
        if files[name].sha256 and found[name].sha256 != files[name].sha256:
            got = f"was changed since it was made: {found[name].sha256[:16]}…"
            raise StageError(str(files[name].path), got, f"{files[name].sha256[:16]}…", "`convert run` makes it again")
        memory.learn(found[name])
    return found
