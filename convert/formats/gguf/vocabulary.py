"""The tokenizer of a GGUF file: the `tokenizer.*` metadata, made from a model's companions.

The kinds, by the names the format has for them, each in a file of `convert.formats.gguf.vocabularies`:

    gpt2     byte-level BPE: tokens, types, merges, and the name of a pre-tokenizer; from tokenizer.json, vocab.json
             with merges.txt, tekken.json, or a tiktoken file
    llama    sentencepiece BPE: tokens, types, scores; from tokenizer.model, or from a tokenizer.json made of one
    t5       sentencepiece unigram: tokens, types, log probabilities, normalization rules
    bert     WordPiece: tokens and types
    gemma4   sentencepiece's pieces with the merges they were made by; from tokenizer.json
    rwkv     RWKV's World: tokens as Python prints bytes, and types
    plamo2   PLaMo's tokenizer.jsonl: tokens, types, scores

What a tokenizer says that llama.cpp has no place for is a note, not an error: the written file is proven by what it
encodes (tokenizer_proof.py), and the validation measures what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from convert.errors import InputError, Problem
from convert.formats.gguf import special_tokens
from convert.formats.gguf.sentencepiece import (
    BPE,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    SentencePieceModel,
    read_sentencepiece,
)
from convert.formats.gguf.vocabularies._common import Vocabulary, an_object, place
from convert.formats.gguf.vocabularies.byte_level import byte_level, is_byte_level
from convert.formats.gguf.vocabularies.jsonl import FILE as JSONL
from convert.formats.gguf.vocabularies.jsonl import jsonl
from convert.formats.gguf.vocabularies.merged_pieces import merged_pieces, with_merges
from convert.formats.gguf.vocabularies.ranks import ranked, ranks_file
from convert.formats.gguf.vocabularies.trie import trie, trie_file
from convert.formats.gguf.vocabularies.unigram import unigram
from convert.formats.gguf.vocabularies.wordpiece import wordpiece
from convert.gguf_field import Field, GGUFValueType
from convert.json_types import JsonObject
from convert.source.companions import Companions

__all__ = [
    "TokenizerMetadata",
    "Vocabulary",
    "check_vocabulary",
    "read_vocabulary",
    "tokenizer_metadata",
    "vocabulary_metadata",
    "vocabulary_notes",
]

WITH_MERGES = "gemma4"  # model types whose parser in llama.cpp expects the kind of that name
SUPPRESSING = "gemma4_unified"


@dataclass(frozen=True)
class TokenizerMetadata:
    """What one reading of a tokenizer gives: every `tokenizer.*` field, and what llama.cpp will not do, a line each."""

    fields: tuple[Field, ...]
    notes: tuple[str, ...]


def tokenizer_metadata(
    companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None
) -> TokenizerMetadata:
    """The tokenizer of `companions` as GGUF says it, with notes.

    `vocab_size` is the number of rows of the token embedding; tokens the tokenizer does not have become [PAD<id>].
    `pre_tokenizer` names llama.cpp's pre-tokenizer where the tokenizer's own is not recognized.

    Raises InputError for a tokenizer that is broken or of a kind that cannot be written.
    """
    vocabulary = read_vocabulary(companions, vocab_size, pre_tokenizer)
    specials = _specials(companions, vocabulary)
    return TokenizerMetadata(
        (
            *_fields(vocabulary),
            *specials.fields(),
            *_suppressed(companions),
            *_template_fields(companions.chat_templates),
        ),
        (
            *vocabulary.notes,
            *companions.added_token_notes,
            *specials.notes,
            *_strip_notes(companions),
            *_end_notes(vocabulary),
        ),
    )


def vocabulary_metadata(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[Field]:
    """The fields of `tokenizer_metadata`."""
    return list(tokenizer_metadata(companions, vocab_size, pre_tokenizer=pre_tokenizer).fields)


def vocabulary_notes(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[str]:
    """The notes of `tokenizer_metadata`."""
    return list(tokenizer_metadata(companions, vocab_size, pre_tokenizer=pre_tokenizer).notes)


def _fields(vocabulary: Vocabulary) -> list[Field]:
    """Tokens, what belongs to each, and the kind's settings."""
    texts, scores, types = zip(*vocabulary.pieces, strict=True) if vocabulary.pieces else ((), (), ())
    fields = [
        Field.string("tokenizer.ggml.model", vocabulary.model),
        *([Field.string("tokenizer.ggml.pre", vocabulary.pre)] if vocabulary.pre else []),
        Field.strings("tokenizer.ggml.tokens", texts),
    ]
    if vocabulary.model in ("llama", "t5", "gemma4", "plamo2"):
        fields.append(Field.float32s("tokenizer.ggml.scores", scores))
    fields.append(Field.int32s("tokenizer.ggml.token_type", types))
    if vocabulary.model in ("gpt2", "gemma4"):
        fields.append(Field.strings("tokenizer.ggml.merges", vocabulary.merges))
    return fields + _settings(vocabulary)


def _settings(vocabulary: Vocabulary) -> list[Field]:
    """What the kind has beside its tokens."""
    names = {
        "add_space_prefix": vocabulary.add_space_prefix,
        "remove_extra_whitespaces": vocabulary.remove_extra_whitespaces,
        "normalizer.lowercase": vocabulary.lowercase,
        "normalizer.strip_accents": vocabulary.strip_accents,
    }
    fields = [Field.boolean(f"tokenizer.ggml.{name}", value) for name, value in names.items() if value is not None]
    if vocabulary.character_map:
        rules = vocabulary.character_map
        fields.append(Field.array("tokenizer.ggml.precompiled_charsmap", rules, GGUFValueType.UINT8))
    return fields


def check_vocabulary(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[Problem]:
    """Why the tokenizer cannot be written; empty when it can."""
    try:
        _specials(companions, read_vocabulary(companions, vocab_size, pre_tokenizer))
    except InputError as error:
        return [error.problem]
    return []


def read_vocabulary(companions: Companions, vocab_size: int, pre_tokenizer: str | None = None) -> Vocabulary:
    """The tokenizer of `companions` with exactly `vocab_size` tokens. Raises InputError."""
    if companions.tokenizer_json is not None:
        return _of_tokenizer_json(companions, companions.tokenizer_json, vocab_size, pre_tokenizer)
    if (lines := trie_file(companions)) is not None:
        return trie(companions, vocab_size, lines)
    if JSONL in companions.files:
        return jsonl(companions, vocab_size)
    if ranks_file(companions) is not None:
        return ranked(companions, vocab_size, pre_tokenizer)
    if companions.sentencepiece is not None:
        model = read_sentencepiece(companions.sentencepiece)
        return _sentencepiece_kind(model, str(companions.sentencepiece))(companions, vocab_size, model)
    if "vocab.json" in companions.files and "merges.txt" in companions.files:
        return byte_level(companions, vocab_size, pre_tokenizer)
    if "vocab.txt" in companions.files:
        return wordpiece(companions, vocab_size)
    wanted = "tokenizer.json, tokenizer.model, tekken.json, *.tiktoken, vocab.txt, or vocab.json with merges.txt"
    raise InputError("tokenizer", "none found", wanted)


def _of_tokenizer_json(
    companions: Companions, tokenizer: JsonObject, vocab_size: int, pre_tokenizer: str | None
) -> Vocabulary:
    where = place(companions, "tokenizer.json")
    model = an_object(tokenizer, "model", where)
    kind = str(model.get("type", "BPE" if "merges" in model else None))
    if kind == "BPE" and is_byte_level(tokenizer):
        return byte_level(companions, vocab_size, pre_tokenizer)
    if kind == "WordPiece":
        return wordpiece(companions, vocab_size)
    makers = {"Unigram": unigram} if kind == "Unigram" else {"BPE": merged_pieces}
    if kind not in makers or (kind == "BPE" and model.get("byte_fallback") is not True):
        raise InputError(
            where,
            f"a {kind[:40]} tokenizer without byte-level pre-tokenizer or byte fallback",
            "byte-level BPE, sentencepiece BPE or unigram, or WordPiece",
        )
    found = read_sentencepiece(companions.sentencepiece) if companions.sentencepiece is not None else None
    if found is not None and _sentencepiece_kind(found, str(companions.sentencepiece)) is not makers[kind]:
        raise InputError(str(companions.sentencepiece), f"another kind than tokenizer.json's {kind}", "one tokenizer")
    vocabulary = makers[kind](companions, vocab_size, found)
    if kind == "BPE" and found is None and str(companions.config.get("model_type")).startswith(WITH_MERGES):
        return with_merges(vocabulary, tokenizer, where)
    return vocabulary


def _sentencepiece_kind(
    model: SentencePieceModel, where: str
) -> Callable[[Companions, int, SentencePieceModel | None], Vocabulary]:
    makers = {BPE: merged_pieces, UNIGRAM: unigram}
    if model.model_type not in makers:
        raise InputError(where, "a word or character model", "BPE or unigram; llama.cpp has no others")
    return makers[model.model_type]


def _specials(companions: Companions, vocabulary: Vocabulary) -> special_tokens.SpecialTokens:
    texts = {text: number for number, (text, _, kind) in enumerate(vocabulary.pieces) if kind != UNUSED}
    unknown = next((n for n, (_, _, kind) in enumerate(vocabulary.pieces) if kind == UNKNOWN), None)
    return special_tokens.find(companions, texts, unknown, model=vocabulary.model, add_bos=vocabulary.add_bos)


def _suppressed(companions: Companions) -> list[Field]:
    """Tokens that are never to be sampled, where llama.cpp's converter says them: Gemma 4 with all in one."""
    tokens = companions.generation.get("suppress_tokens")
    if not str(companions.config.get("model_type")).startswith(SUPPRESSING) or not isinstance(tokens, list):
        return []
    return [Field.int32s("tokenizer.ggml.suppress_tokens", [t for t in tokens if isinstance(t, int)])]


def _template_fields(templates: Mapping[str, str]) -> list[Field]:
    """tokenizer.chat_template, and the named ones under their names, which tokenizer.chat_templates lists."""
    fields = [Field.string("tokenizer.chat_template", templates["default"])] if "default" in templates else []
    named = {
        "".join(c if c.isascii() and c.isalnum() else "_" for c in name): text
        for name, text in templates.items()
        if name != "default"
    }
    if named:
        fields.append(Field.strings("tokenizer.chat_templates", named))
        fields += [Field.string(f"tokenizer.chat_template.{name}", text) for name, text in named.items()]
    return fields


def _end_notes(vocabulary: Vocabulary) -> list[str]:
    """llama.cpp stops at some texts, whatever they are to the tokenizer."""
    found = [p.text for p in vocabulary.pieces if p.text in special_tokens.ENDS_BY_TEXT and p.type == NORMAL]
    return [f"llama.cpp takes the ordinary token {text!r} for an end of text, wherever a text has it" for text in found]


def _strip_notes(companions: Companions) -> list[str]:
    """llama.cpp has no field for tokens that swallow the spaces beside them."""
    names = [t["content"] for t in companions.added_tokens.values() if t.get("lstrip") or t.get("rstrip")]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"llama.cpp keeps the spaces beside {shown}, which the tokenizer removes"]
