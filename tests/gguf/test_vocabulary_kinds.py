"""Unigram, WordPiece and files of ranks: what is written, and that llama.cpp encodes with it as the original does."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from convert.errors import InputError
from convert.formats.gguf.tokenizer_proof import prove_tokenizer
from convert.formats.gguf.tokenizer_request import request
from convert.formats.gguf.vocabularies.ranks import merges_of, read_ranks, spelled
from convert.formats.gguf.vocabulary import check_vocabulary, vocabulary_metadata, vocabulary_notes
from convert.source.companions import Companions, read_companions
from tests.fixtures_vocabulary import CORPUS, Heard, bundle_of, by_key, companions_of, train_byte_level, write_gguf
from tests.gguf.test_pretokenizers import FAMILIES, pipeline
from validate.samples import HARD_STRINGS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def proven(folder: Path, companions: Companions, size: int) -> dict[str, Any]:
    """The fields, once llama.cpp has been seen to encode with them as the files in `folder` do."""
    fields, heard = vocabulary_metadata(companions, size), Heard()
    file = write_gguf(folder.with_suffix(".gguf"), fields, size)
    prove_tokenizer(file, fields, request(fields, read_companions(bundle_of(folder))), "fail", heard)
    assert heard.warnings == []
    assert "as the checkpoint's own does" in heard.notes[-1]
    return by_key(fields)


# --- unigram ----------------------------------------------------------------------------------------------------------


def trained_unigram(**changes: Any) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" {2,}", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False, shrinking_factor=0.5
    )
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    made = json.loads(tokenizer.to_str())
    regex = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    made["normalizer"] = {"type": "Sequence", "normalizers": [strip, regex]}
    return {**made, **changes}


def test_unigram_of_a_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = trained_unigram()
    size = len(tokenizer["model"]["vocab"])
    fields = proven(tmp_path / "t5", companions_of(tmp_path / "t5", tokenizer_json=tokenizer), size + 3)
    assert fields["tokenizer.ggml.model"] == "t5"
    assert fields["tokenizer.ggml.scores"][:size] == tuple(score for _, score in tokenizer["model"]["vocab"])
    assert fields["tokenizer.ggml.token_type"][:4] == (CONTROL, CONTROL, UNKNOWN, NORMAL)
    assert fields["tokenizer.ggml.unknown_token_id"] == 2
    assert fields["tokenizer.ggml.remove_extra_whitespaces"]
    assert fields["tokenizer.ggml.add_space_prefix"]


def trained_sentencepiece(kind: str) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        model_type=kind,
        vocab_size=560 if kind == "bpe" else 300,
        byte_fallback=kind == "bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize(("kind", "written"), [("unigram", "t5"), ("bpe", "llama")])
def test_a_sentencepiece_model_alone(tmp_path: Path, kind: str, written: str) -> None:
    """With the normalization rules of nmt_nfkc, which llama.cpp applies to a unigram alone."""
    data = trained_sentencepiece(kind)
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    name = {"tokenizer_model": data} if kind == "bpe" else {"spiece_model": data}
    companions = companions_of(tmp_path / kind, tokenizer_config_json=config, **name)
    fields = proven(tmp_path / kind, companions, 600)
    assert fields["tokenizer.ggml.model"] == written
    assert ("tokenizer.ggml.precompiled_charsmap" in fields) == (kind == "unigram")
    if kind == "unigram":
        assert len(fields["tokenizer.ggml.precompiled_charsmap"]) > 100_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]]}}, "unk_id is '9'"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "b"]]}}, "token 0 is"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": {}}}, "vocab is '{}'"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AA"}}, "not base64"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "normalization rules of 3 bytes"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": 7}}, "precompiled_charsmap is '7'"),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 2000).decode()}},
            "a trie of 4294967295",
        ),
    ],
)
def test_a_broken_unigram_is_one_problem(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    vocabulary = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0]]}
    tokenizer = {"model": vocabulary, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}, **changes}
    (problem,) = check_vocabulary(companions_of(tmp_path, tokenizer_json=tokenizer), 8)
    assert words in str(problem)


# --- WordPiece --------------------------------------------------------------------------------------------------------


def trained_wordpiece() -> dict[str, Any]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *HARD_STRINGS], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return json.loads(tokenizer.to_str())  # type: ignore[no-any-return]


def test_wordpiece(tmp_path: Path) -> None:
    tokenizer = trained_wordpiece()
    vocab = tokenizer["model"]["vocab"]
    size = len(vocab)
    fields = proven(tmp_path / "bert", companions_of(tmp_path / "bert", tokenizer_json=tokenizer), size)
    assert fields["tokenizer.ggml.model"] == "bert"
    assert fields["tokenizer.ggml.tokens"][:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert fields["tokenizer.ggml.tokens"][vocab["a"]] == "▁a"
    assert fields["tokenizer.ggml.tokens"][vocab["##a"]] == "a"
    kinds = ("bos", "seperator", "unknown", "padding")
    assert [fields[f"tokenizer.ggml.{kind}_token_id"] for kind in kinds] == [2, 3, 1, 0]
    assert fields["tokenizer.ggml.normalizer.lowercase"] is fields["tokenizer.ggml.normalizer.strip_accents"] is True

    lines = "\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n"
    older = companions_of(tmp_path / "older", vocab_txt=lines, tokenizer_config_json={"do_lower_case": True})
    assert by_key(vocabulary_metadata(older, size)) == fields


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": None}, "0 BertNormalizers"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "WordPiece after Whitespace"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": "@@"}}, "is '@@'"),
        ({"added_tokens": []}, "no bos and no sep token"),
    ],
)
def test_a_wordpiece_llama_cpp_does_not_do_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    tokenizer = {
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {"a": 0}},
        **changes,
    }
    (problem,) = check_vocabulary(companions_of(tmp_path, tokenizer_json=tokenizer), 8)
    assert words in str(problem)


# --- ranks ------------------------------------------------------------------------------------------------------------


def trained_ranks(name: str) -> list[bytes]:
    """Tokens by rank, trained to be cut as pre-tokenizer `name` does."""
    trained = train_byte_level(pipeline(FAMILIES[name]), HARD_STRINGS, 900)
    letters = {spelled(bytes([byte])): byte for byte in range(256)}
    merged = ["".join(pair) for pair in trained["model"]["merges"]]
    merged = [text for text in merged if "<|" not in text]  # the special tokens are no ranks
    return [bytes([byte]) for byte in range(256)] + [bytes(letters[c] for c in text) for text in merged]


def tekken(tokens: list[bytes], **changes: Any) -> dict[str, Any]:
    entries = [
        {"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(tokens)
    ]
    special = [
        {"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(("<unk>", "<s>", "</s>", "[INST]"))
    ]
    config = {
        "pattern": FAMILIES["tekken"][0],
        "default_vocab_size": len(tokens) + 10 - 5,  # the last five are not used
        "default_num_special_tokens": 10,
    }
    return {"config": config, "vocab": entries, "special_tokens": special, **changes}


def test_tekken(tmp_path: Path) -> None:
    tokens = trained_ranks("tekken")
    size = len(tokens) + 5
    fields = proven(tmp_path / "m", companions_of(tmp_path / "m", tekken_json=tekken(tokens)), size)
    assert fields["tokenizer.ggml.pre"] == "tekken"
    assert fields["tokenizer.ggml.tokens"][:5] == ("<unk>", "<s>", "</s>", "[INST]", "<SPECIAL_4>")
    assert fields["tokenizer.ggml.tokens"][10 + ord("a")] == "a"
    assert fields["tokenizer.ggml.token_type"][:11] == (*[CONTROL] * 10, NORMAL)
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.add_bos_token"]) == (1, True)


def tiktoken(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def test_a_tiktoken_file(tmp_path: Path) -> None:
    tokens = trained_ranks("qwen2")
    config = {"tokenizer_class": "QWenTokenizer"}
    files = {"qwen_tiktoken": tiktoken(tokens), "tokenizer_config_json": config}
    companions = companions_of(tmp_path / "q", config_json={"eos_token_id": len(tokens)}, **files)
    fields = proven(tmp_path / "q", companions, len(tokens) + 208)
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.tokens"][len(tokens) : len(tokens) + 2] == ("<|endoftext|>", "<|im_start|>")
    assert fields["tokenizer.ggml.tokens"][-1] == "<|extra_204|>"


def test_a_tiktoken_file_of_a_class_nobody_knows_asks_for_the_name(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    companions = companions_of(tmp_path, x_tiktoken=tiktoken(tokens), tokenizer_config_json={"tokenizer_class": "Mine"})
    (problem,) = check_vocabulary(companions, 256)
    assert "`pre_tokenizer: <name>`" in str(problem)
    assert check_vocabulary(companions, 256, pre_tokenizer="gpt-2") == []


def test_merges_are_every_cut_in_the_order_of_what_they_make() -> None:
    tokens = (b"a", b"b", b" ", b"ab", b"ba", b"aba")
    assert merges_of(tokens) == ("a b", "b a", "a ba", "ab a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 ranks up to -1"),
        (b"YQ== 0\n", "1 tokens of one byte"),
        (b"YQ== 1\n", "1 ranks up to 1"),
        (b"YQ== 0\nYQ== 1\n", "2 ranks up to 1"),
        (b"YQ== x\n", "the rank is b'x'"),
        (b"YQ== 99999999999\n", "the rank is"),
        (b"Y! 0\n", "not base64"),
        (b" 0\n", "a token of 0 bytes"),
        (base64.b64encode(b"a" * 5000) + b" 0\n", "a token of 5000 bytes"),
    ],
)
def test_a_broken_tiktoken_file_is_one_error(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_ranks(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": 1}, "no config"),
        ({"vocab": [7]}, "rank is 'None'"),
        ({"config": {"pattern": 3, "default_vocab_size": 9, "default_num_special_tokens": 1}}, "pattern '3'"),
        ({"config": {"pattern": "x", "default_vocab_size": True, "default_num_special_tokens": 1}}, "is 'True'"),
        ({"special_tokens": [{"rank": 10, "token_str": "x"}]}, "special token"),
        ({"special_tokens": [{"rank": 1, "token_str": ""}]}, "special token"),
    ],
)
def test_a_broken_tekken_is_one_problem(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab"] * 5
    companions = companions_of(tmp_path, tekken_json=tekken(tokens, **changes))
    (problem,) = check_vocabulary(companions, 300)
    assert words in str(problem)


def test_notes_say_what_llama_cpp_will_not_do(tmp_path: Path) -> None:
    companions = companions_of(tmp_path, tokenizer_json=trained_wordpiece())
    notes = vocabulary_notes(companions, 1000)
    assert any("more than 100 characters" in note for note in notes)


# --- strangers' files -------------------------------------------------------------------------------------------------

ODD = [None, True, -1, 2**70, 1.5, "", "x", [], {}, [1], {"a": 1}, ["a", "b"], {"type": "Sequence", "normalizers": 3}]


def broken_somewhere(value: Any, draw: random.Random) -> Any:
    """A copy in which one thing, at any depth, is gone or another."""
    made = json.loads(json.dumps(value))
    inside = made
    while True:
        key = draw.choice(sorted(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[key], dict | list) or not inside[key] or draw.random() < 0.2:
            break
        inside = inside[key]
    if draw.random() < 0.3:
        del inside[key]
    else:
        inside[key] = draw.choice(ODD)
    return made


def test_whatever_is_wrong_in_a_file_is_one_error(tmp_path: Path) -> None:
    draw, refused = random.Random(3), 0
    ranks = [bytes([byte]) for byte in range(256)] + [b"ab"]
    kinds = {"tokenizer_json": [trained_unigram(), trained_wordpiece()], "tekken_json": [tekken([*ranks, *[b"-"] * 5])]}
    for number in range(200):
        name = draw.choice(list(kinds))
        file = broken_somewhere(broken_somewhere(draw.choice(kinds[name]), draw), draw)
        try:
            companions = companions_of(tmp_path / str(number), **{name: file})
            problems = check_vocabulary(companions, 1200)
            refused += bool(problems)
            if not problems:
                vocabulary_notes(companions, 1200)
        except InputError:
            refused += 1
    assert 20 < refused < 200
