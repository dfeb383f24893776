"""RWKV's World vocabulary (`rwkv`): lines of `<id> <Python literal> <bytes>`; of a text always the longest token.

GGUF has its tokens as Python prints bytes, without the quotes, and <s>, which is no line of the file, at 0.
"""

from __future__ import annotations

import ast
from pathlib import Path

from convert.errors import InputError
from convert.formats.gguf.sentencepiece import CONTROL, Piece
from convert.formats.gguf.vocabularies._common import Vocabulary, padded
from convert.source.companions import TOKENIZER_BYTES, Companions, read_text

START = "rwkv_vocab_"
LINE = 4096  # characters; the longest in use have 200
TURN = b"\n\n"  # ends a turn of a conversation


def trie_file(companions: Companions) -> Path | None:
    """The file of the vocabulary, where the checkpoint has one."""
    return next((path for name, path in sorted(companions.files.items()) if name.startswith(START)), None)


def read_trie(path: Path) -> dict[int, bytes]:
    """Token by id. Raises InputError, with the line, for a file that is not one."""
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(read_text(path, TOKENIZER_BYTES).split("\n"), 1):
        if line.strip():
            place, token = _token(line, f"{path}:{number}")
            tokens[place] = token
    return tokens


def _token(line: str, where: str) -> tuple[int, bytes]:
    first, _, rest = line.rstrip().partition(" ")
    literal, _, length = rest.rpartition(" ")
    try:
        token = ast.literal_eval(literal) if len(line) <= LINE else None
        raw = token.encode() if isinstance(token, str) else token
        if isinstance(raw, bytes) and len(raw) == int(length):
            return int(first), raw
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise InputError(where, ascii(line)[:60], "an id, a token as a Python literal, and its number of bytes")


def spelled(token: bytes) -> str:
    """The token as GGUF has it."""
    return repr(token)[2:-1]


def trie(companions: Companions, vocab_size: int, path: Path) -> Vocabulary:
    """The vocabulary. Raises InputError."""
    pieces = {number: Piece(spelled(token)) for number, token in read_trie(path).items()}
    pieces.setdefault(0, Piece("<s>", type=CONTROL))
    return Vocabulary("rwkv", "", padded(pieces, vocab_size, str(path)))
