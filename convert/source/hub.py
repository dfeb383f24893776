"""Checkpoints of the Hugging Face hub: found in its cache without a network, fetched into it when asked to."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from convert.errors import InputError
from convert.progress import Progress
from convert.source.checkpoint import PICKLES, SAFETENSORS, layout, read_config, weight_files
from convert.source.companions import SENTENCEPIECE

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

DEFAULT_REVISION = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
NETWORK_SECONDS = 10.0

TIKTOKEN = ("*.tiktoken", "tiktoken.model")
SENTENCES = ("[0-9]_Pooling/config.json", "[0-9]_Dense/config.json", "[0-9]_Dense/model.safetensors")
COMPANION_PATTERNS = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.txt"),
    *(*SENTENCEPIECE, *TIKTOKEN, *SENTENCES),
)
CARD_PATTERNS = ("README.md", "LICENSE*", "NOTICE*")


def locate(hub: str, revision: str, *, download: bool, progress: Progress) -> Path:
    """The folder of the checkpoint in the hub's cache: `models--org--name/snapshots/<commit>`.

    With `download`, what is missing is fetched first. Raises InputError, naming the cache that was looked in, when the
    checkpoint is not there whole.
    """
    folder = cached(hub, revision)
    if folder is not None:
        return folder
    if not download or _offline():
        raise _not_here(hub, revision, "the hub is not asked" if not download else "HF_HUB_OFFLINE is set")
    return _download(hub, revision, progress)


def cached(hub: str, revision: str) -> Path | None:
    """The folder of a checkpoint that is whole in the cache, else None; never touches the network."""
    commit = resolve_revision(hub, revision)
    folder = _repository(hub) / "snapshots" / commit if commit else None
    return folder if folder is not None and not _incomplete(folder) else None


def resolve_revision(hub: str, revision: str) -> str:
    """The commit that a branch, tag or commit stands for, as the cache knows it; empty when it does not."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (_repository(hub) / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return commit if COMMIT.fullmatch(commit) else ""


def download_bytes(hub: str, revision: str) -> int:
    """What a download of the model takes on the disk, as the hub says it; 0 where that cannot be told now."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(hub, revision=revision, timeout=NETWORK_SECONDS, files_metadata=True)
    except Exception:  # the download itself says what is wrong
        return 0
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    return sum(sizes[name] for name in wanted(sizes))


def forget(hub: str, revision: str) -> int:
    """Take a model's snapshot out of the cache, and the bytes that only it used; how many those were."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        found = scan_cache_dir(cache_folder()).delete_revisions(resolve_revision(hub, revision))
    except CacheNotFound:
        return 0
    found.execute()
    return int(found.expected_freed_size)


def wanted(names: Iterable[str]) -> list[str]:
    """Of a repository's files those a conversion needs: companions, card, and one set of weights.

    Pickles are wanted only where there are no safetensors; of several sets of safetensors the one that
    transformers reads.
    """
    names = sorted(names)
    top = [name for name in names if "/" not in name]
    safetensors = [name for name in top if name.endswith(SAFETENSORS.suffix)]
    ours = [name for name in safetensors if name.startswith("model")]
    pickles = [name for name in top if name == PICKLES.single or PICKLES.count(name)]
    weights = ours or safetensors or pickles
    patterns = (*COMPANION_PATTERNS, *CARD_PATTERNS)
    indexes = {kind.index for kind in (SAFETENSORS, PICKLES)} - {PICKLES.index if weights != pickles else ""}
    companions = [
        name
        for name in names
        if any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
        and (not name.endswith(".index.json") or name in indexes)
    ]
    return [*companions, *weights]


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetched (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _repository(hub: str) -> Path:
    return cache_folder() / f"models--{hub.replace('/', '--')}"


def _incomplete(folder: Path) -> str:
    """Why the snapshot cannot be used, empty when its config and every weight file are there."""
    try:
        read_config(folder)
        weight_files(folder, layout(folder))
    except InputError as error:
        return str(error)
    return ""


def _download(hub: str, revision: str, progress: Progress) -> Path:
    from huggingface_hub import HfApi, errors, snapshot_download

    progress.note(f"asking the hub for {hub} at {revision}")
    try:
        info = HfApi().model_info(hub, revision=revision, timeout=NETWORK_SECONDS)
        names = [file.rfilename for file in info.siblings or []]
        folder = snapshot_download(
            hub,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in wanted(names)],
            etag_timeout=NETWORK_SECONDS,
            tqdm_class=_bar(hub, progress),
        )
    except errors.GatedRepoError:
        raise _refused(hub, "is gated", "accept its licence on the hub, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise _refused(hub, f"has no revision {revision}", "name a commit, tag or branch of it") from None
    except errors.RepositoryNotFoundError:
        raise _refused(hub, "is not on the hub, or private", "check the name, or `hf auth login`") from None
    except Exception as error:  # which HTTP library raises what is huggingface_hub's affair; Ctrl-C passes
        raise _not_here(hub, revision, f"the download failed ({_reason(error)})") from None
    if why := _incomplete(Path(folder)):
        raise InputError(f"hub model {hub}", f"was downloaded, but {why}")
    return Path(folder)


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _refused(hub: str, got: str, remedy: str) -> InputError:
    return InputError(f"hub model {hub}", got, "a model that can be downloaded", remedy)


def _not_here(hub: str, revision: str, why: str) -> InputError:
    """The one message for a model that is not in the cache and cannot be fetched."""
    commit = resolve_revision(hub, revision)
    broken = _incomplete(_repository(hub) / "snapshots" / commit) if commit else ""
    there = _repository(hub).is_dir()
    found = f"is not whole there ({broken})" if broken and there else "is not there"
    return InputError(
        f"hub model {hub} at {revision}",
        f"looked in {cache_folder()}, it {found}, and {why}",
        "the model in that cache, or the hub within reach",
        f"where there is a network run `hf download {hub} --revision {revision}`; set HF_HOME to use another cache",
    )


def _bar(hub: str, progress: Progress) -> type[tqdm]:
    """A tqdm class for snapshot_download that shows nothing itself and passes bytes on to `progress`."""
    from tqdm import tqdm

    lock = threading.Lock()
    bars: list[tqdm] = []  # one counts bytes from the network, one bytes on the disk; which of them moves depends
    reported = {"total": 0, "done": 0}

    def report() -> None:
        with lock:
            total = max((int(bar.total or 0) for bar in bars), default=0)
            done = max((int(bar.n) for bar in bars), default=0)
            if total > reported["total"]:
                progress.start(f"downloading {hub}", total)
                reported.update(total=total, done=0)
            if done > reported["done"]:
                progress.advance(done - reported["done"])
                reported["done"] = done

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            self._sink = open(os.devnull, "w")  # noqa: SIM115 - closed with the bar
            super().__init__(*args, **{**kwargs, "file": self._sink, "disable": False})
            if self.unit == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            report()

        def close(self) -> None:
            super().close()
            self._sink.close()

    return Bar
