"""Objects by name in a folder or in a store that fsspec knows: whole or not there, some only where there is none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from convert.distribution import install_command
from convert.errors import PlanError, Problem
from convert.files import CHUNK_BYTES, fsync_folder
from convert.progress import Progress, Silent
from convert.retry import reason, response_of, retrying

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")
EXTRA = "stores"
REFUSED = (400, 401, 403, 404, 405)  # a server that means it
LOCAL = "file"
PROBE = "probe"


def open_store(url: str, where: str = "to") -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it. Raises PlanError where a package is missing."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise PlanError(Problem(where, f"{url}: {reason(error)}", "", install_command(EXTRA))) from None
    except ValueError as error:
        raise PlanError(Problem(where, f"{url}: {reason(error)}", "a place that fsspec knows")) from None
    return system, path.rstrip("/")


class Objects:
    """The objects below one URL. What may pass is tried again; counts what was asked of the store."""

    def __init__(self, url: str, progress: Progress | None = None, where: str = "--store") -> None:
        self.url = url.rstrip("/")
        self._system, self._home = open_store(url, where)
        self._progress = progress or Silent()
        protocol = self._system.protocol
        self._is_local = LOCAL in ((protocol,) if isinstance(protocol, str) else protocol)
        self.asked = 0

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""

        def read() -> bytes | None:
            try:
                return bytes(self._system.cat_file(self._path(name)))
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._try(name, read)

    def size(self, name: str) -> int | None:
        """An object's size; None where there is none."""

        def size() -> int | None:
            self._system.invalidate_cache()
            try:
                return int(self._system.info(self._path(name))["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._try(name, size)

    def write(self, name: str, data: bytes) -> None:
        """Put an object there, in the place of one that is."""
        if self._is_local:
            with self._partial(name) as partial:
                partial.write_bytes(data)
                partial.replace(self._path(name))
        else:
            self._try(name, lambda: self._system.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Put an object there unless there is one; whether there was none. Of two that try at once one does it.

        Where a store cannot do that at once it is looked for first.
        """
        if self._is_local:
            with self._partial(name) as partial:
                partial.write_bytes(data)
                try:
                    os.link(partial, self._path(name))  # fails where there is one
                except FileExistsError:
                    return False
            fsync_folder(Path(self._path(name)).parent)
            return True

        def create() -> bool:
            try:
                self._system.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError):
                if self._system.exists(self._path(name)):
                    return False
                self._system.pipe_file(self._path(name), data)
            return True

        return self._try(name, create)

    def put(self, file: Path, name: str) -> bool:
        """Send a file, unless an object of its size is there; whether it was sent."""
        if self.size(name) == file.stat().st_size:
            return False
        if self._is_local:
            with self._partial(name) as partial:
                _copy(file, partial)
                partial.replace(self._path(name))
        else:
            self._try(name, lambda: self._system.put_file(str(file), self._path(name)))
        return True

    def get(self, name: str, file: Path) -> None:
        """Bring an object here. Raises FileNotFoundError where there is none."""
        self._try(name, lambda: self._system.get_file(self._path(name), str(file)))

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._try(name, remove)

    def check(self) -> None:
        """Whether objects can be written, read and taken away here. Raises PlanError that says what cannot."""
        name, doing = f"{PROBE}-{secrets.token_hex(8)}", "written to"
        try:
            self.write(name, b"probe")
            doing = "read"
            if self.read(name) != b"probe":
                raise OSError("what was written is not what is there")
            doing = "taken from"
            self.remove(name)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = "make the bucket first" if isinstance(error, FileNotFoundError) else "check the credentials"
            got = f"{self.url} cannot be {doing} ({reason(error)})"
            raise PlanError(Problem("--store", got, "", remedy)) from error

    def _path(self, name: str) -> str:
        return f"{self._home}/{name}"

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """A file on the store's own disk, under a name that is nobody's; it is gone afterwards, under that name."""
        self.asked += 1
        folder = Path(self._path(name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(self._home) / f".partial-{secrets.token_hex(8)}"
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _try(self, name: str, attempt: Callable[[], T]) -> T:
        def counted() -> T:
            self.asked += 1
            return attempt()

        try:
            return retrying(f"{self.url}/{name}", counted, self._progress, passes)
        except Exception as error:
            if not passes(error):
                raise
            raise ConnectionError(f"{self.url}/{name}: {reason(error)}") from error


def passes(error: Exception) -> bool:
    """Whether it may go well another time."""
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError | ValueError | TypeError):
        return False
    status, _ = response_of(error)
    return status not in REFUSED


def _copy(file: Path, to: Path) -> None:
    with open(file, "rb") as source, open(to, "xb") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
        target.flush()
        os.fsync(target.fileno())
