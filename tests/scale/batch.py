"""Many tiny models on one machine: `convert batch` beside a shell loop of `convert run`.

    python -m tests.scale batch [--models 60] [--folder DIR]

The loop runs a model's steps in one process (`-j 1`), which for models this small is its fastest way by far.

Prints both times and their ratio, whether the bytes are equal, and the most memory and disk that the batch held.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.scale.models import TYPES, hashes, prepare

LOOK_SECONDS = 0.1


class Watched:
    """The most memory of a process and all that it starts, and the most bytes in a folder, while it runs."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder
        self.memory = self.disk = 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._process.poll() is None:
            with contextlib.suppress(psutil.Error):
                mine = psutil.Process(self._process.pid)
                held = 0
                for one in (mine, *mine.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        held += one.memory_info().rss
                self.memory = max(self.memory, held)
            with contextlib.suppress(OSError):
                size = sum(p.stat().st_size for p in self._folder.rglob("*") if p.is_file())
                self.disk = max(self.disk, size)
            time.sleep(LOOK_SECONDS)


def timed(command: list[str], folder: Path, out: Path) -> tuple[float, Watched]:
    began = time.monotonic()
    with open(folder / "said.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        watched = Watched(process, out)
        code = process.wait()
    assert code == 0, f"{command}: exit code {code}, see {folder / 'said.log'}"
    return time.monotonic() - began, watched


def main(words: argparse.Namespace) -> None:
    folder = words.folder or Path(tempfile.mkdtemp(prefix="convert-scale-"))
    models, recipe = prepare(folder, words.models or 60)
    command = [sys.executable, "-m", "convert"]
    batch, loop = folder / "batch", folder / "loop"
    for out in (batch, loop):
        shutil.rmtree(out, ignore_errors=True)
    os.environ["CONVERT_CACHE_HOME"] = str(folder / "cache")
    names = [str(model) for model in models]
    took, watched = timed([*command, "batch", *names, "--recipe", str(recipe), "--out", str(batch)], folder, batch)
    alone = 0.0
    for model in models:
        path = batch / f".convert/recipes/{model.name}.yaml"
        alone += timed([*command, "run", str(path), "--out", str(loop), "-j", "1"], folder, loop)[0]
    equal = hashes(batch) == hashes(loop)
    made = sum(path.stat().st_size for path in batch.rglob("*.gguf"))
    ratio = f"batch {took:.1f} s, loop {alone:.1f} s: {alone / took:.2f} times"
    print(f"{len(models)} models x {len(TYPES)} outputs: {ratio}")
    print(f"bytes {'equal' if equal else 'DIFFER'} ({len(hashes(loop))} files)")
    disk = f"{watched.disk / 1e6:.1f} MB of disk ({made / 1e6:.1f} MB made)"
    print(f"at most {watched.memory / 1e9:.2f} GB of memory, {disk}")
    assert equal
