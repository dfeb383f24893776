"""PLaMo's vocabulary (`plamo2`): tokenizer.jsonl, a line `[text, score, type, …]` for every token.

Of a text the pieces whose scores add up to most, from its end.
"""

from __future__ import annotations

import json

from convert.errors import InputError
from convert.formats.gguf.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, Piece
from convert.formats.gguf.vocabularies._common import Vocabulary, padded, place
from convert.source.companions import TOKENIZER_BYTES, Companions, read_text

FILE = "tokenizer.jsonl"
TYPES = {"UNKNOWN": UNKNOWN, "CONTROL": CONTROL, "BYTE": BYTE}
MARKS = ("<|plamo:", "|>")  # how tokens that control the model begin and end


def jsonl(companions: Companions, vocab_size: int) -> Vocabulary:
    """The vocabulary. Raises InputError, with the line."""
    where = place(companions, FILE)
    lines = read_text(companions.files[FILE], TOKENIZER_BYTES).split("\n")
    pieces = [_piece(line, f"{where}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    return Vocabulary("plamo2", "default", padded(dict(enumerate(pieces)), vocab_size, where), add_space_prefix=False)


def _piece(line: str, where: str) -> Piece:
    try:
        text, score, *rest = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        text, score, rest = None, None, []
    if not isinstance(text, str) or not isinstance(score, int | float) or isinstance(score, bool):
        raise InputError(where, ascii(line)[:60], "[text, score, type]")
    marked = text.startswith(MARKS[0]) and text.endswith(MARKS[1])
    kind = TYPES.get(str(rest[0]) if rest else "", CONTROL if marked else NORMAL)
    return Piece(text, float(score), kind)
