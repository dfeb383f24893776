"""Proves a written GGUF file's tokenizer: llama.cpp must encode with it as the checkpoint's own tokenizer does.

Hard strings, and the tokenizer's added tokens in text. The comparison runs in a process of its own
(_tokenizer_worker.py); what llama.cpp is known not to do is told apart there, string by string.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert import child
from convert.bundle import Bundle
from convert.distribution import install_command
from convert.errors import StageError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from convert.formats.gguf.special_tokens import ENDS_BY_TEXT
from convert.formats.gguf.tokenizer_references import Request
from convert.formats.gguf.tokenizer_worker import Result
from convert.formats.gguf.vocabularies.merged_pieces import has_metaspace
from convert.formats.gguf.vocabularies.ranks import ranks_file, read_ranks
from convert.gguf_field import Field
from convert.progress import Progress
from convert.source.companions import Companions, read_companions
from validate.contract import quoted
from validate.runtimes._llama_api import library_path
from validate.samples import HARD_STRINGS

ADDED_TOKENS = 64  # of the model's own, tried in text; some models have thousands
SHOWN_IDS = 24

NEEDS: Mapping[str, tuple[str, ...]] = {
    "tokenizers": ("tokenizers",),
    "merges": ("tokenizers",),
    "sentencepiece": ("sentencepiece",),
    "ranks": ("regex",),
}
"""What the checkpoint's own tokenizer is run by."""


def prove_tokenizer(file: Path, fields: Sequence[Field], source: Bundle, check: str, progress: Progress) -> None:
    """Raise StageError where llama.cpp encodes otherwise with `file`; `check` is "fail", or "warn" for a warning.

    `fields` are the file's metadata. Where nothing can be compared, a warning says why.
    """
    companions = read_companions(source)
    vocabulary = tuple(field for field in fields if field.key.startswith("tokenizer."))
    described = request(file, vocabulary, companions)
    lacking = _lacking(described)
    if lacking or described is None:
        progress.warn(f"the tokenizer of {file.name} was not proven: {lacking}")
        return
    result = _ask(_Remembered(described, _digest(described, vocabulary)))
    for limit, count in result.limits.items():
        progress.note(f"tokenizer: {count} of {result.total} strings differ by a known limit of llama.cpp: {limit}")
    if not result.failed and not result.wrong:
        progress.note(f"tokenizer: llama.cpp encodes {result.total} strings as the checkpoint's own does")
        return
    error = _difference(file, result)
    if check == "fail":
        raise error
    progress.warn(str(error.problem))


def request(file: Path, fields: Sequence[Field], companions: Companions) -> Request | None:
    """What is to be compared; None where the checkpoint's tokenizer is one that nothing here runs."""
    said: dict[str, Any] = {field.key.removeprefix("tokenizer.ggml."): field.value for field in fields}
    own = _reference(companions)
    if own is None:
        return None
    tokens = list(zip(said["tokens"], said["token_type"], strict=True))
    added = {str(token["content"]): number for number, token in companions.added_tokens.items()}
    special = {text: number for number, (text, kind) in enumerate(tokens) if kind in (CONTROL, USER_DEFINED, UNKNOWN)}
    return Request(
        file=str(file),
        **own,
        texts=[*HARD_STRINGS, *_in_text(list(added or special)[:ADDED_TOKENS])],
        special=added if companions.tokenizer_json is not None else special | added,
        cuts=pretokenizers.cuts(said["pre"]) if said["model"] == "gpt2" else (),
        by_name=[text for text, kind in tokens if kind == NORMAL and text in ENDS_BY_TEXT],
        stripped=[str(t["content"]) for t in companions.added_tokens.values() if t.get("lstrip") or t.get("rstrip")],
        metaspace=_metaspace(companions),
        space_prefix=said.get("add_space_prefix") is True,
        ties=said["model"] == "t5",
        words=said["model"] == "bert",
        folds=said["model"] == "t5" and said.get("remove_extra_whitespaces") is True,
        odd_spaces=said["model"] == "t5" or pretokenizers.odd_spaces(said["pre"]),
        ends=_has_processor(companions),
    )


def _in_text(tokens: Sequence[str]) -> list[str]:
    """The tokens in text: beside letters, spaces and newlines."""
    return [text for token in tokens for text in (token, f"a{token}b", f" {token} {token}\n{token}{token}")]


def _reference(companions: Companions) -> dict[str, Any] | None:
    """Kind and file of the checkpoint's own tokenizer, in the order in which the vocabulary looks for them."""
    files = companions.files
    name = str(companions.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    pattern = pretokenizers.regexes(pretokenizers.CLASSES.get(name, ""))
    if "tokenizer.json" in files:
        return {"kind": "tokenizers", "path": str(files["tokenizer.json"])}
    ranks = ranks_file(companions)
    if ranks is not None:
        known = pattern or (("in the file",) if read_ranks(ranks).pattern else ())
        return {"kind": "ranks", "path": str(ranks), "pattern": known[0]} if known else None
    if companions.sentencepiece is not None:
        return {"kind": "sentencepiece", "path": str(companions.sentencepiece)}
    if "vocab.json" in files and "merges.txt" in files and pattern:
        merges = {"path": str(files["vocab.json"]), "merges": str(files["merges.txt"])}
        return {"kind": "merges", **merges, "pattern": pattern[0]}
    return None


def _metaspace(companions: Companions) -> bool:
    """Whether the tokenizer's space before a text is Metaspace's."""
    tokenizer = companions.tokenizer_json
    return tokenizer is not None and has_metaspace(tokenizer, "tokenizer.json")


def _has_processor(companions: Companions) -> bool:
    """Whether tokenizer.json says what goes around a text."""
    return isinstance((companions.tokenizer_json or {}).get("post_processor"), Mapping)


def _lacking(described: Request | None) -> str:
    """Why nothing can be compared; empty when it can."""
    if library_path() is None:
        return f"xllamacpp is not installed; {install_command('validate')}"
    if described is None:
        return "no library here runs the checkpoint's own tokenizer"
    absent = [module for module in NEEDS[described.kind] if importlib.util.find_spec(module) is None]
    return f"{absent[0]} is not installed; {install_command('validate')}" if absent else ""


def _digest(described: Request, vocabulary: Sequence[Field]) -> str:
    """Of everything that decides the outcome, wherever it lies: one proof is enough for files that hold the same."""
    digest = hashlib.sha256(json.dumps({**asdict(described), "file": "", "path": "", "merges": ""}).encode())
    for field in vocabulary:
        digest.update(repr((field.key, field.value)).encode())
    for path in filter(None, (described.path, described.merges)):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


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
    got = f"llama.cpp encodes {result.wrong} of {result.total} strings otherwise: {shown}"
    return StageError(f"tokenizer of {file.name}", got, "the same ids", remedy)


def _ids(ids: Sequence[int]) -> str:
    return f"{list(ids[:SHOWN_IDS])}{'…' if len(ids) > SHOWN_IDS else ''}"
