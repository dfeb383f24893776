"""The folder for onnxruntime-genai beside the one that its own builder makes: logits, bytes, time to make, speed.

    python -m tests.bench.genai_builder CHECKPOINT [--precision int4] [--text FILE] [--tokens 256] [--only ours]

Both are made of the same checkpoint and run by the same runtime; KL is against transformers in float32, over the first
tokens of the text.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.formats.onnx.stage import STAGE as stage
from convert.progress import Silent
from convert.source.stage import STAGE as source
from validate.runtimes import onnxruntime_genai, transformers

BUILDER = "onnxruntime_genai.models.builder"
TEXT = "The quick brown fox jumps over the lazy dog. " * 40
WRITTEN = 32  # tokens that are generated to be timed


@dataclass(frozen=True)
class Made:
    """A folder, and how long it took."""

    title: str
    folder: Path
    seconds: float

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.onnx*"))


def ours(checkpoint: Path, precision: str, out: Path) -> Made:
    bundle = source.run(source.Options(path=checkpoint), {}, checkpoint, Silent())  # type: ignore[call-arg]
    out.mkdir()
    start = time.perf_counter()
    stage.run(stage.Options(flavor="genai", precision=precision), {"source": bundle}, out, Silent())
    return Made("ours", out, time.perf_counter() - start)


def theirs(checkpoint: Path, precision: str, out: Path) -> Made:
    words = ["-i", str(checkpoint), "-o", str(out), "-p", precision, "-e", "cpu", "-c", str(out / "cache")]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", BUILDER, *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    for path in checkpoint.glob("*.json"):  # it leaves config.json out
        if not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)
    return Made("builder", out, seconds)


def measure(made: Made, tokens: list[int], reference_tv: np.ndarray) -> str:
    """One line: what a folder is worth."""
    with onnxruntime_genai.RUNTIME.open(made.folder / "model.onnx", context=len(tokens) + WRITTEN) as session:
        logits_tv = session.logits(tokens)
        start = time.perf_counter()
        session.logits(tokens)
        read = len(tokens) / (time.perf_counter() - start)
        start = time.perf_counter()
        count = len(session.generate(tokens[:8], WRITTEN))
        written = count / (time.perf_counter() - start)
    own, other = _log_softmax(reference_tv), _log_softmax(logits_tv)
    kl = float((np.exp(own) * (own - other)).sum(-1).mean())
    largest = float(np.abs(reference_tv - logits_tv).max())
    return (
        f"{made.title:8} {made.seconds:6.1f} s  {made.bytes / 1e6:7.1f} MB  KL {kl:.3e}  largest {largest:.2e}  "
        f"reads {read:7.1f}/s  writes {written:6.1f}/s"
    )


def _log_softmax(logits_tv: np.ndarray) -> np.ndarray:
    shifted = logits_tv.astype(np.float64) - logits_tv.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", choices=("ours", "theirs"), help="one of both")
    asked = parser.parse_args()
    text = asked.text.read_text(encoding="utf-8") if asked.text else TEXT
    with transformers.RUNTIME.open(asked.checkpoint) as reference:
        tokens = reference.tokenize(text)[: asked.tokens]
        reference_tv = reference.logits(tokens)
    with tempfile.TemporaryDirectory(prefix="genai-") as folder, contextlib.suppress(KeyboardInterrupt):
        for name, make in (("theirs", theirs), ("ours", ours)):
            if asked.only not in (None, name):
                continue
            made = make(asked.checkpoint, asked.precision, Path(folder) / name)
            print(measure(made, tokens, reference_tv), flush=True)


if __name__ == "__main__":
    main()
