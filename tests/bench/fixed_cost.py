"""What a conversion costs beside its weights, and what a weight costs: two sizes, and the line through them.

    python -m tests.bench.fixed_cost [--rounds 5] [--folder DIR]

Wall seconds, and seconds of processor time, of `convert run` on Qwen2.5 shapes with a vocabulary of 151,665 tokens, to
Q4_K_M. Every run is a process of its own; the least of the rounds counts, since other programs only ever add. The
first conversion with a tokenizer proves it on llama.cpp and keeps the verdict; that is measured apart, in a cache of
its own. A run with nothing to do, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.conversion import QWEN_0_5B, Shape, checkpoint

SMALL = Shape(256, 512, 4, 2, 1)  # 40 million weights, nearly all of them the embedding
LARGE = replace(QWEN_0_5B, layers=12)
FIXED = 1.5  # seconds beside the weights
NOTHING = 1.0  # with nothing to do


@dataclass(frozen=True, order=True)
class Took:
    """Seconds of one run."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:6.2f} s   processor {self.cpu:6.2f} s"


@dataclass(frozen=True)
class Line:
    """Seconds of a conversion: `fixed` and, for each weight, `slope`."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> Line:
        """The straight line through two points (weights, seconds)."""
        slope = (second[1] - first[1]) / (second[0] - first[0])
        return cls(first[1] - slope * first[0], slope)


@dataclass(frozen=True)
class Bench:
    """Runs in `place`; what is kept of proofs is kept there too."""

    place: Path
    rounds: int

    def run(self, model: Path, *, anew: bool = True, proven: bool = True) -> Took:
        """One run: `anew` with nothing built, `proven` with the verdicts of earlier runs."""
        recipe, out, cache = self.place / "bench.yaml", self.place / "out", self.place / "cache"
        recipe.write_text(f"name: b\nmodel: {{path: {model}}}\nstages: {{gguf: {{use: gguf, types: [Q4_K_M]}}}}\n")
        for folder in ([out] if anew else []) + ([] if proven else [cache]):
            shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "convert", "run", str(recipe), "--out", str(out), "--quiet"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=os.environ | {"CONVERT_CACHE_HOME": str(cache)}, check=True, capture_output=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def least(self, model: Path, *, anew: bool = True, proven: bool = True) -> Took:
        """The least wall and the least processor time of the rounds."""
        took = [self.run(model, anew=anew, proven=proven) for _ in range(self.rounds)]
        return Took(min(t.wall for t in took), min(t.cpu for t in took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put checkpoints and outputs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-") as name:
        measure(Bench(Path(name), arguments.rounds))


def measure(bench: Bench) -> None:
    """Print the line, the first conversion with a tokenizer, and the run with nothing to do."""
    small, large = checkpoint(bench.place / "Small", SMALL), checkpoint(bench.place / "Large", LARGE)
    bench.run(small)  # kernels compiled where they were not, the tokenizer proven, programs read from the disk
    print("Q4_K_M, 151,665 tokens")
    nothing = bench.least(small, anew=False)
    points = {shape.weights: bench.least(model) for shape, model in ((SMALL, small), (LARGE, large))}
    for weights, took in points.items():
        print(f"   {weights / 1e9:5.3f}e9 weights   {took}")
    wall = Line.through(*((weights, took.wall) for weights, took in points.items()))
    cpu = Line.through(*((weights, took.cpu) for weights, took in points.items()))
    print(f"   fixed            {Took(wall.fixed, cpu.fixed)}")
    print(f"   a weight         {1e9 * wall.slope:6.2f} ns  processor {1e9 * cpu.slope:6.2f} ns")
    first = bench.least(small, proven=False)
    print(f"   proving a tokenizer that was not proven before adds {first.wall - points[SMALL.weights].wall:.2f} s")
    print(f"   nothing to do    {nothing}")
    for what, got, most in (("fixed cost", wall.fixed, FIXED), ("nothing to do", nothing.wall, NOTHING)):
        print(f"   {what}: {got:.2f} s, wanted below {most:g} s: {'yes' if got < most else 'NO'}")


if __name__ == "__main__":
    main()
