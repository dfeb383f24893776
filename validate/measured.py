"""What was measured of a candidate, kept by content: a validation that was killed goes on where it was.

FOLDER/<key>.json    the measurement
FOLDER/<key>.npz     its draws, one array a metric

A key is the hash of all that the measurement depends on: the candidate's own key (its files, its runtime, the source)
and every question. A file that is broken is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.measurement import Candidate, Measurement, Questions

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORM = 3  # raise it when a measurement of the same question would hold something else
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # pydantic's are ValueErrors


class Measured:
    """The measurements of one validation; `folder` is where they are kept, None to keep none."""

    def __init__(self, folder: Path | None, questions: Questions) -> None:
        self._folder, self._questions, self._in_steps = folder, _digest(questions), bool(questions.steps)
        self._used: set[Path] = set()

    def load(self, candidate: Candidate) -> Measurement | None:
        """What was measured of a candidate; None where that is not known."""
        path = self._path(candidate)
        if path is None or not path.is_file():
            return None
        with contextlib.suppress(*_BROKEN):
            found = _adapter().validate_python(json.loads(path.read_bytes()))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                return replace(found, draws={name: arrays[name] for name in arrays.files})
        return None

    def save(self, candidate: Candidate, found: Measurement) -> None:
        """Keep a measurement that is whole; one that failed is made again, its cause may be gone."""
        path = self._path(candidate)
        if path is None or found.is_settled:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **{name: np.asarray(drawn) for name, drawn in found.draws.items()})
        part.replace(path.with_suffix(".npz"))
        plain = _adapter().dump_python(replace(found, draws={}))  # not dump_json: it has no NaN in what lies deeper
        part.write_text(json.dumps(plain, default=lambda number: number.item()), encoding="utf-8")
        part.replace(path)  # last: where it is, the arrays are

    def forget_others(self) -> None:
        """Throw away what nobody asked for: it is of other files or questions."""
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.with_suffix(".json") not in self._used:
                    path.unlink(missing_ok=True)

    def _path(self, candidate: Candidate) -> Path | None:
        if self._folder is None or not candidate.key:
            return None
        until = sorted(candidate.limits.items()) if self._in_steps else []  # they decide how much is read
        words = json.dumps([FORM, candidate.key, self._questions, *([until] if until else [])])
        path = self._folder / f"{hashlib.sha256(words.encode()).hexdigest()}.json"
        self._used.add(path)
        return path


@cache
def _adapter() -> TypeAdapter[Measurement]:
    from pydantic import TypeAdapter

    return TypeAdapter(Measurement)


def _digest(questions: Questions) -> str:
    """Of everything that is asked: the pixels of images by their content."""
    found = hashlib.sha256()
    for name, value in sorted(vars(questions).items()):
        if name == "images":
            for label, pixels in questions.images:
                found.update(f"{label}{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
        else:
            found.update(f"{name}={value!r}".encode())
    for task in questions.clicks:
        found.update(task.image.read_bytes() if task.image.is_file() else b"")
    return found.hexdigest()
