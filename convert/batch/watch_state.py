"""What a watch has seen: a line a fact, in OUT/.convert/watch/seen.jsonl, each on the disk before anything follows it.

    {"watch": "microsoft name=Phi-*", "until": "2026-11-29T12:00:00.000Z", "whole": "…"}
    {"model": "microsoft/Phi-4", "revision": "c0ff…", "state": "queued", "folder": "Phi-4", "where": "watch.txt:1"}

`until` is the latest change that a look saw, `whole` when all that the hub lists was looked at. The last line of a
revision counts. A line that a kill or a full disk cut short counts for nothing, and what it would
have said is found out again.

    there      was there at the first look, and is left alone
    queued     is to be converted: not begun, or cut short
    again      was queued, and failed by what may pass: converted with the next look
    replaced   a newer revision came before it was begun
    passed, made, missed, failed     what came of it
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from convert.files import STATE_FOLDER, fsync_folder
from convert.json_types import JsonDict
from convert.source.hub_listing import Listed

FOLDER = "watch"
OPEN = ("queued", "again")
AGAIN = 3  # looks that a revision may fail in by what passes by itself


@dataclass(frozen=True)
class Queued:
    """A revision that is to be converted."""

    model: str
    revision: str
    folder: str  # what the model is called: its folder below OUT
    where: str


class State:
    """The file of one output folder. One process at a time writes it."""

    def __init__(self, out: Path) -> None:
        self.folder = out / STATE_FOLDER / FOLDER
        self.path = self.folder / "seen.jsonl"
        self._revisions: dict[tuple[str, str], JsonDict] = {}
        self._until: dict[str, str] = {}
        self._whole: dict[str, str] = {}
        self._folders: dict[str, str] = {}  # folder in small letters -> model
        self._failed: Counter[tuple[str, str]] = Counter()
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(json.loads(line))

    def until(self, watch: str) -> str:
        """How far a watch has looked: the latest change that it saw; empty for one that never did."""
        return self._until.get(watch, "")

    def whole(self, watch: str) -> str:
        """When all that the hub has of it was last looked at."""
        return self._whole.get(watch, "")

    def knows(self, model: Listed) -> bool:
        """Whether the revision was seen, whatever came of it."""
        return (model.name, model.revision) in self._revisions

    def queue(self) -> list[Queued]:
        """What is to be converted, as it came."""
        found = [words for words in self._revisions.values() if words["state"] in OPEN]
        return [Queued(w["model"], w["revision"], w["folder"], w["where"]) for w in found]

    def see(self, models: Iterable[Listed], where: str, *, queue: bool) -> list[Queued]:
        """Write down revisions that are new; with `queue` they are to be converted, and are returned."""
        lines: list[JsonDict] = []
        for model in models:
            words: JsonDict = {"model": model.name, "revision": model.revision, "state": "there", "where": where}
            if queue:
                lines += [
                    {"model": one.model, "revision": one.revision, "state": "replaced"}
                    for one in self.queue()
                    if one.model == model.name
                ]
                words |= {"state": "queued", "folder": self._folder(model.name)}
            lines.append(words)
            self._take(words)
        self._write(lines)
        return [Queued(w["model"], w["revision"], w["folder"], w["where"]) for w in lines if w["state"] == "queued"]

    def looked(self, watch: str, until: str, whole: str) -> None:
        """A watch was looked through: all of it at `whole`, and since then as far back as something had changed."""
        self._write([{"watch": watch, "until": until, "whole": whole}])

    def ended(self, one: Queued, status: str, *, passes: bool) -> None:
        """What came of a revision; `passes`: it failed by what may go well another time."""
        again = passes and self._failed[one.model, one.revision] + 1 < AGAIN
        self._write([{"model": one.model, "revision": one.revision, "state": "again" if again else status}])

    def _folder(self, model: str) -> str:
        """The folder of a model: its name; of a second model of that name its owner's too."""
        owner, _, name = model.partition("/")
        for folder in (name, f"{owner}--{name}"):
            if self._folders.setdefault(folder.lower(), model) == model:
                return folder
        return f"{owner}--{name}"

    def _take(self, words: JsonDict) -> None:
        if "watch" in words:
            self._until[words["watch"]], self._whole[words["watch"]] = words["until"], words["whole"]
            return
        key, state = (words["model"], words["revision"]), words["state"]
        known = self._revisions.setdefault(key, {})
        known |= words
        self._failed[key] += state == "again"
        if "folder" in words:
            self._folders.setdefault(words["folder"].lower(), words["model"])

    def _write(self, lines: list[JsonDict]) -> None:
        if not lines:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(words, ensure_ascii=False) + "\n" for words in lines)
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read() == b"\n" else f"\n{text}"  # after a line that was cut short
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(self.folder)
        for words in lines:
            self._take(words)
