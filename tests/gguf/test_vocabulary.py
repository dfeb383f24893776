"""Tokenizers as GGUF metadata: what is written, and that llama.cpp encodes with it as the tokenizer does."""

from __future__ import annotations

import json
import random
import struct
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from convert.errors import InputError
from convert.formats.gguf.sentencepiece import read_sentencepiece
from convert.formats.gguf.vocabulary import check_vocabulary, read_vocabulary, vocabulary_metadata, vocabulary_notes
from tests.fixtures_vocabulary import (
    LlamaTokenizer,
    by_key,
    companions_of,
    field,
    sentencepiece_model,
    template,
    write_gguf,
)
from tests.tiny import qwen_tokenizer, sentencepiece_tokenizer
from validate.samples import HARD_STRINGS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

QWEN = 800
LLAMA = 420


def qwen(**changes: Any) -> dict[str, Any]:
    return {**json.loads(qwen_tokenizer(QWEN)), **changes}


def llama(**changes: Any) -> dict[str, Any]:
    return {**json.loads(sentencepiece_tokenizer(LLAMA)), **changes}


def byte_level(vocab: dict[str, int], merges: list[Any], **changes: Any) -> dict[str, Any]:
    """A tokenizer.json of GPT-2's kind, no larger than a test needs."""
    return {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        **changes,
    }


def added(number: int, content: str, special: bool = True, **more: Any) -> dict[str, Any]:
    return {"id": number, "content": content, "special": special, "lstrip": False, "rstrip": False, **more}


ABC = {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4}


# --- byte-level -------------------------------------------------------------------------------------------------------


def test_byte_level_fields(tmp_path: Path) -> None:
    tokenizer = byte_level(
        ABC,
        [["a", "b"], ["Ġ", "ab"]],
        added_tokens=[added(5, "<|end|>"), added(6, "<tool>", special=False), added(7, "<|x|>", special=False)],
    )
    companions = companions_of(tmp_path, tokenizer_json=tokenizer, tokenizer_config_json={"eos_token": "<|end|>"})
    fields = by_key(vocabulary_metadata(companions, 10))
    assert fields == {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ("a", "b", "Ġ", "ab", "Ġab", "<|end|>", "<tool>", "<|x|>", "[PAD8]", "[PAD9]"),
        "tokenizer.ggml.token_type": (*[NORMAL] * 5, CONTROL, USER_DEFINED, CONTROL, UNUSED, UNUSED),
        "tokenizer.ggml.merges": ("a b", "Ġ ab"),
        "tokenizer.ggml.eos_token_id": 5,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def test_merges_as_strings_and_as_pairs_are_the_same(tmp_path: Path) -> None:
    pairs = companions_of(tmp_path / "pairs", tokenizer_json=byte_level(ABC, [["a", "b"], ["Ġ", "ab"]]))
    strings = companions_of(tmp_path / "strings", tokenizer_json=byte_level(ABC, ["a b", "Ġ ab"]))
    assert vocabulary_metadata(pairs, 5) == vocabulary_metadata(strings, 5)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_vocab_json_and_merges_txt_are_the_same(tmp_path: Path, end: str) -> None:
    merges = end.join(["#version: 0.2", "a b", "Ġ ab", ""])
    config = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<e>"}
    older = companions_of(
        tmp_path / "a", vocab_json=ABC, merges_txt=merges, tokenizer_config_json=config, added_tokens_json={"<e>": 5}
    )
    newer = companions_of(
        tmp_path / "b",
        tokenizer_json=byte_level(ABC, ["a b", "Ġ ab"], added_tokens=[added(5, "<e>")]),
        tokenizer_config_json=config,
    )
    assert vocabulary_metadata(older, 6) == vocabulary_metadata(newer, 6)


def test_an_unknown_class_without_tokenizer_json_asks_for_the_name(tmp_path: Path) -> None:
    config = {"tokenizer_class": "MyTokenizer"}
    companions = companions_of(tmp_path, vocab_json=ABC, merges_txt="a b\n", tokenizer_config_json=config)
    (problem,) = check_vocabulary(companions, 5)
    assert "MyTokenizer" in str(problem)
    assert "pre_tokenizer: <name>" in str(problem)
    assert by_key(vocabulary_metadata(companions, 5, pre_tokenizer="qwen2"))["tokenizer.ggml.pre"] == "qwen2"


def test_padding_never_repeats_a_token(tmp_path: Path) -> None:
    companions = companions_of(tmp_path, tokenizer_json=byte_level({"a": 0, "[PAD2]": 1}, []))
    tokens = by_key(vocabulary_metadata(companions, 4))["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == 4
    assert tokens[:2] == ("a", "[PAD2]")


def test_more_tokens_than_rows_is_a_problem(tmp_path: Path) -> None:
    companions = companions_of(tmp_path, tokenizer_json=byte_level(ABC, []))
    (problem,) = check_vocabulary(companions, 4)
    assert "token 4, 'Ġab', where the embedding has 4 rows" in str(problem)
    assert check_vocabulary(companions, 5) == []


def test_llama_cpp_encodes_qwens_tokenizer_alike(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    companions = companions_of(tmp_path, tokenizer_json=qwen())
    size = QWEN + 13
    runtime = LlamaTokenizer(write_gguf(tmp_path / "t.gguf", vocabulary_metadata(companions, size), size))
    reference = Tokenizer.from_str(qwen_tokenizer(QWEN))
    special = [
        "<|im_start|>user\nhi<|im_end|>\n",
        "a<|im_end|>b <|vision_start|><|image_pad|>",
        "<tool_call>\n{}</tool_call>",
    ]
    decomposed = [text for text in HARD_STRINGS if unicodedata.normalize("NFC", text) != text]
    texts = [text for text in [*HARD_STRINGS, *special] if text not in decomposed]
    assert len(texts) >= 60
    assert [runtime.encode(text) for text in texts] == [reference.encode(text).ids for text in texts]
    assert any(runtime.encode(text) != reference.encode(text).ids for text in decomposed)
    assert any("NFC" in note for note in vocabulary_notes(companions, size))
    runtime.close()


# --- sentencepiece ----------------------------------------------------------------------------------------------------


SMALL = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<0x41>", 0.0, BYTE)]
SMALL += [("▁a", -0.0, NORMAL), ("▁", -1.0, NORMAL), ("a", -2.0, NORMAL), ("▁▁", -3.0, USER_DEFINED)]


def test_sentencepiece_fields(tmp_path: Path) -> None:
    companions = companions_of(
        tmp_path,
        tokenizer_model=sentencepiece_model(SMALL),
        tokenizer_config_json={"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True},
        added_tokens_json={"<pad>": 8, "▁new": 9},
    )
    fields = by_key(vocabulary_metadata(companions, 11))
    assert fields == {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": (*(text for text, _, _ in SMALL), "<pad>", " new", "[PAD10]"),
        "tokenizer.ggml.scores": (*(score for _, score, _ in SMALL), -1000.0, -1000.0, -10000.0),
        "tokenizer.ggml.token_type": (*(kind for _, _, kind in SMALL), USER_DEFINED, USER_DEFINED, UNUSED),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": False,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def as_model(tokenizer: dict[str, Any]) -> bytes:
    """The tokenizer.model such a tokenizer.json was made of: merged pieces scored by their order."""
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    order = {piece: i for i, piece in enumerate(dict.fromkeys("".join(merge) for merge in merges))}
    pieces = []
    for text in sorted(vocab, key=vocab.__getitem__):
        kind = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}.get(text, BYTE if text.startswith("<0x") else NORMAL)
        score = -float(order.setdefault(text, len(order))) if kind == NORMAL else 0.0
        pieces.append((text, score, kind))
    return sentencepiece_model(pieces)


def test_tokenizer_model_and_the_tokenizer_json_made_of_it_give_one_vocabulary(tmp_path: Path) -> None:
    tokenizer = llama()
    both = companions_of(tmp_path / "both", tokenizer_json=tokenizer, tokenizer_model=as_model(tokenizer))
    alone = companions_of(tmp_path / "alone", tokenizer_json=tokenizer)
    pieces = read_vocabulary(both, LLAMA).pieces
    assert read_vocabulary(alone, LLAMA).pieces == pieces
    assert len({piece.score for piece in pieces}) > 100


@pytest.mark.parametrize("with_model", [True, False])
def test_llama_cpp_encodes_sentencepiece_alike(tmp_path: Path, with_model: bool) -> None:
    from tokenizers import Tokenizer

    tokenizer = llama()
    files: dict[str, Any] = {"tokenizer_model": as_model(tokenizer)} if with_model else {}
    companions = companions_of(tmp_path, tokenizer_json=tokenizer, **files)
    runtime = LlamaTokenizer(write_gguf(tmp_path / "t.gguf", vocabulary_metadata(companions, LLAMA), LLAMA))
    reference = Tokenizer.from_str(json.dumps(tokenizer))
    texts = [*HARD_STRINGS, "x<s> y</s>z", "click the button and then don't", " <s>  two"]
    assert [runtime.encode(text) for text in texts] == [reference.encode(text).ids for text in texts]
    runtime.close()


def test_two_files_that_are_not_one_tokenizer_are_refused(tmp_path: Path) -> None:
    tokenizer = llama()
    other = json.loads(json.dumps(tokenizer).replace('"st"', '"ts"'))
    companions = companions_of(tmp_path, tokenizer_json=tokenizer, tokenizer_model=as_model(other))
    (problem,) = check_vocabulary(companions, LLAMA)
    assert "in tokenizer.json" in str(problem)


@pytest.mark.parametrize(
    ("pre_tokenizer", "wanted", "noted"),
    [
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, True, 1),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, True, 2),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}, False, 0),
        ({"type": "Metaspace", "replacement": "▁", "add_prefix_space": False}, False, 0),
        (None, False, 0),
    ],
)
def test_space_prefix(tmp_path: Path, pre_tokenizer: Any, wanted: bool, noted: int) -> None:
    companions = companions_of(tmp_path, tokenizer_json=llama(normalizer=None, pre_tokenizer=pre_tokenizer))
    assert by_key(vocabulary_metadata(companions, LLAMA))["tokenizer.ggml.add_space_prefix"] is wanted
    assert len(vocabulary_notes(companions, LLAMA)) == noted


def test_what_llama_cpp_does_not_do_is_noted(tmp_path: Path) -> None:
    model = sentencepiece_model(SMALL, folds=True, rules=b"rules")
    notes = "\n".join(
        vocabulary_notes(companions_of(tmp_path, tokenizer_model=model, config_json={"bos_token_id": 1}), 8)
    )
    assert "normalization" in notes
    assert "runs of spaces" in notes


@pytest.mark.parametrize("kind", [3, 4])
def test_other_sentencepiece_models_are_refused(tmp_path: Path, kind: int) -> None:
    (problem,) = check_vocabulary(companions_of(tmp_path, tokenizer_model=sentencepiece_model(SMALL, kind)), 8)
    assert "a word or character model" in str(problem)


def test_every_cut_of_a_sentencepiece_file_is_read_or_refused(tmp_path: Path) -> None:
    whole = sentencepiece_model(SMALL)
    path = tmp_path / "tokenizer.model"
    read = 0
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            read_sentencepiece(path)
            read += 1
        except InputError:
            continue
    assert 0 < read < 2 * len(SMALL) + 4  # only where a field ends


def test_hostile_sentencepiece_files_are_one_error(tmp_path: Path) -> None:
    whole, draw, path = sentencepiece_model(SMALL), random.Random(0), tmp_path / "tokenizer.model"
    refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read_sentencepiece(path)
        except InputError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length of 2^63
        b"\x0a" + b"\xff" * 20,
        b"\x08\x01",  # a number where a piece belongs
        field(1, field(1, b"\xff\xfe")),
        field(1, field(1, b"a") + b"\x15" + struct.pack("<f", float("nan"))),
        field(1, field(1, b"a") + b"\x18\x63"),
        b"\x0b" + b"\x0b" * 100,  # groups
    ],
)
def test_not_a_sentencepiece_model(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        read_sentencepiece(path)


# --- templates and refusals -------------------------------------------------------------------------------------------


def test_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "tool use", "template": "T"}, {"name": "default", "template": "D"}]
    companions = companions_of(
        tmp_path, tokenizer_json=byte_level(ABC, []), tokenizer_config_json={"chat_template": named}
    )
    fields = {k: v for k, v in by_key(vocabulary_metadata(companions, 5)).items() if "chat" in k}
    assert fields == {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_templates": ("tool_use",),
        "tokenizer.chat_template.tool_use": "T",
    }


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (byte_level({"a": 0, "b": 0}, []), "id 0 is both 'a' and 'b'"),
        (byte_level({"a": 0, "": 1}, []), "token 1 is empty"),
        (byte_level({"a": 0}, [], added_tokens=[added(1, "<x>"), added(2, "<x>")]), "tokens 1 and 2 are both '<x>'"),
        (byte_level({"a": "0"}, []), "token 'a' has the id '0'"),
        (byte_level({"a": -1}, []), "token 'a' has the id"),
        (byte_level({"a": 0}, ["a"]), "merge 0 is 'a'"),
        (byte_level({"a": 0}, [["a", "b", "c"]]), "merge 0 is"),
        (byte_level({"a": 0}, ["a b", ["a b"]]), "merge 1 is"),
        (byte_level({"a": 0}, [["a", ""]]), "merge 0 is"),
        (byte_level({"a": 0}, [[1, 2]]), "merge 0 is"),
        (byte_level({"a": 0}, [["a", "b c"]]), "merge 0 is \"['a', 'b c']\", wanted two tokens without spaces"),
        (byte_level({"a": 0}, [], model={"type": "BPE", "vocab": {"a": 0}, "merges": {}}), "merges are '{}'"),
        (byte_level({"a": 0}, [], model=[]), "model is '[]'"),
        (byte_level({"a": 0}, [], added_tokens=[{"id": "x"}]), "added token"),
        (byte_level({"a": 0}, [], post_processor=template("<nope>", "A")), "post_processor adds '<nope>'"),
        (byte_level({"a": 0}, [], model={"type": "WordPiece", "vocab": {}}), "0 BertNormalizers"),
        (byte_level({"a": 0}, [], model={"type": "WordLevel", "vocab": {}}), "a WordLevel tokenizer"),
        (byte_level({"a": 0}, [], model={"type": "Unigram", "vocab": [["a", 0]]}), "unk_id is 'None'"),
        (byte_level({"a": 0}, [], model={"type": "Unigram", "vocab": [["a", True]]}), "token 0 is"),
        (
            byte_level(
                {"a": 0}, [], model={"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}
            ),
            "end_of_word_suffix is '</w>'",
        ),
    ],
)
def test_a_broken_tokenizer_is_one_problem(tmp_path: Path, tokenizer: dict[str, Any], words: str) -> None:
    (problem,) = check_vocabulary(companions_of(tmp_path, tokenizer_json=tokenizer), 8)
    assert words in str(problem)
    assert "tokenizer.json" in str(problem)


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    (problem,) = check_vocabulary(companions_of(tmp_path, config_json={}), 8)
    assert "none found" in str(problem)


def test_an_embedding_of_a_trillion_rows_is_refused(tmp_path: Path) -> None:
    (problem,) = check_vocabulary(companions_of(tmp_path, tokenizer_json=byte_level(ABC, [])), 10**12)
    assert "1000000000000 rows" in str(problem)
