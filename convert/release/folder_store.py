"""Repositories as folders below one: built beside, then renamed. What is unchanged is left alone.

TO/<repository>/                    whole
TO/.convert/partial/<repository>/   while it is built
TO/.convert/lock                    held by who publishes
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from convert.errors import PlanError, Problem
from convert.files import STATE_FOLDER, recover_folder, replace_folder, write_text
from convert.hashes import HashMemory
from convert.progress import Progress
from convert.release.contents import Contents
from convert.release.hashing import hash_file
from convert.release.signature import Signer, sign
from convert.release.sums import RELEASE, SIGNATURE, SUMS, read_sums, without_signature, write_sums

PARTIAL = "partial"
LINKED_FROM = 1 << 20  # bytes: a large file shares its bytes with the run's, a small one may be edited, and is a copy


def published(folder: Path, contents: Contents, memory: HashMemory, signer: Signer | None = None) -> bool:
    """Whether the folder holds these contents and nothing else: by SHA256SUMS, and every file's hash."""
    try:
        if without_signature((folder / SUMS).read_text(encoding="utf-8")) != contents.texts[SUMS]:
            return False
        if (folder / SIGNATURE).exists() != (signer is not None):
            return False
        there = {path for path in files_in(folder) if path not in (SUMS, SIGNATURE)}
    except (OSError, ValueError):
        return False
    if there != set(contents.hashes):
        return False
    return all(_unchanged(folder / path, found.size, found.sha256, memory) for path, found in contents.hashes.items())


def _unchanged(path: Path, size: int, sha256: str, memory: HashMemory) -> bool:
    from convert.progress import Silent

    return path.stat().st_size == size and memory.of([path], Silent()).get(path) == sha256


def files_in(folder: Path) -> list[str]:
    """The path of every file in it, sorted; a link counts as one."""
    found = []
    for home, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(home) / name).is_symlink()]
        found += [(Path(home) / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return sorted(found)


def check_ours(folder: Path) -> Iterable[Problem]:
    """That nothing lies there which no release made: that is somebody's, and stays."""
    if folder.is_symlink() or (folder.exists() and not (folder / RELEASE).is_file() and any_in(folder)):
        yield Problem(str(folder), "exists, and no release made it", "", "move it away, or name another --to")


def any_in(folder: Path) -> bool:
    """Whether something is there: a file of that name, or anything in the folder."""
    return not folder.is_dir() or any(folder.iterdir())


def publish(
    folder: Path, contents: Contents, memory: HashMemory, progress: Progress, signer: Signer | None = None
) -> None:
    """Put the contents under their name, in one step."""
    partial = folder.parent / STATE_FOLDER / PARTIAL / folder.name  # of the same name: a signature states it
    shutil.rmtree(partial, ignore_errors=True)
    recover_folder(folder)
    if problems := list(check_ours(folder)):
        raise PlanError(*problems)
    partial.mkdir(parents=True)
    try:
        progress.start(f"writing {folder.name}", contents.size)
        _fill(partial, contents, memory, progress)
        sums = contents.texts[SUMS]
        if signer is not None:
            sign(partial, signer)
            sums = write_sums({**read_sums(sums), SIGNATURE: hash_file(partial / SIGNATURE, progress).sha256})
        write_text(partial / SUMS, sums)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replace_folder(partial, folder)


def _fill(partial: Path, contents: Contents, memory: HashMemory, progress: Progress) -> None:
    linked = []
    for name, path in contents.files.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if put(path, target):
            linked.append(path)
        progress.advance(contents.hashes[name].size)
    memory.follow(linked)
    for name, text in contents.texts.items():
        if name == SUMS:  # names what is made of all others
            continue
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
        progress.advance(len(text.encode()))


def put(path: Path, target: Path) -> bool:
    """Bring a file to its place; whether it is another name of the same file, which takes no room on the disk."""
    real = path.resolve()
    if real.stat().st_size >= LINKED_FROM:
        try:
            os.link(real, target)
            return True
        except OSError:  # another disk, or a file system without links
            pass
    shutil.copyfile(real, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return False
