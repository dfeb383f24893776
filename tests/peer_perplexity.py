"""Compare our KL and perplexity with llama.cpp's own `llama-perplexity --kl-divergence`. Run by hand; not collected.

    python -m tests.peer_perplexity LLAMA_PERPLEXITY BASE.gguf TEXT CANDIDATE.gguf [...]

The peer cuts TEXT into windows of 512 tokens, writes BASE's logits into a file, and compares each candidate with that.
The file begins with the tokens, so that ours are the same ids: the first of a window replaced by BOS where the model
wants one, only the second half of a window scored, its last position not. Both sides run with a cache of F32 and
without flash attention. Prints a row for each candidate, ours before theirs. Exits with 1 when mean KL or perplexity
differ by more than 2 % of the peer's (and the last digit that it prints of KL), or the share of equal top tokens by
more than 0.2 points. BASE itself may be a candidate: what the peer then finds is what its file of 16-bit logits costs.
TEXT should hold no chat markup: the peer reads that as plain characters, which the model never saw.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from validate.compressed_logits import CompressedLogits, compress
from validate.drift import compare
from validate.runtimes import Session, llama_cpp

WINDOW = 512
TOLERANCE, TOP_TOLERANCE = 0.02, 0.002
TRIES = 10
LAST_DIGIT = 5e-7  # half of what the peer prints of KL
SETTINGS = ("-ctk", "f32", "-ctv", "f32", "-fa", "off", "-c", str(WINDOW), "-b", str(WINDOW), "-ub", str(WINDOW))
SETTINGS += ("-t", "2", "--no-warmup", "-ngl", "0")


@dataclass(frozen=True)
class Found:
    """What one side says of one candidate."""

    kl: float
    ppl: float
    ppl_base: float
    top1: float


def main(peer: Path, base: Path, text: Path, candidates: list[Path]) -> int:
    """Print both sides of every candidate; 1 where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "logits"
        run([peer, "-m", base, "-f", text, "--kl-divergence-base", kept, *SETTINGS])
        theirs = [ask_peer(peer, path, kept) for path in candidates]
        windows = tokens_of(kept)
    with llama_cpp.RUNTIME.open(base, context=WINDOW, threads=2) as session:
        put_bos(windows, session)
        reference = [compress(half(session, w), w[WINDOW // 2 :], 1 << 30) for w in windows]
    print(f"{len(windows)} windows of {WINDOW}, base {base.name}")
    print(f"{'':32}{'mean KL':>26}{'perplexity':>24}{'same top token':>20}")
    differ = 0
    for path, peers in zip(candidates, theirs, strict=True):
        ours = measure(path, windows, reference)
        told = apart(ours, peers)
        differ += told
        row = f"{ours.kl:12.6g} {peers.kl:12.6g} {ours.ppl:11.4f} {peers.ppl:11.4f} {ours.top1:9.3%} {peers.top1:9.3%}"
        print(f"{path.name:32} {row}{'  DIFFER' if told else ''}")
    return int(differ > 0)


# ---- the peer


def run(command: list[object]) -> str:
    """What it printed; its words are the error where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def ask_peer(peer: Path, path: Path, kept: Path) -> Found:
    for _ in range(TRIES):  # one time in four it ends before its last lines are out
        said = run([peer, "-m", path, "--kl-divergence-base", kept, "--kl-divergence", *SETTINGS])
        if "Same top p:" in said:
            break
    return Found(
        kl=number(said, r"Mean +KLD"),
        ppl=number(said, r"Mean PPL\(Q\) +"),
        ppl_base=number(said, r"Mean PPL\(base\) +"),
        top1=number(said, r"Same top p") / 100,
    )


def number(said: str, name: str) -> float:
    found = re.search(rf"{name} *: +(-?[\d.]+)", said)
    if found is None:
        raise SystemExit(f"the peer said no {name}:\n{said[-2000:]}")
    return float(found[1])


def tokens_of(kept: Path) -> list[list[int]]:
    """The windows at the head of the peer's file: its mark, then int32 window, vocabulary, windows, tokens."""
    with open(kept, "rb") as file:
        if file.read(8) != b"_logits_":
            raise SystemExit(f"{kept} is not the file that llama-perplexity writes")
        window, _, count = (int(i) for i in np.fromfile(file, np.int32, 3))
        return np.fromfile(file, np.int32, window * count).reshape(count, window).tolist()  # type: ignore[no-any-return]


# ---- ours


def put_bos(windows: list[list[int]], session: Session) -> None:
    identity = session.identity()
    if identity.adds_bos:
        for window in windows:
            window[0] = identity.bos


def half(session: Session, window: list[int]) -> np.ndarray:
    """Logits of the half that is scored."""
    return session.logits(window)[WINDOW // 2 :]


def measure(path: Path, windows: list[list[int]], reference: list[CompressedLogits]) -> Found:
    with llama_cpp.RUNTIME.open(path, context=WINDOW, threads=2) as session:
        drifts = [compare(kept, half(session, w), w[WINDOW // 2 :]) for kept, w in zip(reference, windows, strict=True)]
    return Found(
        kl=float(np.concatenate([d.kl[:-1] for d in drifts]).mean()),
        ppl=float(np.exp(np.concatenate([d.nll_candidate for d in drifts]).mean())),
        ppl_base=float(np.exp(np.concatenate([d.nll_reference for d in drifts]).mean())),
        top1=float(np.concatenate([d.same_top[:-1] for d in drifts]).mean()),
    )


def apart(ours: Found, peers: Found) -> bool:
    kl, ppl = abs(ours.kl - peers.kl), abs(ours.ppl - peers.ppl)
    near = kl <= TOLERANCE * peers.kl + LAST_DIGIT and ppl <= TOLERANCE * peers.ppl
    return not near or abs(ours.top1 - peers.top1) > TOP_TOLERANCE


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    sys.exit(main(*map(Path, sys.argv[1:4]), list(map(Path, sys.argv[4:]))))
