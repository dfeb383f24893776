"""`convert release`: a finished run -> repositories in one place, or what would be sent there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact
from convert.errors import PlanError, Problem, raise_all
from convert.files import STATE_FOLDER
from convert.hashes import HashMemory
from convert.lock import hold
from convert.progress import Progress
from convert.recipe import Recipe
from convert.release import folder_store, hub_store, object_store, signature, triton
from convert.release.contents import Contents, contents, hashed
from convert.release.hashing import FileHash, PartMemory
from convert.release.repository import LARGEST, lay_out
from convert.release.rows import Made, collect, select
from convert.release.signature import Signer
from convert.release_options import ReleaseOptions
from convert.store.objects import open_store

if TYPE_CHECKING:
    from convert.release.rows import Row

STAGING = "release"  # below the state folder of a run: what is sent to a server, as links


@dataclass(frozen=True)
class Published:
    """One repository, and what became of it."""

    name: str
    where: str
    contents: Contents
    state: str  # new, changed, unchanged; would be …


@dataclass(frozen=True)
class Release:
    """All that was published, and the outputs that were not, with the reason."""

    repositories: tuple[Published, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """What is asked: the options, what is published though it failed, and whether anything is written at all."""

    options: ReleaseOptions
    accepted: Collection[str] = ()
    dry_run: bool = False


def release(recipe: Recipe, out: Path, request: Request, progress: Progress) -> Release:
    """Publish what `out`/<recipe name> holds at `options.to`. Raises PlanError before anything is written."""
    options = request.options
    if options.to is None:
        raise PlanError(Problem(str(recipe.path), "no place to publish at", "", "--to FOLDER, or `release: {to: …}`"))
    folder = out.absolute() / recipe.name
    with ExitStack() as stack:
        if (folder / STATE_FOLDER).is_dir():
            stack.enter_context(hold(folder))
        made = collect(recipe, out, progress)
        chosen = select(made.rows, options.which, request.accepted)
        parts = PartMemory(folder / STATE_FOLDER / "parts.json")
        every = _contents(made, chosen, options, parts, progress)
        parts.save(frozenset(found.sha256 for one in every for found in one.hashes.values()))
        published = _publish(made, every, request, progress)
        made.planned.hashes.save()
    names = {row.name for row in chosen}
    left = {row.name: row.reason or row.status.replace("_", " ") for row in made.rows if row.name not in names}
    return Release(tuple(published), left)


def _contents(
    made: Made, chosen: Sequence[Row], options: ReleaseOptions, parts: PartMemory, progress: Progress
) -> list[Contents]:
    to = options.to or ""
    limited = "://" not in to or to.startswith("hf://")
    repositories = lay_out(made, chosen, options.name, LARGEST if limited else None)
    organization = to.removeprefix("hf://").partition("/")[0] if to.startswith("hf://") else ""
    served = triton.repository(made, chosen, options)
    repositories += [] if served is None else [served]

    def read(files: Mapping[str, Artifact]) -> Mapping[str, FileHash]:
        return hashed(files, made, parts, progress)

    return [contents(made, one, options, organization, read) for one in repositories]


def _publish(made: Made, every: Sequence[Contents], request: Request, progress: Progress) -> list[Published]:
    to = request.options.to or ""
    if "://" not in to:
        return _publish_folders(made, every, request, Path(to).absolute(), progress)
    if not to.startswith("hf://"):
        open_store(to)
    if request.dry_run:
        return [Published(one.repository.name, _url(to, one), one, "sent where it is not there") for one in every]
    # Built here first, of links: what is sent is what was hashed, and a server's copy can be told from it.
    staging = made.planned.folder / STATE_FOLDER / STAGING
    staged = _publish_folders(made, every, request, staging, progress)
    found = []
    for one, local in zip(every, staged, strict=True):
        where, folder = _url(to, one), Path(local.where)
        if to.startswith("hf://"):
            target = hub_store.Target(where.split("/")[2], one.repository.name, request.options.private)
            state = hub_store.publish(target, folder, progress)
        else:
            state = object_store.publish(where, folder, progress)
        found.append(Published(one.repository.name, where, one, state))
    return found


def _url(to: str, one: Contents) -> str:
    """Where a repository goes: {name} stands for its name, which is else put at the end."""
    name = one.repository.name
    return to.replace("{name}", name) if "{name}" in to else f"{to.rstrip('/')}/{name}"


def _publish_folders(
    made: Made, every: Sequence[Contents], request: Request, home: Path, progress: Progress
) -> list[Published]:
    memory, signer = made.planned.hashes, _signer(request.options)
    theirs = [problem for one in every for problem in folder_store.check_ours(home / one.repository.name)]
    raise_all([*signature.check(signer), *theirs])
    found = []
    with ExitStack() as stack:
        if not request.dry_run:
            (home / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(home))
        for one in every:
            folder = home / one.repository.name
            state = _state(folder, one, memory, signer)
            if not request.dry_run and state != "unchanged":
                folder_store.publish(folder, one, memory, progress, signer)
            found.append(Published(one.repository.name, str(folder), one, state))
    return found


def _signer(options: ReleaseOptions) -> Signer | None:
    return None if options.sign is None else Signer(options.sign, options.certificate, options.chain)


def _state(folder: Path, one: Contents, memory: HashMemory, signer: Signer | None) -> str:
    if not folder.exists():
        return "new"
    return "unchanged" if folder_store.published(folder, one, memory, signer) else "changed"
