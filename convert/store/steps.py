"""What steps made, in a store: published once under their keys, brought to whoever needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.bundle import MANIFEST_NAME
from convert.files import write_text
from convert.json_types import JsonDict
from convert.progress import Progress
from convert.store.cache import DamagedError, NodeCache, file_sha256
from convert.store.leases import Lease
from convert.store.objects import Objects

TRIES = 2  # to bring a file: the wire may damage it, or the disk it lies on

Files = Mapping[str, tuple[int, str]]  # path below the folder -> size, sha256


@dataclass(frozen=True)
class Published:
    """What a step made: the text of its manifest, and the other files of its folder."""

    manifest: str
    files: Files


def blob_name(sha256: str) -> str:
    """Where a file's bytes are."""
    return f"blobs/{sha256[:2]}/{sha256}"


class StepStore:
    """Steps in a store. Raises ConnectionError where it is out of reach for longer than is waited."""

    def __init__(self, objects: Objects, cache: NodeCache | None = None) -> None:
        self.objects, self.cache = objects, cache

    def find(self, key: str) -> Published | None:
        """What was published under the key; None where nothing is, or nothing that can be read."""
        raw = self.objects.read(f"steps/{key[:2]}/{key}")
        if raw is None:
            return None
        try:
            words = json.loads(raw)
            files = {str(name): (int(size), str(sha)) for name, (size, sha) in words["files"].items()}
            return Published(str(words["manifest"]), files)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def publish(self, key: str, folder: Path, known: Mapping[Path, str], *, anew: bool = False) -> bool:
        """Publish what lies in a step's folder; whether nobody had. `known` has hashes; `anew` mends."""
        manifest, files = (folder / MANIFEST_NAME).read_text(encoding="utf-8"), dict[str, tuple[int, str]]()
        for path in _files(folder):
            sha = known.get(path) or file_sha256(path)
            files[path.relative_to(folder).as_posix()] = path.stat().st_size, sha
            self.objects.put(path, blob_name(sha))
            if self.cache is not None:
                self.cache.add(path, sha)
        name = f"steps/{key[:2]}/{key}"
        text = json.dumps({"manifest": manifest, "files": files}, sort_keys=True).encode()
        if anew:
            self.objects.write(name, text)
            return True
        return self.objects.create(name, text)

    def bring(self, found: Published, folder: Path, progress: Progress) -> bool:
        """Have the files in the empty `folder`, its manifest too; False where one is not what was published."""
        progress.start("bringing what was made elsewhere", sum(size for size, _ in found.files.values()))
        for name, (size, sha) in found.files.items():
            if not self.bring_file(sha, size, folder / name):
                progress.warn(f"{self.objects.url}/{blob_name(sha)} is damaged or gone: {name} is made again")
                return False
            progress.advance(size)
        write_text(folder / MANIFEST_NAME, found.manifest)
        return True

    def bring_file(self, sha: str, size: int, target: Path) -> bool:
        """Have a file's bytes at `target`; False where they are gone, or were twice not what they were: they go."""

        def bring(path: Path) -> None:
            self.objects.get(blob_name(sha), path)
            if file_sha256(path) != sha:
                raise DamagedError(f"{blob_name(sha)} is not what its name says")

        for _ in range(TRIES):
            target.unlink(missing_ok=True)
            try:
                if self.cache is not None:
                    self.cache.put_at(sha, size, target, bring)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    bring(target)
                return True
            except FileNotFoundError:
                return False
            except DamagedError:
                continue
        self.objects.remove(blob_name(sha))  # or who makes it again would find it there already
        return False

    def lease(self, key: str, progress: Progress) -> Lease:
        """The lease of a step, which is nobody's until it is taken."""
        return Lease(self.objects, f"leases/{key[:2]}/{key}", progress)

    # ---- whole recipes

    def job(self, key: str) -> JsonDict | None:
        """What was published of a whole recipe; None where nothing was."""
        raw = self.objects.read(f"jobs/{key[:2]}/{key}")
        try:
            words = json.loads(raw or b"null")
        except ValueError:
            return None
        return words if isinstance(words, dict) else None

    def publish_job(self, key: str, words: JsonDict) -> None:
        """Say that all steps of a recipe are there."""
        self.objects.write(f"jobs/{key[:2]}/{key}", json.dumps(words, sort_keys=True).encode())


def _files(folder: Path) -> list[Path]:
    found = [Path(home) / name for home, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.name != MANIFEST_NAME or path.parent != folder)
