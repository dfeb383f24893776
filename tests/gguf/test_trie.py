"""RWKV's World vocabulary: the file is read as RWKV reads it, and strangers' lines are refused by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import InputError
from convert.formats.gguf.tokenizer_references import OfTrie, Request
from convert.formats.gguf.vocabularies.trie import read_trie, spelled
from tests.parity.families import cases


def test_the_longest_token_is_taken(tmp_path: Path) -> None:
    folder = cases()["rwkv7"].make(tmp_path / "tiny")
    path = folder / "rwkv_vocab_v20230424.txt"
    tokens = read_trie(path)
    found = OfTrie(Request("", "trie", str(path), [])).encode("\n\nthe thing ä…\\n")
    assert b"".join(tokens[i] for i in found) == "\n\nthe thing ä…\\n".encode()
    assert [tokens[i] for i in found][:2] == [b"\n\n", b"t"]
    assert b"ing" in [tokens[i] for i in found]
    assert found[0] == 261


@pytest.mark.parametrize(
    "line",
    [
        "1 'a' 2",
        "1 a 1",
        "x 'a' 1",
        "1 ['a'] 1",
        "1 'a'",
        "1 __import__('os') 1",
        f"1 '{'a' * 5000}' 5000",
        "1 " + "(" * 3000 + " 1",
    ],
)
def test_what_is_no_token_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rwkv_vocab_v1.txt"
    path.write_text(f"1 'a' 1\n{line}\n")
    with pytest.raises(InputError, match=r"rwkv_vocab_v1\.txt:2"):
        read_trie(path)


def test_bytes_are_spelled_as_python_prints_them() -> None:
    assert [spelled(token) for token in (b"\n\n", b"\xff'", "ä".encode())] == ["\\n\\n", "\\xff'", "\\xc3\\xa4"]
