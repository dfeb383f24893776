"""A GGUF file's vocabulary as tokenizer.json and tokenizer_config.json: byte-level BPE, and sentencepiece's BPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from convert.errors import InputError
from convert.json_types import JsonDict

NORMAL, UNKNOWN, CONTROL, DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
REGEX = {"qwen2": CASES + WORDS + r"\p{N}" + REST, "llama-bpe": CASES + WORDS + r"\p{N}{1,3}" + REST}
"""tokenizer.ggml.pre -> what the text is cut by."""


def tokenizer_files(path: Path, said: Mapping[str, object]) -> dict[str, JsonDict]:
    """The two files. Raises InputError for a vocabulary of another kind."""
    kind = said.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise InputError(str(path), f"its vocabulary is {kind!r:.40}", "gpt2 or llama")
    tokens, types = _texts(path, said, "tokens"), _numbers(path, said, "token_type")
    if len(tokens) != len(types):
        raise InputError(str(path), f"has {len(tokens)} tokens and {len(types)} types", "as many of both")
    added = [
        {
            "id": i,
            "content": t,
            "special": k != DEFINED,
            **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
            "normalized": False,
        }
        for i, (t, k) in enumerate(zip(tokens, types, strict=True))
        if k in (UNKNOWN, CONTROL, DEFINED)
    ]
    made = _byte_level(path, said, tokens, types) if kind == "gpt2" else _pieces(path, said, tokens, types)
    start = _text(said, tokens, "bos") if said.get("tokenizer.ggml.add_bos_token") else None
    tokenizer: JsonDict = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **made}
    if start is not None:
        tokenizer["post_processor"] = _template(start, tokens.index(start))
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": _config(said, tokens, kind)}


def _config(said: Mapping[str, object], tokens: Sequence[str], kind: object) -> JsonDict:
    words: JsonDict = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(said.get("tokenizer.ggml.add_bos_token")),
        "add_eos_token": bool(said.get("tokenizer.ggml.add_eos_token")),
    }
    for word, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        words[f"{word}_token"] = _text(said, tokens, key)
    if kind == "gpt2" and not words["add_bos_token"]:
        words["bos_token"] = None
    template = said.get("tokenizer.chat_template")
    return words | ({"chat_template": template} if isinstance(template, str) else {})


def _text(said: Mapping[str, object], tokens: Sequence[str], key: str) -> str | None:
    number = said.get(f"tokenizer.ggml.{key}_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None


def _template(start: str, number: int) -> JsonDict:
    def of(name: str) -> list[JsonDict]:
        return [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": name, "type_id": 0}}]

    known = {start: {"id": start, "ids": [number], "tokens": [start]}}
    return {"type": "TemplateProcessing", "single": of("A"), "pair": [*of("A"), *of("B")], "special_tokens": known}


def _byte_level(path: Path, said: Mapping[str, object], tokens: Sequence[str], types: Sequence[int]) -> JsonDict:
    pre = said.get("tokenizer.ggml.pre")
    if pre not in REGEX:
        raise InputError(str(path), f"its pre-tokenizer is {pre!r:.40}", " or ".join(REGEX))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": REGEX[str(pre)]}, "behavior": "Isolated", "invert": False}
    vocabulary = {t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k == NORMAL}
    merges = [merge.split(" ", 1) for merge in _texts(path, said, "merges")]
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {**level, "trim_offsets": False},
        "decoder": {**level, "use_regex": True},
        "model": _bpe(vocabulary, merges, byte_fallback=False, ignore_merges=pre == "llama-bpe"),
    }


def _pieces(path: Path, said: Mapping[str, object], tokens: Sequence[str], types: Sequence[int]) -> JsonDict:
    scores = said.get("tokenizer.ggml.scores")
    if not isinstance(scores, tuple) or len(scores) != len(tokens):
        raise InputError(str(path), "has no score for each token", "tokenizer.ggml.scores")
    vocabulary = {t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k not in (UNUSED, DEFINED)}
    rank = {token: -float(scores[number]) for token, number in vocabulary.items()}
    pairs = [
        (rank[token], at, token[:at], token[at:])
        for token, number in vocabulary.items()
        if types[number] == NORMAL
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    front = said.get("tokenizer.ggml.add_space_prefix", True)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = [{"type": "Prepend", "prepend": "\u2581"}] if front else []
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if front else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, space]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            **_bpe(
                vocabulary, [[a, b] for _, _, a, b in sorted(pairs)], byte_fallback=BYTE in types, ignore_merges=False
            ),
            "unk_token": _text(said, tokens, "unknown"),
            "fuse_unk": True,
        },
    }


def _bpe(vocabulary: JsonDict, merges: list[list[str]], *, byte_fallback: bool, ignore_merges: bool) -> JsonDict:
    nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = {"fuse_unk": False, "byte_fallback": byte_fallback, "ignore_merges": ignore_merges}
    return {"type": "BPE", **nothing, **flags, "vocab": vocabulary, "merges": merges}


def _texts(path: Path, said: Mapping[str, object], word: str) -> tuple[str, ...]:
    found = said.get(f"tokenizer.ggml.{word}")
    if not isinstance(found, tuple) or not all(isinstance(text, str) for text in found):
        raise InputError(str(path), f"has no tokenizer.ggml.{word}", "a vocabulary")
    return found


def _numbers(path: Path, said: Mapping[str, object], word: str) -> tuple[int, ...]:
    found = said.get(f"tokenizer.ggml.{word}")
    if not isinstance(found, tuple) or not all(isinstance(number, int) for number in found):
        raise InputError(str(path), f"has no tokenizer.ggml.{word}", "a vocabulary")
    return found
