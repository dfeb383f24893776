"""Which ids are BOS, EOS, EOT and the others, and which of them llama.cpp puts around a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.formats.gguf.vocabulary import check_vocabulary, vocabulary_metadata, vocabulary_notes
from tests.fixtures_vocabulary import LlamaTokenizer, by_key, companions_of, template, write_gguf
from tests.gguf.test_vocabulary import ABC, QWEN, added, byte_level, qwen


def specials(folder: Path, tokenizer: dict[str, Any], **files: Any) -> tuple[dict[str, Any], list[str]]:
    companions = companions_of(folder, tokenizer_json=tokenizer, **files)
    prefix = "tokenizer.ggml."
    fields = by_key(vocabulary_metadata(companions, 12)).items()
    found = {k.removeprefix(prefix): v for k, v in fields if k.endswith(("_id", "add_bos_token", "add_eos_token"))}
    return found, vocabulary_notes(companions, 12)


def with_added(*names: str, **changes: Any) -> dict[str, Any]:
    return byte_level(ABC, ["a b", "Ġ ab"], added_tokens=[added(5 + i, n) for i, n in enumerate(names)], **changes)


def test_bos_by_the_post_processor(tmp_path: Path) -> None:
    processor = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template("<s>", "A")]}
    tokenizer = with_added("<s>", "<e>", post_processor=processor)
    # as transformers 5: the post-processor has the word, whatever the config says
    found, _ = specials(tmp_path, tokenizer, tokenizer_config_json={"bos_token": "<s>", "add_bos_token": False})
    assert found == {"bos_token_id": 5, "add_bos_token": True, "add_eos_token": False}


def test_eos_by_the_post_processor_takes_the_place_of_the_named_one(tmp_path: Path) -> None:
    tokenizer = with_added("<x>", "<e>", post_processor=template("A", "<e>"))
    found, notes = specials(tmp_path, tokenizer, tokenizer_config_json={"eos_token": "<x>"})
    assert found == {"eos_token_id": 6, "eot_token_id": 5, "add_bos_token": False, "add_eos_token": True}
    assert any("EOS is written as 6" in note for note in notes)


def test_two_tokens_in_front_are_noted(tmp_path: Path) -> None:
    tokenizer = with_added("[gMASK]", "<sop>", post_processor=template("[gMASK]", "<sop>", "A"))
    found, notes = specials(tmp_path, tokenizer)
    assert found["bos_token_id"] == 5
    assert any("adds [5, 6] before" in note for note in notes)


def test_a_byte_level_post_processor_adds_nothing(tmp_path: Path) -> None:
    tokenizer = with_added("<s>", post_processor={"type": "ByteLevel", "trim_offsets": False})
    found, _ = specials(tmp_path, tokenizer, tokenizer_config_json={"bos_token": "<s>", "add_bos_token": True})
    assert found["add_bos_token"] is False


def test_flags_of_the_config_without_post_processor(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "<e>", "add_bos_token": True, "add_eos_token": True}
    found, _ = specials(tmp_path, with_added("<s>", "<e>"), tokenizer_config_json=config)
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, True)


def test_a_flag_without_its_token_is_a_problem(tmp_path: Path) -> None:
    companions = companions_of(
        tmp_path, tokenizer_json=with_added("<s>"), tokenizer_config_json={"add_bos_token": True}
    )
    (problem,) = check_vocabulary(companions, 12)
    assert "add_bos_token is true" in str(problem)


def test_all_ends_of_a_generation_find_a_place_or_a_note(tmp_path: Path) -> None:
    tokenizer = with_added("<e1>", "<e2>", "<e3>", "<e4>")
    generation = {"eos_token_id": [5, 6, 7, 8]}
    found, notes = specials(
        tmp_path, tokenizer, tokenizer_config_json={"eos_token": "<e1>"}, generation_config_json=generation
    )
    assert (found["eos_token_id"], found["eot_token_id"], found["eom_token_id"]) == (5, 6, 7)
    assert [note for note in notes if "'<e4>' (8)" in note]


def test_ids_of_every_kind(tmp_path: Path) -> None:
    tokenizer = with_added("<|endoftext|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<m>")
    config = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 5, "sep_token_id": 900}
    found, notes = specials(tmp_path, tokenizer, config_json=config, tokenizer_config_json={"mask_token": "<m>"})
    assert found == {
        "bos_token_id": 5, "eos_token_id": 6, "eot_token_id": 6, "padding_token_id": 5, "mask_token_id": 10,
        "fim_pre_token_id": 7, "fim_suf_token_id": 8, "fim_mid_token_id": 9,
        "add_bos_token": False, "add_eos_token": False,
    }  # fmt: skip
    assert any("sep_token_id 900" in note for note in notes)


def test_llama_cpp_reads_the_ids_as_written(tmp_path: Path) -> None:
    companions = companions_of(
        tmp_path,
        tokenizer_json=qwen(),
        tokenizer_config_json={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        generation_config_json={"eos_token_id": [QWEN - 14, QWEN - 16]},
    )
    runtime = LlamaTokenizer(write_gguf(tmp_path / "t.gguf", vocabulary_metadata(companions, QWEN), QWEN))
    lib, vocab = runtime.lib, runtime.vocab
    end, text_end = companions.token_ids["<|im_end|>"], companions.token_ids["<|endoftext|>"]
    assert (lib.llama_vocab_eos(vocab), lib.llama_vocab_eot(vocab), lib.llama_vocab_pad(vocab)) == (end, end, text_end)
    assert not lib.llama_vocab_get_add_bos(vocab)
    assert [i for i in range(QWEN) if lib.llama_vocab_is_eog(vocab, i)] == sorted([end, text_end])
    runtime.close()


def test_tokens_that_swallow_spaces_are_noted(tmp_path: Path) -> None:
    tokenizer = byte_level(ABC, [], added_tokens=[added(5, "<mask>", lstrip=True)])
    (note,) = vocabulary_notes(companions_of(tmp_path, tokenizer_json=tokenizer), 6)
    assert "<mask>" in note


def test_an_ordinary_token_that_llama_cpp_takes_for_an_end_is_noted(tmp_path: Path) -> None:
    (note,) = vocabulary_notes(companions_of(tmp_path, tokenizer_json=byte_level({"a": 0, "</s>": 1}, [])), 2)
    assert "'</s>'" in note
