"""What a hostile input is: a folder that is made hostile, a command that meets it, and what has to be said of it."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GGUF_RECIPE = "name: r\nmodel: {path: Tiny}\nstages:\n  gguf: {use: gguf, types: [F16]}\n"
RUN = ("run", "r.yaml", "-q")
PLAN = ("plan", "r.yaml")


@dataclass
class Place:
    """A folder of its own, with a good tiny model in it and a recipe that makes a GGUF file of it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    close: list[Callable[[], object]] = field(default_factory=list)  # servers that were started for it

    @property
    def model(self) -> Path:
        return self.root / "Tiny"

    @property
    def witness(self) -> Path:
        """The file that exists once a stranger's code was run."""
        return self.root / "pwned"

    @property
    def secret(self) -> Path:
        """A file of the user's, which no output may hold."""
        return self.root / "secret.txt"

    def write(self, name: str, content: str | bytes) -> Path:
        """A file below the root, in place of what was there."""
        path = self.root / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path

    def recipe(self, text: str) -> None:
        self.write("r.yaml", text)

    def read(self, name: str) -> Any:
        return json.loads((self.model / name).read_text())

    def edit(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change the JSON file `name` of the model; `change` alters what it is given, or returns another."""
        value = self.read(name)
        changed = change(value)
        self.write(f"Tiny/{name}", json.dumps(value if changed is None else changed))

    def special(self, name: str, kind: str) -> Path:
        """Something that is no regular file, under the name of one of the model's."""
        return make_special(self.model / name, kind)


SECRET = "the user's own secret 5e2f1c"
KINDS = ("pipe", "device", "folder", "socket", "loop", "dangling", "memory")


def make_special(path: Path, kind: str) -> Path:
    """A pipe, a device and so on at `path`."""
    import os
    import socket

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            try:
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends
            except PermissionError:
                path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's address is short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
            os.chdir(here)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nothing-there")
        case "memory":
            path.symlink_to("/proc/self/mem")
        case "terabyte":
            with open(path, "wb") as file:
                file.truncate(1 << 40)
        case _:
            raise ValueError(kind)
    return path


@dataclass(frozen=True)
class Case:
    """One hostile input. `says` is what the error has to say, a pattern; `harmless`: it may also just be ignored."""

    group: str
    name: str
    make: Callable[[Place], object]
    command: tuple[str, ...] = RUN
    says: str = ""
    harmless: bool = False
    errors: int = 1  # at most so many lines: one a cause

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"


def cases(group: str, made: Mapping[str, Callable[[Place], object]], **words: Any) -> list[Case]:
    """A case for each way."""
    return [Case(group, name, make, **words) for name, make in made.items()]
