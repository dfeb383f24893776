"""Repositories on the Hugging Face hub: only what changed is sent, all of it in one commit, and then looked up there.

Large files go up before the commit that names them; of those that are there already, from a run that was cut off too,
none is sent again. The token is the one that huggingface_hub finds (HF_TOKEN, `hf auth login`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import StageError
from convert.progress import Progress
from convert.release import folder_store
from convert.release.sums import SUMS, read_sums
from convert.retry import PASSING, reason, response_of, retrying

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

BRANCH = "main"


@dataclass(frozen=True)
class Remote:
    """A file on the hub: its size, and what is known of its content: sha256 of a large one, git's hash of another."""

    size: int
    sha256: str = ""
    blob: str = ""

    def holds(self, path: Path) -> bool:
        """Whether it is this file."""
        if path.stat().st_size != self.size:
            return False
        return _sha256(path) == self.sha256 if self.sha256 else _blob(path) == self.blob


@dataclass(frozen=True)
class Target:
    """A repository on the hub."""

    organization: str
    name: str
    private: bool = True

    @property
    def id(self) -> str:
        return f"{self.organization}/{self.name}"


def publish(target: Target, folder: Path, progress: Progress) -> str:
    """Send what is not there yet: new, changed or unchanged. Raises StageError for what the hub refuses."""
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(target), _quiet():
        new = _create(api, target, progress)
        there = _tree(api, target, progress)
        ours = {path: folder / path for path in folder_store.files_in(folder)}
        changed = [path for path, file in ours.items() if path not in there or not there[path].holds(file)]
        stale = sorted(_named_before(api, target, there) - set(ours))
        if not changed and not stale:
            return "unchanged"
        _send(api, target, {path: ours[path] for path in changed}, stale, progress)
        _check(target, _tree(api, target, progress), ours)
    return "new" if new else "changed"


def _create(api: HfApi, target: Target, progress: Progress) -> bool:
    """Make the repository where there is none; whether there was none."""
    exists = retrying(f"{target.id}: asking for it", lambda: bool(api.repo_exists(target.id)), progress, _passes)
    if not exists:
        make = lambda: api.create_repo(target.id, private=target.private, exist_ok=True)  # noqa: E731
        retrying(f"{target.id}: making it", make, progress, _passes)
    return not exists


def _tree(api: HfApi, target: Target, progress: Progress) -> dict[str, Remote]:
    """Every file that is there."""

    def listed() -> dict[str, Remote]:
        found = {}
        for entry in api.list_repo_tree(target.id, recursive=True, revision=BRANCH):
            size = vars(entry).get("size")
            if size is not None:  # else it is a folder
                lfs = vars(entry).get("lfs")
                found[entry.path] = Remote(size, lfs.sha256 if lfs else "", vars(entry)["blob_id"])
        return found

    return retrying(f"{target.id}: listing it", listed, progress, _passes)


def _named_before(api: HfApi, target: Target, there: Mapping[str, Remote]) -> set[str]:
    """The files of an earlier release that are still there: those that its list names. Others are somebody's."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    if SUMS not in there:
        return set()
    url = hf_hub_url(target.id, SUMS, revision=BRANCH, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(), timeout=60.0)
    try:
        return set(read_sums(answer.text)) & set(there) if answer.status_code == 200 else set()
    except ValueError:
        return set()


def _send(api: HfApi, target: Target, changed: Mapping[str, Path], stale: list[str], progress: Progress) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    progress.start(f"sending {target.id}", sum(path.stat().st_size for path in changed.values()))
    additions = []
    for name, path in changed.items():
        addition = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        _upload(api, target, addition, progress)
        progress.advance(path.stat().st_size)
        additions.append(addition)
    operations = [*additions, *(CommitOperationDelete(path_in_repo=name) for name in stale)]
    message = "Release" if not stale else "Release, and remove what it has no longer"
    retrying(
        f"{target.id}: the commit",
        lambda: api.create_commit(target.id, operations, commit_message=message, revision=BRANCH),
        progress,
        _passes,
    )


def _upload(api: HfApi, target: Target, addition: CommitOperationAdd, progress: Progress) -> None:
    """Send the bytes of a large file, unless they are there; a small one goes with the commit."""

    def upload() -> None:
        api.preupload_lfs_files(target.id, [addition], revision=BRANCH, free_memory=False)

    retrying(f"{target.id}: {addition.path_in_repo}", upload, progress, _passes)


def _check(target: Target, there: Mapping[str, Remote], ours: Mapping[str, Path]) -> None:
    """That the hub has what was sent. Raises StageError."""
    wrong = [path for path, file in ours.items() if path not in there or not there[path].holds(file)]
    if wrong:
        got = f"has other bytes on the hub than here, after they were sent ({len(wrong)} such files)"
        raise StageError(f"{target.id}/{wrong[0]}", got, "", "run it again")


def _passes(error: Exception) -> bool:
    """Whether it may go well another time: the network, or a server that has too much to do."""
    status, _ = response_of(error)
    if status is not None:
        return status in PASSING
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    kinds = {kind.__name__ for cause in causes if cause is not None for kind in type(cause).__mro__}
    return bool(kinds & {"TransportError", "ConnectionError", "TimeoutError"})  # httpx' or requests', as it has them


@contextmanager
def _told(target: Target) -> Iterator[None]:
    """Whatever the hub says becomes one error with what to do, and no token in it."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise StageError(f"hf://{target.id}", "there is no token", "one that may write", "`hf auth login`, or HF_TOKEN")
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # of huggingface_hub, of what it speaks HTTP with, of hf_xet
        status, _ = response_of(error)
        remedies = {
            401: "the token is not good: `hf auth login`",
            403: f"the token may not write to {target.organization}: make one that may",
            404: f"is there an organization {target.organization}?",
        }
        remedy = remedies.get(status or 0, "run it again: what is there already is not sent again")
        raise StageError(f"hf://{target.id}", reason(error), "", remedy) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of huggingface_hub's own meanwhile."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_on = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if was_on:
            enable_progress_bars()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(path: Path) -> str:
    """git's name of a file's content."""
    hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    hasher.update(path.read_bytes())
    return hasher.hexdigest()
