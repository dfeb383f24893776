"""The proof that a written vocabulary encodes as the checkpoint's own: it passes, fails, warns, and says why."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle
from convert.errors import StageError
from convert.formats.gguf import tokenizer_proof as proof
from convert.formats.gguf import tokenizer_verdicts as verdicts
from convert.formats.gguf.nearest_pretokenizer import nearest
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.tokenizer_request import request
from convert.formats.gguf.tokenizer_worker import Result
from convert.formats.gguf.vocabulary import vocabulary_metadata
from convert.gguf_field import Field
from convert.source.companions import read_companions
from tests.fixtures_vocabulary import Heard, bundle_of, companions_of, train_byte_level, write_gguf
from tests.gguf.test_pretokenizers import FAMILIES, pipeline
from tests.tiny import qwen_tokenizer, sentencepiece_tokenizer
from validate.samples import HARD_STRINGS


def written(folder: Path, tokenizer: dict[str, Any], **options: Any) -> tuple[Path, list[Field]]:
    companions = companions_of(folder, tokenizer_json=tokenizer)
    size = max(companions.token_ids.values()) + 1
    fields = vocabulary_metadata(companions, size, **options)
    return write_gguf(folder.with_suffix(".gguf"), fields, size), fields


def prove(file: Path, fields: Sequence[Field], source: Bundle, check: str, heard: Heard) -> None:
    asked = request(fields, read_companions(source))
    proof.prove_tokenizer(file, fields, asked, check, heard)


def gpt2() -> dict[str, Any]:
    return train_byte_level(pipeline((None,)), HARD_STRINGS, 3000)


def test_a_right_vocabulary_is_proven_and_limits_are_told(tmp_path: Path) -> None:
    file, fields = written(tmp_path / "m", json.loads(qwen_tokenizer(800)))
    heard = Heard()
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert heard.warnings == []
    assert any("normalizes and llama.cpp does not" in note for note in heard.notes)
    assert "as the checkpoint's own does" in heard.notes[-1]


def test_a_wrong_pre_tokenizer_fails_the_step_or_is_a_warning(tmp_path: Path) -> None:
    file, fields = written(tmp_path / "m", gpt2(), pre_tokenizer="qwen2")
    source = bundle_of(tmp_path / "m")
    with pytest.raises(StageError) as caught:
        prove(file, fields, source, "fail", Heard())
    message = str(caught.value)
    assert "strings differently" in message
    assert "where the checkpoint's own gives [" in message
    assert "`tokenizer_check: warn`" in message
    heard = Heard()
    prove(file, fields, source, "warn", heard)
    assert heard.warnings == [message]


@pytest.mark.parametrize("what", ["scores", "types", "bos"])
def test_every_part_of_a_sentencepiece_vocabulary_is_seen(tmp_path: Path, what: str) -> None:
    tokenizer = json.loads(sentencepiece_tokenizer(420))
    template = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    tokens = {"<s>": {"id": "<s>", "ids": [tokenizer["model"]["vocab"]["<s>"]], "tokens": ["<s>"]}}
    single = [template, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    around = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
    file, fields = written(tmp_path / "m", {**tokenizer, "post_processor": around})
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", Heard())
    by_key = {field.key.removeprefix("tokenizer.ggml."): field for field in fields}
    broken = {
        "scores": {"scores": tuple(-score for score in by_key["scores"].value)},
        "types": {"token_type": tuple(1 if kind == 3 else kind for kind in by_key["token_type"].value)},
        "bos": {"add_bos_token": False},
    }[what]
    changed = [
        dataclasses.replace(field, value=broken.get(field.key.removeprefix("tokenizer.ggml."), field.value))
        for field in fields
    ]
    file = write_gguf(tmp_path / "broken.gguf", changed, len(by_key["tokens"].value))
    with pytest.raises(StageError, match="strings differently"):
        prove(file, changed, bundle_of(tmp_path / "m"), "fail", Heard())


def test_a_vocabulary_that_llama_cpp_dies_of_is_one_error(tmp_path: Path) -> None:
    file, fields = written(tmp_path / "m", gpt2())
    twice = [
        dataclasses.replace(f, value=("a",) * len(f.value)) if f.key.endswith("ggml.tokens") else f for f in fields
    ]
    file = write_gguf(tmp_path / "twice.gguf", twice, 3000)
    with pytest.raises(StageError, match="SIGABRT"):
        prove(file, twice, bundle_of(tmp_path / "m"), "fail", Heard())


def test_a_name_llama_cpp_does_not_know_is_one_error(tmp_path: Path) -> None:
    file, fields = written(tmp_path / "m", gpt2(), pre_tokenizer="nobody")
    with pytest.raises(StageError, match="unknown pre-tokenizer type: 'nobody'"):
        prove(file, fields, bundle_of(tmp_path / "m"), "fail", Heard())


def test_without_the_runtime_it_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, fields = written(tmp_path / "m", gpt2())
    monkeypatch.setattr(proof, "library_path", lambda: None)
    heard = Heard()
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert heard.notes == []
    (warning,) = heard.warnings
    assert "was not proven: xllamacpp is not installed" in warning


def test_vocab_json_and_merges_txt_are_proven_too(tmp_path: Path) -> None:
    trained = train_byte_level(pipeline(FAMILIES["qwen2"]), HARD_STRINGS, 900)["model"]
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in trained["merges"]) + "\n"
    config = {"tokenizer_class": "Qwen2Tokenizer"}
    companions = companions_of(
        tmp_path / "m", vocab_json=trained["vocab"], merges_txt=merges, tokenizer_config_json=config
    )
    fields, heard = vocabulary_metadata(companions, 900), Heard()
    file = write_gguf(tmp_path / "m.gguf", fields, 900)
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert heard.warnings == []
    assert "as the checkpoint's own does" in heard.notes[-1]


def test_tokens_that_swallow_spaces_are_a_known_limit(tmp_path: Path) -> None:
    tokenizer = gpt2()
    for token in tokenizer["added_tokens"]:
        token["rstrip"] = True
    file, fields = written(tmp_path / "m", tokenizer)
    heard = Heard()
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert any("spaces beside tokens that strip them (lstrip, rstrip)" in note for note in heard.notes)


def test_a_space_before_the_text_alone_is_a_known_limit(tmp_path: Path) -> None:
    """As Mistral's tokenizer.json has it; llama.cpp puts one after every special token too."""
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    tokenizer = {**json.loads(sentencepiece_tokenizer(420)), "normalizer": None, "pre_tokenizer": first}
    file, fields = written(tmp_path / "m", tokenizer)
    heard = Heard()
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert any("the space before a text, and after a special token" in note for note in heard.notes)


def test_more_tokens_before_a_text_than_gguf_can_say_are_no_failure(tmp_path: Path) -> None:
    """As GLM-4's [gMASK]<sop>; the plan has told of it."""
    tokenizer = gpt2()
    names = ["<|endoftext|>", "<|im_start|>"]
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    single = [
        *({"SpecialToken": {"id": name, "type_id": 0}} for name in names),
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    around = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
    file, fields = written(tmp_path / "m", {**tokenizer, "post_processor": around})
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", Heard())


def test_one_proof_serves_files_with_one_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, fields = written(tmp_path / "m", gpt2())
    source = bundle_of(tmp_path / "m")
    prove(file, fields, source, "fail", Heard())
    monkeypatch.setattr(proof.child, "run", None)  # a second process would be a TypeError
    prove(file.rename(tmp_path / "other.gguf"), fields, source, "fail", Heard())
    changed = [dataclasses.replace(f, value=f.value[::-1]) if f.key.endswith("merges") else f for f in fields]
    with pytest.raises(TypeError):
        prove(tmp_path / "other.gguf", changed, source, "fail", Heard())


# --- what was proven before -------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CONVERT_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / verdicts.FOLDER


@pytest.fixture
def proven(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Field]]:
    """A file whose tokenizer another process has proven; in this one, a comparison is a TypeError."""
    file, fields = written(tmp_path / "m", json.loads(qwen_tokenizer(800)))
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", Heard())
    assert len(list(cache.iterdir())) == 1
    proof._ask.cache_clear()
    monkeypatch.setattr(proof.child, "run", None)
    return file, fields


def test_a_proof_is_kept_for_other_runs(tmp_path: Path, proven: tuple[Path, list[Field]]) -> None:
    file, fields = proven
    heard = Heard()
    prove(file.rename(tmp_path / "other.gguf"), fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert any("normalizes and llama.cpp does not" in note for note in heard.notes)
    assert heard.notes[-1].endswith("as was found before with the same files and libraries")


@pytest.mark.parametrize("what", ["tokenizer.json", "fields", "file", "library", "our code", "damage", "name", "total"])
def test_what_changed_is_proven_again(
    tmp_path: Path, cache: Path, proven: tuple[Path, list[Field]], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file, fields = proven
    source = bundle_of(tmp_path / "m")
    (kept,) = cache.iterdir()
    said = json.loads(kept.read_text())
    if what == "tokenizer.json":
        (tmp_path / "m" / what).write_text((tmp_path / "m" / what).read_text() + "\n")
    elif what == "fields":
        fields = [dataclasses.replace(f, value=f.value[::-1]) if f.key.endswith("merges") else f for f in fields]
    elif what == "file":
        file.write_bytes(file.read_bytes().replace(b"<|im_end|>", b"<|im_End|>"))
    elif what == "library":
        monkeypatch.setattr(verdicts, "version", lambda name: "0.0.1")
    elif what == "our code":
        monkeypatch.setattr(verdicts, "_code", lambda: "another")
    elif what == "damage":
        kept.write_text(kept.read_text()[:-9])
    elif what == "name":
        kept.write_text(json.dumps({**said, "key": "0" * 64}))
    else:
        kept.write_text(json.dumps({**said, "total": said["total"] - 1}))
    with pytest.raises(TypeError):
        prove(file, fields, source, "fail", Heard())


def test_a_difference_is_not_kept(tmp_path: Path, cache: Path) -> None:
    file, fields = written(tmp_path / "m", gpt2(), pre_tokenizer="qwen2")
    prove(file, fields, bundle_of(tmp_path / "m"), "warn", Heard())
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("CONVERT_CACHE_HOME", str(tmp_path / "taken"))
    file, fields = written(tmp_path / "m", json.loads(qwen_tokenizer(800)))
    heard = Heard()
    prove(file, fields, bundle_of(tmp_path / "m"), "fail", heard)
    assert heard.notes[-1].endswith("as the checkpoint's own does")


def test_the_oldest_verdicts_go(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del tmp_path
    monkeypatch.setattr(verdicts, "MOST", 2)
    for number, key in enumerate("abc"):
        verdicts.keep(key, Result(3))
        os.utime(cache / f"{key}.json", (number, number))
    verdicts.keep("d", Result(3))
    assert sorted(path.name for path in cache.iterdir()) == ["c.json", "d.json"]


def test_the_recipe_may_waive_it() -> None:
    assert stage.Options(types=["F16"]).tokenizer_check == "fail"
    assert stage.Options(types=["F16"], tokenizer_check="warn").tokenizer_check == "warn"
    with pytest.raises(ValueError, match="'fail' or 'warn'"):
        stage.Options.model_validate({"types": ["F16"], "tokenizer_check": "off"})


def test_the_request_names_the_added_tokens_in_text(tmp_path: Path) -> None:
    _, fields = written(tmp_path / "m", json.loads(qwen_tokenizer(800)))
    asked = request(fields, read_companions(bundle_of(tmp_path / "m")))
    assert asked is not None
    assert len(asked.texts) >= len(HARD_STRINGS) + 30
    assert "a<|im_end|>b" in asked.texts


# --- the nearest pre-tokenizer ----------------------------------------------------------------------------------------


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def test_the_nearest_is_named_with_a_string_that_shows_the_difference() -> None:
    nearly = FAMILIES["qwen2"][0].replace(r"|\p{N}|", r"|\p{N}{1,2}|")
    assert nearly != FAMILIES["qwen2"][0]
    found = nearest(split(nearly))
    assert found is not None
    assert found.name in ("qwen2", "llama-bpe")
    assert found.differing > 0
    assert "".join(found.wanted) == "".join(found.got) == found.text
    assert found.wanted != found.got
    assert f"the nearest is {found.name}, which splits {found.differing} of" in str(found)


def test_another_spelling_of_a_known_one_cuts_alike() -> None:
    spelled = FAMILIES["qwen2"][0].replace(r"\p{N}|", r"[\p{N}]|")
    found = nearest(split(spelled))
    assert found is not None
    assert (found.name, found.differing) == ("qwen2", 0)


@pytest.mark.parametrize("broken", [{"type": "Nothing"}, split("(")])
def test_a_pipeline_the_library_does_not_take_has_no_nearest(broken: dict[str, Any]) -> None:
    assert nearest(broken) is None
