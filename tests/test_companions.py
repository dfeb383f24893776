"""Reading what travels beside the weights, from folders that are right and from hostile ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Role
from convert.errors import InputError
from convert.source.companions import CONFIG_BYTES, ROLES, collect, read_companions, read_json
from tests.fixtures_vocabulary import bundle_of, companions_of
from tests.hostile import BROUGHT

# --- collect ----------------------------------------------------------------------------------------------------------


def test_every_name_has_its_role(tmp_path: Path) -> None:
    wanted: dict[Role, set[str]] = {}
    for pattern, role in ROLES.items():
        name = pattern.replace("*", "x").replace("[0-9]", "1")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        wanted.setdefault(role, set()).add(name)
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "training_args.bin").write_text("")
    found = collect(tmp_path)
    assert {role: {str(p.relative_to(tmp_path)) for p in paths} for role, paths in found.items()} == wanted
    assert all(list(paths) == sorted(paths) for paths in found.values())


def test_a_folder_of_licences_is_no_licence_file(tmp_path: Path) -> None:
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "LICENSE-MIT").write_text("")
    assert collect(tmp_path) == {Role.CARD: (tmp_path / "LICENSE-MIT",)}


def test_an_empty_folder_has_no_companions(tmp_path: Path) -> None:
    assert collect(tmp_path) == {}
    companions = read_companions(bundle_of(tmp_path))
    assert companions.tokenizer_json is None
    assert companions.special_ids == {}


@pytest.mark.parametrize("brought", sorted(BROUGHT))
def test_a_strangers_link_out_of_the_folder_is_refused(brought: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "secret").write_text("{}")
    (model / "config.json").symlink_to(tmp_path / "secret")
    BROUGHT[brought](model / "config.json")
    with pytest.raises(InputError, match=r"config\.json: is a link that leads out of its folder, to .*secret"):
        collect(model)


def test_a_link_that_the_user_made_is_followed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "other.json").write_text("{}")
    (model / "config.json").symlink_to(tmp_path / "other.json")
    assert collect(model) == {Role.CONFIG: (model / "config.json",)}


def test_links_within_the_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to(Path("../../blobs/1"))
    assert collect(snapshot, inside=tmp_path) == {Role.CONFIG: (snapshot / "config.json",)}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")])
def test_only_regular_files(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json"):
        collect(tmp_path)


# --- JSON from strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b'{\n  "a": 1,\n  oops\n}',
            "config.json:3:3: is not valid JSON (Expecting property name enclosed in double quotes), "
            "the text there is 'oops'",
        ),
        (b"[1, 2]", "a JSON list, wanted an object"),
        (b"null", "a JSON NoneType"),
        (b"", "config.json:1:1: is not valid JSON (it ends too early)"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not usable JSON (RecursionError)"),
        (b'{"a": ' + b"9" * 6000 + b"}", "not usable JSON (ValueError)"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"a": "\\\\\\ud83d"}', "half of a surrogate pair"),  # after a backslash that is one
        (b'{"a": "\\ude00\\ud83d"}', "half of a surrogate pair"),
        (b'{"a": "\\uD83D\\ud83d\\ude00"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b" " * (CONFIG_BYTES + 1), "larger than 16 MiB"),
    ],
)
def test_broken_json_is_one_error_with_the_file(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_companions(bundle_of(tmp_path))
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert words in str(caught.value)


def test_json_people_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"smile": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json") == {"smile": "😀"}
    (tmp_path / "b.json").write_bytes(b'{"no escapes": "\\\\ud83d \\\\\\\\uDE00"}')
    assert read_json(tmp_path / "b.json") == {"no escapes": "\\ud83d \\\\uDE00"}


# --- chat templates ---------------------------------------------------------------------------------------------------

DEFAULT = {"default": "C"}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, {}),
        ({"tokenizer_config_json": {"chat_template": "C"}}, DEFAULT),
        ({"tokenizer_config_json": {"chat_template": None}}, {}),
        ({"tokenizer_config_json": {"chat_template": [{"name": "default", "template": "C"}]}}, DEFAULT),
        ({"tokenizer_config_json": {"chat_template": {"rag": "R", "default": "C"}}}, {"default": "C", "rag": "R"}),
        ({"chat_template_jinja": "C"}, DEFAULT),
        ({"chat_template_json": {"chat_template": "C"}}, DEFAULT),
        ({"processor_config_json": {"chat_template": "C"}, "chat_template_json": {"chat_template": "L"}}, DEFAULT),
        # a file replaces what the tokenizer config says; both come before what only the processor uses
        ({"chat_template_jinja": "C", "tokenizer_config_json": {"chat_template": "T"}}, DEFAULT),
        ({"tokenizer_config_json": {"chat_template": "C"}, "chat_template_json": {"chat_template": "P"}}, DEFAULT),
        ({"additional_chat_templates/rag_jinja": "R", "chat_template_jinja": "C"}, {"default": "C", "rag": "R"}),
    ],
)
def test_chat_templates(tmp_path: Path, files: dict[str, Any], wanted: dict[str, str]) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    found = companions_of(tmp_path, **files).chat_templates
    assert list(found.items()) == list(wanted.items())


@pytest.mark.parametrize("files", ["string", "list", "jinja", "both", "additional"])
def test_templates_are_those_of_transformers(tmp_path: Path, files: str) -> None:
    from transformers import AutoTokenizer

    from tests.tiny import qwen_tokenizer

    (tmp_path / "additional_chat_templates").mkdir()
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if files in ("string", "both"):
        config["chat_template"] = "{{ 'string' }}"
    if files == "list":
        config["chat_template"] = [{"name": n, "template": n.upper()} for n in ("tool_use", "default")]
    made: dict[str, Any] = {"tokenizer_json": qwen_tokenizer(400), "tokenizer_config_json": config}
    if files in ("jinja", "both", "additional"):
        made["chat_template_jinja"] = "line one\nline two\n"
    if files == "additional":
        made["additional_chat_templates/rag_jinja"] = "rag"
    found = companions_of(tmp_path, **made).chat_templates
    theirs = AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert dict(found) == (theirs if isinstance(theirs, dict) else {"default": theirs})


@pytest.mark.parametrize("broken", [3, [], ["x"], [{"name": "a"}], {"a": 1}, [{"name": 1, "template": "x"}]])
def test_a_template_of_the_wrong_type(tmp_path: Path, broken: Any) -> None:
    with pytest.raises(InputError, match=r"tokenizer_config\.json: chat_template is"):
        companions_of(tmp_path, tokenizer_config_json={"chat_template": broken})


def test_a_template_that_was_passed_over_is_told(tmp_path: Path) -> None:
    companions = companions_of(
        tmp_path, tokenizer_config_json={"chat_template": "a"}, chat_template_json={"chat_template": "b"}
    )
    assert companions.notes == ("chat template of chat_template.json differs from tokenizer_config.json; "
                                "used tokenizer_config.json",)  # fmt: skip


# --- special tokens ---------------------------------------------------------------------------------------------------


def tokenizer(**vocab: int) -> dict[str, Any]:
    return {
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "added_tokens": [{"id": len(vocab), "content": "<e>"}],
    }


@pytest.mark.parametrize("eos", ["<e>", {"content": "<e>", "lstrip": False}])
def test_the_tokenizers_word_comes_before_the_configs(tmp_path: Path, eos: Any) -> None:
    companions = companions_of(
        tmp_path,
        tokenizer_json=tokenizer(**{letter: number for number, letter in enumerate("abcdefghi")}),
        tokenizer_config_json={"eos_token": eos, "unk_token": "nowhere", "pad_token": None},
        config_json={"eos_token_id": 3, "bos_token_id": 1, "text_config": {"pad_token_id": [5, 6]}},
        generation_config_json={"eos_token_id": [3, 9, 4], "bos_token_id": 2},
    )
    assert companions.special_ids == {"bos": 1, "eos": 9, "pad": 5}
    assert companions.end_ids == (9, 3, 4)


@pytest.mark.parametrize(
    ("whole", "inner", "ends"), [([3, 9], 4, (9, 3)), (None, [4, 3], (9, 4, 3)), (None, None, (9,))]
)
def test_ends_of_a_config_are_the_wholes_before_the_text_models(
    tmp_path: Path, whole: object, inner: object, ends: tuple[int, ...]
) -> None:
    """Without a generation_config.json transformers generates by one that it makes of config.json, in this order."""
    companions = companions_of(
        tmp_path,
        tokenizer_json=tokenizer(a=0, b=9),
        tokenizer_config_json={"eos_token": "b"},
        config_json={"eos_token_id": whole, "text_config": {"eos_token_id": inner}},
    )
    assert companions.end_ids == ends


def test_odd_ids_are_no_ids(tmp_path: Path) -> None:
    config = {"eos_token_id": "2", "bos_token_id": True, "pad_token_id": -1, "unk_token_id": None, "text_config": 4}
    assert companions_of(tmp_path, config_json=config).special_ids == {}


def test_special_tokens_map_fills_in_for_an_older_config(tmp_path: Path) -> None:
    files = {"tokenizer_json": tokenizer(a=0, b=1), "special_tokens_map_json": {"bos_token": "b"}}
    older = companions_of(tmp_path / "older", tokenizer_config_json={"bos_token": "a"}, **files)
    assert older.special_ids["bos"] == 1
    decoder = {"bos_token": "a", "added_tokens_decoder": {}}
    newer = companions_of(tmp_path / "newer", tokenizer_config_json=decoder, **files)
    assert newer.special_ids["bos"] == 0


def test_added_tokens_of_both_files(tmp_path: Path) -> None:
    decoder = {"2": {"content": "<t>"}, "1": {"content": "<e>", "special": True}}
    companions = companions_of(
        tmp_path, tokenizer_json=tokenizer(a=0), tokenizer_config_json={"added_tokens_decoder": decoder}
    )
    assert [(number, t["content"], t.get("special")) for number, t in companions.added_tokens.items()] == [
        (1, "<e>", True),
        (2, "<t>", None),
    ]
    assert companions.token_ids == {"a": 0, "<e>": 1, "<t>": 2}
    assert companions.added_token_notes == ()


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_json": {"added_tokens": [{"id": True, "content": "x"}]}},
        {"tokenizer_json": {"added_tokens": ["x"]}},
        {"tokenizer_config_json": {"added_tokens_decoder": {"x": {"content": "y"}}}},
        {"tokenizer_config_json": {"added_tokens_decoder": {"1": "y"}}},
        {"tokenizer_config_json": {"added_tokens_decoder": {"9" * 30: {"content": "y"}}}},
        {"added_tokens_json": {"x": "y"}},
    ],
)
def test_broken_added_tokens(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="json: "):
        _ = companions_of(tmp_path, **files).added_tokens


# --- processors and the card ------------------------------------------------------------------------------------------


def test_the_image_processor_of_either_file(tmp_path: Path) -> None:
    new = companions_of(tmp_path / "new", processor_config_json={"image_processor": {"min_pixels": 4}})
    old = companions_of(tmp_path / "old", preprocessor_config_json={"min_pixels": 4})
    assert new.preprocessor == old.preprocessor == {"min_pixels": 4}


def card(folder: Path, text: str) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return read_companions(bundle_of(folder))


def test_the_header_of_a_card(tmp_path: Path) -> None:
    found = card(tmp_path, "---\nlicense: mit\nlanguage:\n- no\n- en\nbase_model: a/b\n1: x\n---\n# Model\n---\n")
    assert found.card == {"license": "mit", "language": ["no", "en"], "base_model": "a/b"}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("# Model\n", False),
        ("", False),
        ("---\nlicense: mit\n", True),
        ("---\n- a\n---\n", True),
        ("---\na: [1\n---\n", True),
        ("---\na: 2024-99-99\n---\n", True),
        ("---\n" + "[" * 5000 + "\n---\n", True),
        ("---\na: !!python/object/apply:os.system [id]\n---\n", True),
        ("---\na: *nowhere\n---\n", True),
        ("---\na: 1\na: 2\n---\n", True),
        ("---\na: \udcff\n---\n", False),
    ],
)
def test_a_broken_card_is_left_out(tmp_path: Path, text: str, noted: bool) -> None:
    found = card(tmp_path, text)
    assert bool(found.notes) is noted, found.notes
    if noted:
        assert found.card == {}
        assert "README.md" in found.notes[0]
        json.dumps(found.notes)
