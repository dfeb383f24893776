"""WordPiece (`bert`): tokens and types, spelled with U+2581 where a word begins, and how a text is normalized.

BERT spells it the other way round: `##ing` goes on, `in` begins. llama.cpp searches each word from its longest
beginning as BERT does, with the sign for a beginning put before it (conversion/bert.py; src/llama-vocab.cpp, WPM).
"""

from __future__ import annotations

from convert.errors import InputError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import CONTROL, Piece
from convert.formats.gguf.vocabularies._common import SPACE, Vocabulary, added_type, an_object, padded, place
from convert.json_types import JsonObject
from convert.source.companions import TOKENIZER_BYTES, Companions, read_text

GOES_ON = "##"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # as BERT names them, where only vocab.txt exists
MAX_WORD = 100  # characters; BERT's own, beyond which a word is the unknown token

_MARKS = "llama.cpp drops the vowel signs of Indic scripts together with the accents"
_LONG_WORDS = f"llama.cpp splits words of more than {MAX_WORD} characters, which the tokenizer takes for unknown"


def wordpiece(companions: Companions, vocab_size: int) -> Vocabulary:
    """The vocabulary, from tokenizer.json or vocab.txt. Raises InputError."""
    tokenizer = companions.tokenizer_json
    if tokenizer is not None:
        where = place(companions, "tokenizer.json")
        lowercase, strip_accents, notes = _normalizer(tokenizer, where)
        _check_pre_tokenizer(tokenizer, where)
        _check_model(an_object(tokenizer, "model", where), where)
        ids = companions.token_ids
    else:
        where = place(companions, "vocab.txt")
        lowercase = companions.tokenizer_config.get("do_lower_case", True) is True
        strips = companions.tokenizer_config.get("strip_accents")
        strip_accents, notes = (strips if isinstance(strips, bool) else lowercase), []
        ids = _vocab_txt(companions) | {str(t["content"]): n for n, t in companions.added_tokens.items()}
    special = SPECIAL if tokenizer is None else ()
    pieces = {n: Piece(t, type=CONTROL) if t in special else Piece(_phantom(t)) for t, n in ids.items()}
    for number, token in companions.added_tokens.items():
        pieces[number] = Piece(token["content"], type=added_type(token))
    return Vocabulary(
        "bert",
        "default",
        padded(pieces, vocab_size, where),
        lowercase=lowercase,
        strip_accents=strip_accents,
        notes=(_LONG_WORDS, *([_MARKS] if strip_accents else []), *notes),
    )


def _phantom(text: str) -> str:
    return text.removeprefix(GOES_ON) if text.startswith(GOES_ON) and text != GOES_ON else SPACE + text


def _vocab_txt(companions: Companions) -> dict[str, int]:
    """One token a line; the id is the line's number. The special ones are known by the names BERT gives them."""
    lines = read_text(companions.files["vocab.txt"], TOKENIZER_BYTES).rstrip("\n").split("\n")
    return {line.rstrip("\r"): number for number, line in enumerate(lines)}


def _normalizer(tokenizer: JsonObject, where: str) -> tuple[bool, bool, list[str]]:
    """Lower case? Accents off? And notes. llama.cpp does what BertNormalizer does, always with its cleaning."""
    parts = list(pretokenizers.flat(tokenizer.get("normalizer"), "normalizers", where))
    bert = [part for part in parts if part.get("type") == "BertNormalizer"]
    notes = [f"llama.cpp does not apply the tokenizer's normalizer {p.get('type')}" for p in parts if p not in bert]
    if len(bert) != 1:
        raise InputError(where, f"{len(bert)} BertNormalizers", "one, which is all llama.cpp does for WordPiece")
    off = [key for key in ("clean_text", "handle_chinese_chars") if bert[0].get(key, True) is not True]
    notes += [f"llama.cpp does what {key} does, which the tokenizer leaves" for key in off]
    lowercase = bert[0].get("lowercase", True) is True
    strips = bert[0].get("strip_accents")
    return lowercase, strips if isinstance(strips, bool) else lowercase, notes


def _check_pre_tokenizer(tokenizer: JsonObject, where: str) -> None:
    parts = list(pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers", where))
    kinds = [str(part.get("type"))[:40] for part in parts]
    if kinds != ["BertPreTokenizer"]:
        raise InputError(where, f"WordPiece after {' then '.join(kinds) or 'no pre-tokenizer'}", "BertPreTokenizer")


def _check_model(model: JsonObject, where: str) -> None:
    prefix = model.get("continuing_subword_prefix", GOES_ON)
    if prefix != GOES_ON:
        raise InputError(where, f"continuing_subword_prefix is {str(prefix)[:20]!r}", repr(GOES_ON))
