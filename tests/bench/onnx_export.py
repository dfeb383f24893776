"""Exporting a checkpoint to ONNX: time and peak memory beside onnxruntime-genai's model builder, and beside Optimum.

    python -m tests.bench.onnx_export [--weights 5e8] [--rounds 3] [--folder DIR] [--optimum PYTHON]

Makes a Qwen2.5 checkpoint of random bf16 weights, then runs ours and theirs in turn, each in a process of its own:

    fp32   ours with shared weights (the graph reads the checkpoint's own bytes) and with its own (float32 is written)
    int4   ours and the builder's, both through ONNX Runtime's 4-bit quantizer
    all    ours only: five precisions from one trace

Prints medians and ratios. Memory is the peak of what is not mapped files (anonymous), which is what a machine has to
have, and the whole resident peak beside it. Optimum's exporter wants an older transformers, so it needs a Python of its
own (`pip install optimum-onnx` in a fresh environment, its bin/python here); without one its row is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.conversion import QWEN_0_5B, about, checkpoint
from tests.bench.end_to_end import processor, verdict

BUILDER = "onnxruntime_genai.models.builder"
ALL = "fp32, fp16, bf16, int8, int4"


@dataclass(frozen=True)
class Cost:
    """One run: wall seconds, and peaks of memory in bytes."""

    seconds: float
    anonymous: float
    resident: float


@dataclass(frozen=True)
class Place:
    """The checkpoint, and a folder whose `out` every run empties and fills."""

    folder: Path
    model: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def ours(self, words: str) -> list[str]:
        """Our command line, hashing the checkpoint included; `words` are the stage's options."""
        recipe = self.folder / "bench.yaml"
        recipe.write_text(f"name: b\nmodel: {{path: {self.model}}}\nstages: {{onnx: {{use: onnx, {words}}}}}\n")
        return [sys.executable, "-m", "convert", "run", str(recipe), "--out", str(self.out), "--quiet"]

    def builder(self, precision: str) -> list[str]:
        """onnxruntime-genai's model builder."""
        words = ["-i", str(self.model), "-o", str(self.out), "-c", str(self.folder / "cache")]
        return [sys.executable, "-m", BUILDER, *words, "-p", precision, "-e", "cpu"]

    def optimum(self, python: Path) -> list[str]:
        """Optimum's exporter, in float32."""
        words = ["--model", str(self.model), "--task", "text-generation-with-past", "--dtype", "fp32"]
        return [str(python), "-m", "optimum.exporters.onnx", *words, str(self.out)]


def measured(command: list[str]) -> Cost:
    """What a command costs; every process it starts counts. Ends the benchmark when it fails."""
    started = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    peaks = {"RssAnon": 0.0, "VmRSS": 0.0}
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{errors.decode()[-2000:]}")
    return Cost(seconds, peaks["RssAnon"], peaks["VmRSS"])


def _watch(process: subprocess.Popen[bytes], peaks: dict[str, float]) -> None:
    while process.poll() is None:
        family = [process.pid, *_children(process.pid)]
        for name, peak in peaks.items():
            peaks[name] = max(peak, sum(_status(pid, name) for pid in family))
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [grandchild for child in found for grandchild in _children(child)]


def _status(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0.0)


def compare(place: Place, title: str, commands: Mapping[str, Callable[[], list[str]]], rounds: int) -> None:
    """Run the commands in turn; print each, and how the first, ours, stands to the others."""
    print(f"\n{title}")
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    sizes = {}
    for _ in range(rounds):
        for name, command in commands.items():
            costs[name].append(measured(command()))
            sizes[name] = _written(place)
            shutil.rmtree(place.out)
    for name, runs in costs.items():
        seconds = statistics.median(run.seconds for run in runs)
        anonymous, resident = max(run.anonymous for run in runs), max(run.resident for run in runs)
        memory = f"peak {anonymous / 1e6:6.0f} MB, with mapped files {resident / 1e6:6.0f} MB"
        print(f"   {name:<34} {seconds:7.1f} s   {memory}   written {sizes[name] / 1e6:6.0f} MB", flush=True)
    mine, *_ = costs
    for name in [name for name in costs if not name.startswith("ours")]:
        _against(costs[mine], costs[name], name)


def _against(mine: list[Cost], theirs: list[Cost], name: str) -> None:
    ratio = statistics.median(b.seconds / a.seconds for a, b in zip(mine, theirs, strict=True))
    memory = max(run.anonymous for run in mine) / max(run.anonymous for run in theirs)
    print(f"   {name} takes {ratio:.2f} times as long as ours")
    verdict(f"ours has {memory:.2f} of its peak memory", "at most 1", memory <= 1)


def _written(place: Place) -> int:
    """Bytes of the output that are not the checkpoint's own."""
    files = [path.stat() for path in place.out.rglob("*") if path.is_file()]
    return sum(status.st_size for status in files if status.st_nlink == 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=QWEN_0_5B.weights)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put the checkpoint and the outputs")
    parser.add_argument("--optimum", type=Path, help="a Python that has optimum-onnx")
    arguments = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-") as name:
        shape = QWEN_0_5B if arguments.weights == QWEN_0_5B.weights else about(arguments.weights)
        place = Place(Path(name), checkpoint(Path(name) / "Bench", shape))
        print(f"checkpoint: {shape.weights / 1e9:.2f}e9 weights, {2 * shape.weights / 1e9:.2f} GB of bf16")
        fp32 = {
            "ours, fp32, shared weights": lambda: place.ours("precision: fp32"),
            "ours, fp32, own weights": lambda: place.ours("precision: fp32, weights: own"),
            "onnxruntime-genai's builder, fp32": lambda: place.builder("fp32"),
        }
        if arguments.optimum:
            fp32["Optimum's exporter, fp32"] = lambda: place.optimum(arguments.optimum)
        else:
            print("Optimum: give --optimum PYTHON for its row")
        compare(place, "fp32", fp32, arguments.rounds)
        int4 = {
            "ours, int4": lambda: place.ours("precision: int4"),
            "onnxruntime-genai's builder, int4": lambda: place.builder("int4"),
        }
        compare(place, "int4", int4, arguments.rounds)
        everything = {"ours, five precisions": lambda: place.ours(f"precision: [{ALL}]")}
        compare(place, "all", everything, 1)


if __name__ == "__main__":
    main()
