"""A run of every kind of stage that this machine can make, and what has to be true of it at any moment.

What lies under a final name is whole: its manifest's files are there, and have the bytes of a run that was let alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes, tiny
from tests.robust.limited import members

LIGHT = ("gguf", "imatrix", "weighted", "mlx", "fp8", "w8a16")
STAGES: dict[str, str] = {
    "gguf": "{use: gguf, types: [F16, Q8_0, Q4_K_M], tokenizer_check: warn}",
    "imatrix": "{use: imatrix, text: text.txt, chunks: 2, window: 64}",
    "weighted": "{use: gguf, from: [source, imatrix], types: [IQ4_NL, Q5_K_M], tokenizer_check: warn}",
    "mlx": "{use: mlx}",
    "fp8": "{use: fp8}",
    "w8a16": "{use: compressed, scheme: W8A16}",
    "onnx": "{use: onnx, precision: [fp32, int8]}",
    "gptq": "{use: gptq, group_size: 32, calibration: {text: text.txt, samples: 4, length: 64}}",
    "awq": "{use: awq, group_size: 32, calibration: {text: text.txt, samples: 4, length: 64}}",
}
VALIDATE = "validate: {text: text.txt, tokens: 128, window: 32}\n"
LOOSE = (".json", ".md", ".html", ".log")  # of a validation: seconds and rates stand in them
ORPHANS_SECONDS = 30.0


def recipe(stages: Sequence[str], validate: bool = False) -> str:
    """A recipe of those stages, in Q8_0 alone judged."""
    lines = "".join(f"  {name}: {STAGES[name]}\n" for name in stages)
    return f"name: r\nmodel: {{path: Tiny}}\nstages:\n{lines}" + (VALIDATE if validate else "")


@dataclass
class Workshop:
    """A folder with a pickled tiny model, a recipe, and what a calm run made of it."""

    root: Path
    stages: Sequence[str]
    validate: bool = False
    calm: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, on this machine now

    def __post_init__(self) -> None:
        import torch
        from safetensors.torch import load_file

        folder = tiny.tiny_llama(self.root / "Tiny", layers=1, hidden=128)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        (self.root / "text.txt").write_text("The quick brown fox jumps over the lazy dog, and so on and on. " * 200)
        (self.root / "r.yaml").write_text(recipe(self.stages, self.validate))

    @property
    def out(self) -> Path:
        return self.root / "out" / "r"

    @property
    def names(self) -> list[str]:
        """Its steps."""
        return ["source", *self.stages, *(["validate"] if self.validate else [])]

    def command(self, jobs: int, *words: str) -> list[str]:
        return [sys.executable, "-m", "convert", "run", "r.yaml", "--json", "--jobs", str(jobs), *words]

    def environment(self, **more: str) -> dict[str, str]:
        home = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "CONVERT_CACHE_HOME": str(self.root / "cache")}
        return {**os.environ, **home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}

    def learn(self) -> None:
        """Run it calmly: its bytes, and the seconds of every stage."""
        started: dict[str, float] = {}
        for event, at in self.events(1):
            if event.get("event") == "step_started":
                started[event["step"]] = at
            if event.get("event") == "step_finished":
                self.seconds[event["step"]] = at - started[event["step"]]
        self.calm = published(self.out)
        assert set(self.seconds) == set(self.names), self.seconds

    def events(self, jobs: int) -> list[tuple[Mapping[str, str], float]]:
        """What a whole run says, and when."""
        said = []
        with processes.started(self.command(jobs), **self.options()) as process:
            assert process.stdout is not None
            said.extend((json.loads(line), time.monotonic()) for line in process.stdout)
            code = process.wait(processes.LIMIT)
        assert code in (0, 3), said[-1]
        return said

    def options(self, **more: str) -> dict[str, object]:
        log = open(self.root / "stderr.txt", "ab")  # noqa: SIM115 - the process's
        return {
            "cwd": self.root,
            "env": self.environment(**more),
            "start_new_session": True,
            "stdout": processes.subprocess.PIPE,
            "stderr": log,
        }

    def finish(self, jobs: int) -> str:
        """Go on until all is made; what is wrong with it then, empty where nothing is."""
        done = processes.run(
            self.command(jobs), check=False, capture_output=True, text=True, cwd=self.root, env=self.environment()
        )
        if done.returncode not in (0, 3):
            return f"going on ended with {done.returncode}: {done.stderr[-600:]}"
        left = [path.name for path in self.out.iterdir() if path.suffix in (".partial", ".old")]
        if left:
            return f"left after going on: {left}"
        return different(self.calm, published(self.out)) or missing(self.calm, published(self.out))

    def forget(self, *stages: str) -> None:
        """Take finished stages away, so that a run makes them again."""
        for stage in stages:
            shutil.rmtree(self.out / stage, ignore_errors=True)

    def broken(self) -> str:
        """What lies under a final name and is not what a calm run made; empty where nothing does."""
        for name in self.names:
            folder = self.out / name
            if not folder.exists():
                continue
            if not (folder / "manifest.json").is_file():
                return f"{name} has its name and no manifest"
            manifest = json.loads((folder / "manifest.json").read_text())
            inner = [entry["path"] for entry in manifest["artifacts"] if not entry.get("outside")]
            gone = [path for path in inner if not (folder / path).is_file()]
            if gone:
                return f"{name} has its name and lacks {gone[0]}"
        return different(self.calm, published(self.out))


def published(out: Path) -> dict[str, str]:
    """Path -> sha256 of every file under a final name; of validations only that they are there."""
    found = {}
    for path in sorted(out.rglob("*")):
        inner = path.relative_to(out)
        if not path.is_file() or inner.parts[0].endswith((".partial", ".old")) or len(inner.parts) < 2:
            continue
        if inner.parts[0] in ("logs", ".convert"):
            continue
        loose = inner.parts[0] == "validate"
        found[str(inner)] = "" if loose else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def different(wanted: Mapping[str, str], got: Mapping[str, str]) -> str:
    """The first file that has other bytes than it should, or should not be there."""
    wrong = [path for path, digest in got.items() if wanted.get(path) != digest]
    return f"{wrong[0]} has other bytes" if wrong else ""


def missing(wanted: Mapping[str, str], got: Mapping[str, str]) -> str:
    """The first file that is not there."""
    gone = [path for path in wanted if path not in got]
    return f"{gone[0]} is missing" if gone else ""


def wait_for_orphans(session: int) -> bool:
    """Whether all processes of a session that lost its first have ended by themselves."""
    until = time.monotonic() + ORPHANS_SECONDS
    while time.monotonic() < until:
        if not members(session):
            return True
        time.sleep(0.05)
    return False


def await_step(process: processes.subprocess.Popen[bytes], step: str, seconds: float) -> bool:
    """Read events until the step has started and so many seconds went by; False where the process ended before."""
    heard = threading.Event()

    def listen() -> None:
        for line in process.stdout or ():
            event = json.loads(line)
            if event.get("event") == "step_started" and event.get("step") == step:
                heard.set()

    threading.Thread(target=listen, daemon=True).start()
    while not heard.wait(0.02):
        if process.poll() is not None:
            return False
    time.sleep(seconds)
    return process.poll() is None
