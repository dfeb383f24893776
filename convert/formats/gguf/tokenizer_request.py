"""What the proof of a tokenizer compares: the texts, the checkpoint's own tokenizer, and what is known of the two.

Worked out where the tokenizer is read; tokenizer_proof.py asks it of the file that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from convert.formats.gguf.special_tokens import ENDS_BY_TEXT
from convert.formats.gguf.tokenizer_references import Request
from convert.formats.gguf.vocabularies.merged_pieces import has_metaspace, without_prefix
from convert.formats.gguf.vocabularies.ranks import ranks_file, read_ranks
from convert.formats.gguf.vocabularies.trie import trie_file
from convert.gguf_field import Field
from convert.json_types import JsonDict
from convert.source.companions import Companions
from validate.samples import HARD_STRINGS

ADDED_TOKENS = 64  # of the model's own, tried in text; some models have thousands


def request(fields: Sequence[Field], companions: Companions) -> Request | None:
    """What is to be compared with the file that will hold `fields`; None where nothing here runs the tokenizer."""
    said: JsonDict = {field.key.removeprefix("tokenizer.ggml."): field.value for field in fields}
    own = _reference(companions)
    if own is None:
        return None
    tokens = list(zip(said["tokens"], said["token_type"], strict=True))
    added = {str(token["content"]): number for number, token in companions.added_tokens.items()}
    special = {text: number for number, (text, kind) in enumerate(tokens) if kind in (CONTROL, USER_DEFINED, UNKNOWN)}
    return Request(
        file="",
        **own,
        texts=[*HARD_STRINGS, *_in_text(list(added or special)[:ADDED_TOKENS])],
        special=added if companions.tokenizer_json is not None else special | added,
        cuts=pretokenizers.cuts(said["pre"]) if said["model"] == "gpt2" else (),
        by_name=[text for text, kind in tokens if kind == NORMAL and text in ENDS_BY_TEXT],
        stripped=[str(t["content"]) for t in companions.added_tokens.values() if t.get("lstrip") or t.get("rstrip")],
        metaspace=_metaspace(companions),
        space_prefix=said.get("add_space_prefix") is True,
        no_prefix=said["model"] == "llama" and without_prefix(companions),
        ties=said["model"] == "t5",
        words=said["model"] == "bert",
        folds=said["model"] == "t5" and said.get("remove_extra_whitespaces") is True,
        odd_spaces=said["model"] == "t5" or pretokenizers.odd_spaces(str(said.get("pre", ""))),
        ends=_has_processor(companions),
    )


def _in_text(tokens: Sequence[str]) -> list[str]:
    """The tokens in text: beside letters, spaces and newlines."""
    return [text for token in tokens for text in (token, f"a{token}b", f" {token} {token}\n{token}{token}")]


def _reference(companions: Companions) -> JsonDict | None:
    """Kind and file of the checkpoint's own tokenizer, in the order in which the vocabulary looks for them."""
    files = companions.files
    name = str(companions.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    pattern = pretokenizers.regexes(pretokenizers.CLASSES.get(name, ""))
    if "tokenizer.json" in files:
        return {"kind": "tokenizers", "path": str(files["tokenizer.json"])}
    if (lines := trie_file(companions)) is not None:
        return {"kind": "trie", "path": str(lines)}
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
