"""From a checkpoint on disk to quantized files: time and peak memory beside llama.cpp's converter and llama-quantize.

    python -m tests.bench.end_to_end [--peer LLAMA_CPP_DIR] [--quantize FILE] [--benchmarks 2 3 4]
                                     [--weights 1.5e9] [--largest 7.6e9] [--rounds 3] [--folder DIR]

    2  Q4_K_M:                              ours        against  converter to BF16, llama-quantize
    3  Q4_K_M, Q5_K_M, Q6_K and Q8_0:       one pass    against  converter to BF16, llama-quantize four times
    4  how our time and memory grow with the model, from Qwen2.5-0.5B's shape to 7B's

Checkpoints are of random bf16 weights in Qwen2.5's shapes (benchmark 1 is tests.bench.encoders). Every command is a
process of its own, ours and theirs in turn; ratios are medians over the rounds, memory is the peak that is not mapped
files. Compiling our kernels, once a machine, is not counted: a tiny model is converted first.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.conversion import QWEN_0_5B, QWEN_1_5B, QWEN_3B, QWEN_7B, Shape, about, checkpoint, measured, theirs
from tests.tiny import tiny_qwen2

ONE = ("Q4_K_M",)
FOUR = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
WANTED = {2: 6.0, 3: 7.0}  # times as fast
FLAT = 0.10  # how much the peak of memory may grow over all sizes
MEMORY = 1e9  # bytes beyond the mapped input
HOW = """\
skipped: llama.cpp's tools are not here. Its converter is a script of its sources and llama-quantize is built from them:
    git clone https://github.com/ggml-org/llama.cpp
    cmake -S llama.cpp -B llama.cpp/build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
    cmake --build llama.cpp/build --target llama-quantize
    make bench LLAMA_CPP=llama.cpp
(the sdist of llama-cpp-python, `pip download --no-deps --no-binary :all: llama-cpp-python`, carries them in vendor/)"""


@dataclass(frozen=True)
class Took:
    """One run of one side: seconds by step, and the peak of anonymous memory in bytes."""

    steps: dict[str, float]
    memory: float

    @property
    def seconds(self) -> float:
        return sum(self.steps.values())


@dataclass(frozen=True)
class Peer:
    """llama.cpp's two tools."""

    folder: Path  # its sources
    quantize: Path

    def run(self, folder: Path, model: Path, types: tuple[str, ...]) -> Took:
        """Convert to BF16, then quantize once a type."""
        command = theirs(folder, model, self.folder, "bf16")
        whole, cores = folder / "theirs.gguf", str(len(os.sched_getaffinity(0)))
        steps, peaks = {}, []
        seconds, peak = measured(command)
        steps["converter"] = seconds
        peaks.append(peak)
        for kind in types:
            made = folder / f"theirs-{kind}.gguf"
            steps[kind], peak = measured([str(self.quantize), str(whole), str(made), kind, cores])
            peaks.append(peak)
            made.unlink()
        whole.unlink()
        return Took(steps, max(peaks))


def ours(folder: Path, model: Path, types: tuple[str, ...]) -> Took:
    """All types in one run of ours, reading and hashing the checkpoint included."""
    recipe, out = folder / "bench.yaml", folder / "out"
    recipe.write_text(
        f"name: ours\nmodel: {{path: {model}}}\nstages: {{gguf: {{use: gguf, types: [{', '.join(types)}]}}}}\n"
    )
    seconds, peak = measured([sys.executable, "-m", "convert", "run", str(recipe), "--out", str(out), "--quiet"])
    shutil.rmtree(out)
    return Took({"all": seconds}, peak)


def beside(number: int, types: tuple[str, ...], place: Path, model: Path, peer: Peer, rounds: int) -> None:
    """Benchmark 2 or 3: print both sides and their ratio."""
    print(f"\n{number}. {' + '.join(types)}")
    pairs = [(ours(place, model, types), peer.run(place, model, types)) for _ in range(rounds)]
    for name, side in zip(("ours", "llama.cpp"), zip(*pairs, strict=True), strict=True):
        steps = {step: statistics.median(t.steps[step] for t in side) for step in side[0].steps}
        detail = ", ".join(f"{step} {seconds:.1f}" for step, seconds in steps.items()) if len(steps) > 1 else ""
        median, peak = statistics.median(t.seconds for t in side), max(t.memory for t in side)
        print(f"   {name:<10} {median:8.1f} s   peak {peak / 1e6:7.0f} MB   {detail}")
    ratios = sorted(other.seconds / mine.seconds for mine, other in pairs)
    memory = max(mine.memory for mine, _ in pairs)
    verdict(
        f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"at least {WANTED[number]:g}",
        statistics.median(ratios) >= WANTED[number],
    )
    verdict(f"{memory / 1e6:.0f} MB", f"below {MEMORY / 1e6:.0f} MB", memory < MEMORY)


def growth(place: Path, largest: float, rounds: int) -> None:
    """Benchmark 4: print time and memory for each shape that has at most `largest` weights."""
    print(f"\n4. {ONE[0]} of models of different sizes")
    seconds, memory = [], []
    for shape in (QWEN_0_5B, QWEN_1_5B, QWEN_3B, QWEN_7B):
        if shape.weights > 1.01 * largest:
            print(f"   {shape.weights / 1e9:5.2f}e9 weights: left out by --largest")
            continue
        if shutil.disk_usage(place).free < 3 * shape.weights:  # bf16, and what is made of it
            print(f"   {shape.weights / 1e9:5.2f}e9 weights: skipped, {3 * shape.weights / 1e9:.0f} GB of disk needed")
            continue
        model = checkpoint(place / "Growth", shape)
        took = [ours(place, model, ONE) for _ in range(rounds)]
        shutil.rmtree(model)
        median, peak = statistics.median(t.seconds for t in took), max(t.memory for t in took)
        seconds.append(median / shape.weights * 1e9)
        memory.append(peak)
        print(
            f"   {shape.weights / 1e9:5.2f}e9 weights {median:8.1f} s   {seconds[-1]:6.2f} ns a weight"
            f"   peak {peak / 1e6:6.0f} MB"
        )
    if len(memory) > 1:
        verdict(
            f"memory grows by {100 * (max(memory) / min(memory) - 1):.0f} %",
            f"within {100 * FLAT:.0f} %",
            max(memory) <= (1 + FLAT) * min(memory),
        )
        print(f"   time a weight: {min(seconds):.2f} to {max(seconds):.2f} ns")


def verdict(got: str, wanted: str, good: bool) -> None:
    print(f"   {got}, wanted {wanted}: {'yes' if good else 'NO'}")


def find_peer(folder: Path | None, quantize: Path | None) -> Peer | None:
    """llama.cpp's tools, where both are."""
    if folder is None or not (folder / "convert_hf_to_gguf.py").is_file():
        return None
    places = (quantize, folder / "build/bin/llama-quantize", shutil.which("llama-quantize"))
    found = next((Path(p) for p in places if p is not None and Path(p).is_file()), None)
    return None if found is None else Peer(folder.absolute(), found.absolute())


def warm_up(place: Path) -> None:
    """Compile the kernels and read the programs from disk."""
    model = tiny_qwen2(place / "Tiny", hidden=256, layers=1)
    start = time.perf_counter()
    ours(place, model, FOUR)
    print(f"warm-up, kernels compiled where they were not: {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of llama.cpp")
    parser.add_argument("--quantize", type=Path, help="llama-quantize, where it is not in the checkout's build/bin")
    parser.add_argument("--benchmarks", type=int, nargs="+", choices=(2, 3, 4), default=(2, 3, 4))
    parser.add_argument("--weights", type=float, default=QWEN_1_5B.weights, help="of benchmarks 2 and 3")
    parser.add_argument("--largest", type=float, default=QWEN_7B.weights, help="of benchmark 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put checkpoints and outputs")
    arguments = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-") as name:
        place = Path(name)
        warm_up(place)
        if {2, 3} & set(arguments.benchmarks):
            against_peer(place, about(arguments.weights), arguments)
        if 4 in arguments.benchmarks:
            growth(place, arguments.largest, arguments.rounds)


def against_peer(place: Path, shape: Shape, arguments: argparse.Namespace) -> None:
    """Benchmarks 2 and 3, or how to get what they need."""
    peer = find_peer(arguments.peer, arguments.quantize)
    if peer is None:
        print(f"\n2 and 3 {HOW}")
        return
    model = checkpoint(place / "Bench", shape)
    print(f"checkpoint: {shape.weights / 1e9:.2f}e9 weights, {2 * shape.weights / 1e9:.2f} GB of bf16")
    for number, types in ((2, ONE), (3, FOUR)):
        if number in arguments.benchmarks:
            beside(number, types, place, model, peer, arguments.rounds)
    shutil.rmtree(model)


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
