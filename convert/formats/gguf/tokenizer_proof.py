"""Proves a written GGUF file's tokenizer: llama.cpp must encode with it as the checkpoint's own tokenizer does.

Hard strings, and the tokenizer's added tokens in text. The comparison runs in a process of its own
(tokenizer_worker.py); what llama.cpp is known not to do is counted apart there, string by string.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from convert import child
from convert.distribution import install_command
from convert.errors import StageError
from convert.formats.gguf import tokenizer_verdicts as verdicts
from convert.formats.gguf.tokenizer_references import LIBRARIES, Request
from convert.formats.gguf.tokenizer_worker import Result
from convert.gguf_field import Field
from convert.progress import Progress
from validate.contract import quoted
from validate.runtimes._llama_api import library_path

SHOWN_IDS = 24


def prove_tokenizer(file: Path, fields: Sequence[Field], asked: Request | None, check: str, progress: Progress) -> None:
    """Raise StageError where llama.cpp encodes differently with `file`; `check` is "fail", or "warn" for a warning.

    `fields` are the file's metadata, `asked` what tokenizer_request.py makes of them. Where nothing can be compared, a
    warning says why. A comparison that found no difference is not made again between the same vocabularies by the same
    libraries (tokenizer_verdicts.py).
    """
    lacking = _lacking(asked)
    if lacking or asked is None:
        progress.warn(f"the tokenizer of {file.name} was not proven: {lacking}")
        return
    described = replace(asked, file=str(file))
    key = verdicts.key(described, fields)
    kept = verdicts.recall(key, described, fields)
    result = kept or _ask(_Remembered(described, key))
    for limit, count in result.limits.items():
        progress.note(f"tokenizer: {count} of {result.total} strings differ by a known limit of llama.cpp: {limit}")
    if not result.failed and not result.wrong:
        said = f"tokenizer: llama.cpp encodes {result.total} strings as the checkpoint's own does"
        progress.note(f"{said}, as was found before with the same files and libraries" if kept else said)
        verdicts.keep(key, result)
        return
    error = _difference(file, result)
    if check == "fail":
        raise error
    progress.warn(str(error.problem))


def _lacking(described: Request | None) -> str:
    """Why nothing can be compared; empty when it can."""
    if library_path() is None:
        return f"xllamacpp is not installed; {install_command('validate')}"
    if described is None:
        return "no library here runs the checkpoint's own tokenizer"
    absent = [module for module in LIBRARIES[described.kind] if importlib.util.find_spec(module) is None]
    return f"{absent[0]} is not installed; {install_command('validate')}" if absent else ""


class _Remembered:
    """A request that equals another by its digest."""

    def __init__(self, described: Request, key: str) -> None:
        self.request, self.key = described, key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Remembered) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=8)
def _ask(remembered: _Remembered) -> Result:
    with tempfile.TemporaryDirectory(prefix="convert-tokenizer-") as folder:
        asked = Path(folder) / "request.json"
        asked.write_text(json.dumps(asdict(remembered.request)), encoding="utf-8")
        ended = child.run(["convert.formats.gguf.tokenizer_worker", str(asked)])
    if ended.code or ended.result is None:
        words = ended.failure or " ".join(ended.last[-3:])
        return Result(0, failed=f"the process that compares {ended.how}: {words[:400]}")
    return Result(**ended.result)


def _difference(file: Path, result: Result) -> StageError:
    remedy = "`tokenizer_check: warn` converts all the same"
    if result.failed:
        return StageError(f"tokenizer of {file.name}", result.failed, "", remedy)
    shown = "; ".join(
        f"{quoted(text)}: {_ids(got)} where the checkpoint's own gives {_ids(wanted)}"
        for text, wanted, got in result.differences
    )
    got = f"llama.cpp encodes {result.wrong} of {result.total} strings differently: {shown}"
    return StageError(f"tokenizer of {file.name}", got, "the same ids", remedy)


def _ids(ids: Sequence[int]) -> str:
    return f"{list(ids[:SHOWN_IDS])}{'…' if len(ids) > SHOWN_IDS else ''}"
