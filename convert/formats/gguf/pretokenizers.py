"""The name of the llama.cpp pre-tokenizer that cuts text as a tokenizer.json does: found by what the pipeline is.

Not by how one text encodes. llama.cpp's byte-level BPE cuts a text by a list of regular expressions, one after the
other, before it merges; a file picks the list by a name (`tokenizer.ggml.pre`). tokenizer.json spells the same thing
out as a pipeline. Both are brought into one canonical spelling here and compared:

    tokenizer.json pre_tokenizer -> steps -> canonical spelling -> looked up in TABLE -> name

The tests prove each entry by encoding with both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from convert.errors import InputError
from convert.formats.gguf.pretokenizer_table import (
    ANY_CASE,
    BYTES,
    DIGIT,
    DIGITS,
    GPT2,
    LOWER_CASE,
    PUNCTUATION_EACH,
    PUNCTUATION_RUNS,
    SPACE_NOTE,
    TABLE,
    written,
)
from convert.json_types import JsonObject

CLASSES: Mapping[str, str] = MappingProxyType(
    {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2", "QWenTokenizer": "qwen2"}
)
"""tokenizer_class -> name, for the models that come without tokenizer.json: their code is the pipeline."""


# --- one spelling for what is one expression --------------------------------------------------------------------------

_SAME: tuple[tuple[str, str], ...] = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("\t", r"\t"),
    # the seven contractions, as people write them; none is the beginning of another, so their order says nothing
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", ANY_CASE),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", ANY_CASE),
    ("'(?i:[sdmt]|ll|ve|re)", ANY_CASE),
    ("(?i:'(?:[sdmt]|ll|ve|re))", ANY_CASE),
    ("'(?:[sdmt]|ll|ve|re)", LOWER_CASE),
    ("'s|'t|'re|'ve|'m|'ll|'d", LOWER_CASE),
    # possessive and greedy find the same where nothing after could take a character back
    (r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}"),
    (r"\p{L}++|", r"\p{L}+|"),
    (r"[^\s\p{L}\p{N}]++[\r\n]*+", r"[^\s\p{L}\p{N}]+[\r\n]*"),
    (r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*"),
    (r"\p{N}{1}|", r"\p{N}|"),
    # a class inside a class is their union
    ("[^(\\s|[.,!?…。，、।۔،])]", "[^(\\s|.,!?…。，、।۔،)]"),
)


def canonical(regex: str) -> str:
    """`regex` in the spelling TABLE uses; two that come out equal match the same texts.

    The last `|\\s+` after `\\s+(?!\\S)` goes: all it ever finds is one space before a word, which stands alone without
    it too, being the gap between two matches.
    """
    for spelled, common in _SAME:
        regex = regex.replace(spelled, common)
    return regex.removesuffix(r"|\s+") if regex.endswith(r"|\s+(?!\S)|\s+") else regex


def steps(pre_tokenizer: object, where: str = "tokenizer.json") -> tuple[str, ...]:
    """The pipeline `pre_tokenizer` of a tokenizer.json as canonical expressions, in order; () for none.

    A step that has no such form is its own JSON, so that it is in no table and readable in a message.
    """
    found = [step for part in flat(pre_tokenizer, "pretokenizers", where) for step in _step(part)]
    return tuple(found[:-1] if found and found[-1] == BYTES else found)


def flat(part: object, inner: str, where: str = "tokenizer.json") -> Iterable[JsonObject]:
    """The steps of a part of tokenizer.json, in order; `inner` is what a Sequence of such steps calls its members."""
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise InputError(where, f"a pipeline step is {str(part)[:60]!r}", "an object with a type")
        if part.get("type") != "Sequence":
            yield part
            continue
        members = part.get(inner)
        if not isinstance(members, list):
            raise InputError(where, f"a Sequence without {inner}", "a list")
        waiting.extend(reversed(members))


def _step(part: JsonObject) -> list[str]:
    kind = part.get("type")
    if kind == "ByteLevel" and not part.get("add_prefix_space", True):
        return [GPT2, BYTES] if part.get("use_regex", True) else [BYTES]
    if kind == "Digits":
        return [DIGIT if part.get("individual_digits") else DIGITS]
    if kind == "Punctuation":
        known = {"Contiguous": PUNCTUATION_RUNS, "Isolated": PUNCTUATION_EACH}.get(
            str(part.get("behavior", "Isolated"))
        )
        return [known] if known else [_as_json(part)]
    if kind == "Split":
        pattern = part.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if isinstance(regex, str):
            # what a regex that leaves no gap finds is the same whether its matches are kept or the gaps removed
            no_gap = regex.endswith(r"|\s+") and (part.get("behavior"), part.get("invert")) == ("Removed", True)
            if no_gap or (part.get("behavior") == "Isolated" and not part.get("invert")):
                return [canonical(regex)]
    return [_as_json(part)]


def _as_json(part: JsonObject) -> str:
    return json.dumps(part, ensure_ascii=False, sort_keys=True)


def regexes(name: str) -> tuple[str, ...]:
    """The expressions llama.cpp's pre-tokenizer `name` stands for; () for a name that is not in the table."""
    entry = next((entry for entry in TABLE if entry.name == name), None)
    return tuple(map(written, entry.steps)) if entry else ()


def cuts(name: str) -> tuple[str, ...]:
    """The expressions that llama.cpp cuts by under `name`, where those are not the tokenizer's own; else ()."""
    entry = next((entry for entry in TABLE if entry.name == name), None)
    return tuple(map(written, entry.cuts)) if entry else ()


def odd_spaces(name: str) -> bool:
    """Whether `name` cuts otherwise than its pipeline at spaces that are not ASCII."""
    return any(entry.name == name and entry.note == SPACE_NOTE for entry in TABLE)


@dataclass(frozen=True)
class PreTokenizer:
    """`name` goes into tokenizer.ggml.pre; `notes` say where llama.cpp is known to encode differently."""

    name: str
    notes: tuple[str, ...] = ()


def recognize(tokenizer_json: JsonObject, override: str | None = None, where: str = "tokenizer.json") -> PreTokenizer:
    """The pre-tokenizer of a byte-level BPE tokenizer.json, or `override` as its name.

    Raises InputError that shows the pipeline, for one that llama.cpp has no name for.
    """
    notes = _normalizer_notes(tokenizer_json.get("normalizer"), where, override)
    if override is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", override):
            raise InputError("pre_tokenizer", repr(override), "a name llama.cpp knows, such as qwen2")
        return PreTokenizer(override, (*notes, f"pre-tokenizer {override} was set by hand, not recognized"))
    pipeline = steps(tokenizer_json.get("pre_tokenizer"), where)
    alike = [entry for entry in TABLE if entry.steps == pipeline]
    if not alike:
        raise InputError(
            where,
            f"llama.cpp has no name for the pre-tokenizer {_shown(pipeline)}{_nearest(tokenizer_json)}",
            remedy="name one with `pre_tokenizer: <name>`; where it splits differently, add `tokenizer_check: warn`",
        )
    model = tokenizer_json.get("model")
    wanted = isinstance(model, Mapping) and model.get("ignore_merges") is True
    entry = next((e for e in alike if e.ignore_merges == wanted), alike[0])
    if entry.ignore_merges != wanted and (unreachable := _not_merged(tokenizer_json)):
        raise InputError(
            where,
            f"ignore_merges is {str(wanted).lower()}, and no merge makes the token {unreachable!r}",
            f"ignore_merges {str(entry.ignore_merges).lower()}, which is all llama.cpp does for {entry.name}",
        )
    return PreTokenizer(entry.name, (*notes, entry.note) if entry.note else notes)


def _nearest(tokenizer_json: JsonObject) -> str:
    from convert.formats.gguf.nearest_pretokenizer import nearest

    found = nearest(tokenizer_json.get("pre_tokenizer"))
    return f"; {found}" if found else ""


def _shown(pipeline: tuple[str, ...]) -> str:
    text = " then ".join(pipeline) or "(none)"
    return text if len(text) < 600 else text[:600] + "..."


def _normalizer_notes(normalizer: object, where: str, override: str | None) -> tuple[str, ...]:
    """llama.cpp normalizes nothing before byte-level BPE. NFC leaves nearly every text as it is; others do not."""
    notes = []
    for part in flat(normalizer, "normalizers", where):
        if part.get("type") == "NFC":
            notes.append("llama.cpp does not apply the tokenizer's NFC: text in decomposed form encodes differently")
        elif override is not None:
            notes.append(f"llama.cpp does not apply the tokenizer's normalizer {part.get('type')}")
        else:
            raise InputError(
                where,
                f"the normalizer {json.dumps(part, ensure_ascii=False)[:120]}",
                "none or NFC: llama.cpp applies no other before byte-level BPE",
                "to convert all the same, name the pre-tokenizer with `pre_tokenizer: <name>`",
            )
    return tuple(notes)


def _not_merged(tokenizer_json: JsonObject) -> str | None:
    """A token of several characters that no merge makes; None: then ignore_merges changes nothing.

    Added tokens do not count: they are found in the text before anything is merged.
    """
    model = tokenizer_json["model"]
    merges, vocabulary, added = model.get("merges"), model.get("vocab"), tokenizer_json.get("added_tokens")
    pairs = merges if isinstance(merges, list) else []
    made = {"".join(map(str, pair)) if isinstance(pair, list) else str(pair).replace(" ", "", 1) for pair in pairs}
    made |= {str(token.get("content")) for token in added or () if isinstance(token, Mapping)}
    tokens = vocabulary if isinstance(vocabulary, Mapping) else {}
    return next((token for token in tokens if len(token) > 1 and token not in made), None)
