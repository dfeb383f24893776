"""What a batch writes down while it goes on: results as they come, and how far it is.

OUT/.convert/batch/now.json        how far: counts, what runs, what it waits for; written anew every second
OUT/.convert/batch/results.jsonl   the last result of every model, a line each
OUT/.convert/batch/history.jsonl   a line a batch that ended: when, and a few numbers of every output
OUT/.convert/batch/workers/        what libraries printed in each process
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from convert.batch.results import ModelResult, from_json
from convert.files import STATE_FOLDER, replace_text
from convert.json_types import JsonDict, JsonObject

FOLDER = "batch"
KEPT = 50  # batches that history remembers
EVERY_SECONDS = 1.0


def folder_of(out: Path) -> Path:
    """Where the batches of an output folder write things down."""
    return out / STATE_FOLDER / FOLDER


def moment() -> str:
    """Now, as a person and a sort read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


class Journal:
    """The files of one output folder."""

    def __init__(self, out: Path) -> None:
        self.folder = folder_of(out)
        self._written = 0.0
        self._unsaved: list[str] = []  # results that a full disk did not take

    def results(self) -> dict[str, ModelResult]:
        """The last result of each model by its name; a line that is none is passed over."""
        found: dict[str, ModelResult] = {}
        for line in _lines(self.folder / "results.jsonl"):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                result = from_json(json.loads(line))
                found[result.name] = result
        return found

    def keep(self, result: ModelResult) -> None:
        """Write one result down; it survives whatever comes after. What a full disk does not take follows later."""
        self._unsaved.append(json.dumps(result.to_json(), ensure_ascii=False))
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "results.jsonl", "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self._unsaved))
                file.flush()
                os.fsync(file.fileno())
            self._unsaved.clear()

    def compact(self, results: Iterable[ModelResult]) -> None:
        """Each model's last result alone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(result.to_json(), ensure_ascii=False) for result in results]
        replace_text(self.folder / "results.jsonl", "".join(f"{line}\n" for line in lines))

    def tell(self, state: Mapping[str, object], *, now: bool = False) -> None:
        """Write how far it is, not more often than `convert status` can be asked; a full disk loses it."""
        if not now and time.monotonic() - self._written < EVERY_SECONDS:
            return
        self._written = time.monotonic()
        with contextlib.suppress(OSError):
            partial = self.folder / ".now.json.partial"
            partial.write_text(json.dumps({**state, "updated": moment()}, ensure_ascii=False), encoding="utf-8")
            partial.replace(self.folder / "now.json")

    def now(self) -> JsonDict | None:
        """How far the last batch is, or was when it ended; None where there was none."""
        with contextlib.suppress(OSError, ValueError):
            found: JsonDict = json.loads((self.folder / "now.json").read_text(encoding="utf-8"))
            return found
        return None

    # ---- history

    def remember(self, results: Sequence[ModelResult]) -> None:
        """Add this batch to the history; the oldest go."""
        rows = {r.name: _brief(r) for r in results if r.status not in ("pending", "left out")}
        line = json.dumps({"finished": moment(), "models": rows}, ensure_ascii=False)
        kept = [*_lines(self.folder / "history.jsonl"), line][-KEPT:]
        replace_text(self.folder / "history.jsonl", "".join(f"{each}\n" for each in kept))

    def history(self) -> list[JsonObject]:
        """The batches that ended, the latest last."""
        found = []
        for line in _lines(self.folder / "history.jsonl"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [batch for batch in found if isinstance(batch, dict) and isinstance(batch.get("models"), dict)]


def _brief(result: ModelResult) -> JsonDict:
    names = ("verdict", "kl_mean", "kl_low", "kl_high", "size_bytes")
    outputs = {o.label: {name: value for name, value in vars(o).items() if name in names} for o in result.outputs}
    return {"status": result.status, "seconds": result.seconds if result.ran else None, "outputs": outputs}


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return []
