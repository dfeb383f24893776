"""What candidate mixes really cost: their files on llama.cpp against the source, on rows nothing was calibrated on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle
from convert.calibration.rows import mix_windows
from convert.errors import StageError
from convert.formats.gguf.calibration import model_key
from convert.formats.gguf.imatrix import Imatrix
from convert.model.reference import How, open_reference
from convert.progress import Progress

if TYPE_CHECKING:
    from validate.reference import Reference

TOKENS, WINDOW = 4096, 512  # that decide between mixes: the same for all, so that what differs is the mixes
TOOLS = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Proved:
    """Mean KL of a file over the rows, and the interval it lies in; `tokens` were read."""

    kl: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True)
class Judge:
    """Who compares: the source, rows of tokens, and where what the source says is kept."""

    source: Bundle
    held_out: Sequence[Sequence[int]]
    imatrix: Imatrix | None  # measured on windows that are left out, where it says on which
    folder: Path

    def lacks(self) -> str:
        """Why nothing can be compared here; empty where it can."""
        from validate import runtimes

        with contextlib.suppress(ImportError):
            import transformers  # noqa: F401

            return runtimes.load("llama_cpp").available() or ""
        return "transformers, which runs the source, is not installed"

    def prove(self, files: Sequence[Path], out: Path, progress: Progress) -> list[Proved]:
        """What each file gives. Raises StageError where the source or a file does not run."""
        from validate.runtimes import RuntimeFailure

        with self._reference(out) as reference:
            try:
                windows = self._windows(reference)
                progress.start("the source reads", sum(map(len, windows)), "tok")
                for _ in reference.compressed_logits_of(windows, progress.advance):
                    pass  # they are kept
                progress.start("candidates read", len(files) * sum(map(len, windows)), "tok")
                return [_drift(reference, path, windows, progress) for path in files]
            except RuntimeFailure as error:
                raise StageError("fit", f"candidates cannot be compared: {error}", "", "set prove: false") from error

    @contextlib.contextmanager
    def _reference(self, out: Path) -> Iterator[Reference]:
        from validate import compressed_logits, provenance
        from validate.reference import Reference

        key = json.dumps([model_key(self.source), provenance.versions(TOOLS)])
        with open_reference(self.source, within=out, how=How()) as session:
            yield Reference(session, self.folder, key, compressed_logits.room_bytes(TOKENS))

    def _windows(self, reference: Reference) -> list[list[int]]:
        rows = [list(row) for row in self.held_out] or self._unread(reference)
        kept: list[list[int]] = []
        for row in rows:
            if sum(map(len, kept)) < TOKENS:
                kept.append(row[:WINDOW])
        return kept

    def _unread(self, reference: Reference) -> list[list[int]]:
        """Of the default mix, what no matrix measured on it has seen."""
        seen = self.imatrix.chunk_count if self.imatrix and self.imatrix.chunk_size == WINDOW else 0
        known = {tuple(row) for row in mix_windows(reference, seen, WINDOW)} if seen else set()
        return [row for row in mix_windows(reference, seen + 2 * TOKENS // WINDOW, WINDOW) if tuple(row) not in known]


def _drift(reference: Reference, path: Path, windows: Sequence[Sequence[int]], progress: Progress) -> Proved:
    from validate import drift, runtimes

    found = []
    with runtimes.open_session(runtimes.load("llama_cpp"), path, context=max(map(len, windows))) as session:
        answers = session.logits_of(windows)
        for tokens in windows:
            found.append(drift.compare(reference.compressed_logits(tokens), next(answers), tokens))
            progress.advance(len(tokens))
    summary = drift.summarize(found, {"kl_mean"})
    kl = summary.metrics["kl_mean"]
    low, high = summary.intervals.get("kl_mean", (kl, kl))
    return Proved(kl, low, high, sum(map(len, windows)))
