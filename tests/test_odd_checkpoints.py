"""Checkpoints as trainers, mergers and editors leave them: converted as what they are, or refused with the way out.

Each test makes one kind; `whole` runs it through source and gguf and compares with what transformers computes.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import architectures
from convert.bundle import Bundle, Role
from convert.errors import ConvertError, InputError
from convert.formats.gguf.stage import STAGE as gguf
from convert.formats.gguf.stage import GGUFOptions
from convert.progress import Progress, Silent
from convert.source.checkpoint import open_bundle, read_config, stored_config
from convert.source.companions import read_companions
from convert.source.model_types import CLASS_OF
from convert.source.names import UNUSED, plain_name, unused
from convert.source.quantized import METHODS, is_packed
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from convert.source.untrusted import decoded, parse_object
from tests.gguf.test_gguf_stage import edit_weights
from tests.hostile import BROUGHT, edit_config
from tests.tiny import tiny_llama, tiny_qwen2
from validate import runtimes

TEXT = list(range(3, 67))


class Heard(Silent):
    """What a step warns of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def made(folder: Path, out: Path, progress: Progress | None = None) -> Bundle:
    """The source's own output."""
    out.mkdir()
    assert source.check(SourceOptions(path=folder), {}) == []
    return source.run(SourceOptions(path=folder), {}, out, progress or Silent())


def whole(folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits of transformers on the source's output, and of the F32 file on llama.cpp."""
    from convert.model.reference import open_reference

    bundle = made(folder, out)
    assert gguf.check(GGUFOptions(types=["F32"]), {"source": source.forecast(SourceOptions(path=folder), {})}) == []
    (out / "gguf").mkdir()
    file = gguf.run(GGUFOptions(types=["F32"]), {"source": bundle}, out / "gguf", Silent()).of(Role.WEIGHTS)[0].path
    with open_reference(bundle, 1) as reference:
        wanted = reference.logits(TEXT)
    with runtimes.load("llama_cpp").open(file, threads=1) as session:
        return wanted, session.logits(TEXT)


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): value for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def equal(pair: tuple[np.ndarray, np.ndarray]) -> bool:
    return float(np.abs(pair[0] - pair[1]).max()) < 1e-3 * max(1.0, float(np.abs(pair[0]).max()))


def bare(name: str) -> str:
    return name.removeprefix("model.")


WRAPPED: dict[str, Callable[[str], str]] = {
    "base class": bare,
    "some without": lambda name: bare(name) if "layers.1" in name else name,
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled inside": lambda name: name.replace("model.", "model._orig_mod.", 1),
    "parallel": lambda name: f"module.{name}",
    "parallel and compiled": lambda name: f"_orig_mod.module.{name}",
    "peft, merged": lambda name: f"base_model.model.{name}",
    "peft of the base class": lambda name: f"base_model.model.{bare(name)}",
    "lightning": lambda name: f"model.{name}",
    "fsdp": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapper_in_the_names_of_tensors_is_none_of_the_model(kind: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m", tied=False)
    renamed(folder, WRAPPED[kind])
    assert equal(whole(folder, tmp_path / "out"))


def test_wrapped_shards_with_an_index(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m", tied=False, shards=2)
    for file in folder.glob("*.safetensors"):
        save_file({f"module.{k}": v for k, v in load_file(file).items()}, file, {"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {f"module.{name}": file for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert equal(whole(folder, tmp_path / "out"))


def test_wrapped_pickles(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m", tied=False)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, folder / "pytorch_model.bin")
    assert open_bundle(made(folder, tmp_path / "out")).tensors.keys() == state.keys()


def test_what_is_renamed_is_said_in_the_plan(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    renamed(folder, lambda name: f"module.{name}")
    (note,) = source.notes(SourceOptions(path=folder))
    assert "have a wrapper in their names: 'module." in note


def test_names_that_are_the_model_s_own_stay(tmp_path: Path) -> None:
    """No table of a family has a name that is taken for a wrapper's, or for a head's beside the model."""
    names = [tensor for name in architectures.names() for tensor in architectures.load(name).usual_roles().tensors]
    assert len(names) > 1000
    assert [name for name in names if plain_name(name) != name or unused(name)] == []


def test_an_adapter_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    edit_weights(
        folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 64)})
    )
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert "adapter that is not merged" in problem.got
    assert "merge_and_unload" in problem.remedy


HEADS = (
    "v_head.summary.weight",
    "value_head.weight",
    "score.weight",
    "classifier.weight",
    "mtp.fc.weight",
    "medusa_head.0.1.weight",
    "pretrained_model.v_head.summary.bias",
    "rm_head.weight",
    "model.mtp_layers.0.fc.weight",
)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_no_text_is_made_with_is_left_out(head: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    edit_weights(folder, lambda tensors: tensors.update({head: torch.zeros(1, 64)}))
    assert equal(whole(folder, tmp_path / "out"))
    assert any(note.startswith(f"left out: '{head}'") for note in source.notes(SourceOptions(path=folder)))


def test_every_kind_of_head_has_a_test() -> None:
    assert all(any(pattern.match(plain_name(head)) for head in HEADS) for pattern, _ in UNUSED)


def test_any_other_tensor_is_still_unknown(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    edit_weights(folder, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(1, 64)}))
    (problem,) = gguf.check(GGUFOptions(types=["F32"]), {"source": source.forecast(SourceOptions(path=folder), {})})
    assert "has unknown tensors: model.extra.weight" in problem.got


def test_a_head_that_is_missing_is_not_a_matter_of_the_download(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "m", tied=True)
    edit_config(folder, tie_word_embeddings=False)
    (problem,) = gguf.check(GGUFOptions(types=["F32"]), {"source": source.forecast(SourceOptions(path=folder), {})})
    assert "lacks lm_head.weight, the output head, and tie_word_embeddings is false" in problem.got
    assert "set tie_word_embeddings to true" in problem.remedy
    assert "save the model again" in problem.remedy
    assert "download" not in str(problem)


# --- quantization -----------------------------------------------------------------------------------------------------

STALE = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def test_a_word_of_quantization_beside_plain_weights_is_passed_over(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "m")
    edit_config(folder, quantization_config=STALE)
    assert equal(whole(folder, tmp_path / "out"))
    heard = Heard()
    made(folder, tmp_path / "again", heard)
    assert any(
        "quantized (bitsandbytes), but they are plain BF16: the weights decide" in text for text in heard.warnings
    )


@pytest.mark.parametrize(("dtype", "stale"), [(torch.bfloat16, True), (torch.uint8, False)])
def test_pickles_decide_by_what_they_store(dtype: torch.dtype, stale: bool, tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "m")
    edit_config(folder, quantization_config=STALE)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["model.layers.0.mlp.up_proj.weight"] = state["model.layers.0.mlp.up_proj.weight"].to(dtype)
    torch.save(state, folder / "pytorch_model.bin")
    assert bool(source.check(SourceOptions(path=folder), {})) is not stale
    assert ("quantization_config" in stored_config(folder)) is not stale
    if stale:
        assert equal(whole(folder, tmp_path / "out"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_packed_weights_are_named_by_their_method(method: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    edit_config(folder, quantization_config={"quant_method": method})
    (folder / "README.md").write_text("---\nbase_model: Org/Base-7B\n---\n")
    edit_weights(
        folder, lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(4096, 1, dtype=torch.uint8)})
    )
    options, inputs = GGUFOptions(types=["F32"]), {}
    problems = source.check(SourceOptions(path=folder), {})
    if method == "mxfp4":  # a family has such blocks: the others say so
        inputs = {"source": source.forecast(SourceOptions(path=folder), {})}
        problems = gguf.check(options, inputs)
    assert len(problems) == 1
    assert f"quantization_config says {METHODS[method][0]}" in problems[0].got
    assert "the model it was made from" in problems[0].remedy
    assert ("Org/Base-7B" in problems[0].remedy) == (method != "mxfp4")


@pytest.mark.parametrize(
    ("types", "packed"),
    [
        ({"model.norm.weight": "BF16", "model.layers.0.attn.bias": "U8"}, False),
        ({"a.qweight": "I32"}, True),
        ({"a.weight": "U8", "a.weight.absmax": "F32"}, True),
        ({"a.weight": "F8_E4M3"}, True),
        ({"a.weight": "BF16", "a.weight_scale_inv": "F32"}, True),
        ({"a.codes": "I16", "a.codebooks": "F16"}, True),
    ],
)
def test_whether_weights_are_packed(types: dict[str, str], packed: bool) -> None:
    assert is_packed(types) is packed


# --- the class --------------------------------------------------------------------------------------------------------


def test_a_model_type_is_enough_where_it_names_one_class(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert equal(whole(folder, tmp_path / "out"))
    assert read_config(tmp_path / "out")["architectures"] == ["Qwen2ForCausalLM"]


def test_the_classes_of_model_types_are_those_of_transformers() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    known = architectures.known()
    texts = (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    for kind, name in CLASS_OF.items():
        assert name in known
        assert name in [table.get(kind) for table in texts], kind
    theirs = {name for table in texts for name in table.values()}
    assert {known[name] for name in CLASS_OF.values()} == {family for name, family in known.items() if name in theirs}


@pytest.mark.parametrize(
    ("kind", "says"), [("qwen2x", '["Qwen2ForCausalLM"] (model_type qwen2)'), (None, "no model_type either")]
)
def test_without_both_the_class_is_asked_for(kind: str | None, says: str) -> None:
    with pytest.raises(InputError) as caught:
        architectures.find({"model_type": kind})
    assert 'add "architectures"' in str(caught.value)
    assert says in str(caught.value)


# --- special tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_past_the_vocabulary_is_told_by_its_file_or_refused(file: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    words = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**words, "eos_token_id": [2, 384]}))
    (note,) = source.notes(SourceOptions(path=folder))
    assert f"{file}: eos_token_id is 384, and the vocabulary has 384 tokens, 0 to 383; left out" in note
    (problem,) = source.check(SourceOptions(path=folder, strict=True), {})
    assert str(problem).startswith(f"{folder / file}: eos_token_id is 384")
    assert source.check(SourceOptions(path=folder), {}) == []


# --- texts ------------------------------------------------------------------------------------------------------------

MARKED = {
    "UTF-8": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16 LE": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("kind", MARKED)
def test_a_byte_order_mark_is_no_part_of_any_text(kind: str, tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "m", shards=2)
    before = read_companions(source.forecast(SourceOptions(path=folder), {}))
    template = before.chat_templates["default"] + "\n{# last #}\n"
    (folder / "chat_template.jinja").write_text(template)
    for path in [*folder.glob("*.json"), folder / "chat_template.jinja"]:
        path.write_bytes(MARKED[kind](path.read_text()))
    after = read_companions(source.forecast(SourceOptions(path=folder), {}))
    assert after.tokenizer_json == before.tokenizer_json
    assert after.chat_templates["default"] == template
    assert equal(whole(folder, tmp_path / "out"))


def test_broken_json_is_shown_where_it_is_broken() -> None:
    with pytest.raises(InputError) as caught:
        parse_object("config.json", b'\xef\xbb\xbf{\r\n  "a": [1, 2],\r\n  "b": 3,\r\n}')
    assert str(caught.value) in (
        "config.json:4:1: is not valid JSON (a comma with nothing after it), the text there is '}'; "
        "take the comma away",
        "config.json:3:9: is not valid JSON (a comma with nothing after it), the text there is '\"b\": 3,'; "
        "take the comma away",
    )
    with pytest.raises(InputError, match=r"config\.json:1:7: is not valid JSON .*the text there is '\{\"a\": oops\}'"):
        parse_object("config.json", b'{"a": oops}')


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InputError, match="byte 1 is not UTF-8"):
        decoded("x.jinja", b"a\xff")


# --- links ------------------------------------------------------------------------------------------------------------


def linked(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose weights lie elsewhere."""
    folder, disk = tiny_llama(tmp_path / "m"), tmp_path / "disk"
    disk.mkdir()
    (folder / "model.safetensors").rename(disk / "weights.safetensors")
    (folder / "model.safetensors").symlink_to(disk / "weights.safetensors")
    return folder, folder / "model.safetensors"


def test_weights_on_another_disk_are_followed(tmp_path: Path) -> None:
    folder, _ = linked(tmp_path)
    assert equal(whole(folder, tmp_path / "out"))


@pytest.mark.parametrize("brought", BROUGHT)
def test_a_link_that_somebody_else_made_is_refused(brought: str, tmp_path: Path) -> None:
    folder, link = linked(tmp_path)
    BROUGHT[brought](link)
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert "leads out of its folder" in problem.got
    assert "copy of the file" in problem.remedy


def test_a_link_to_no_file_is_refused(tmp_path: Path) -> None:
    folder, link = linked(tmp_path)
    link.unlink()
    link.symlink_to("/dev/null")
    (problem,) = source.check(SourceOptions(path=folder), {})
    assert "is not a regular file" in problem.got


# --- added tokens -----------------------------------------------------------------------------------------------------


def token(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **flags}


def with_tokens(folder: Path, in_json: list[dict[str, Any]], in_config: list[dict[str, Any]]) -> Path:
    model = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    model["added_tokens"] += in_json
    config["added_tokens_decoder"] |= {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in in_config}
    (folder / "tokenizer.json").write_text(json.dumps(model))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def cases() -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    gap, known, moved = [token(505, "<|custom|>")], [token(505, "Ġ")], [token(505, "<|im_end|>")]
    yield gap, gap
    yield [], gap
    yield known, known
    yield [], moved
    yield [token(500, "<|a|>"), token(505, "<|b|>")], [token(500, "<|a|>"), token(505, "<|b|>")]


@pytest.mark.parametrize(("in_json", "in_config"), list(cases()))
def test_ids_are_those_that_transformers_gives(
    in_json: list[dict[str, Any]], in_config: list[dict[str, Any]], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = with_tokens(tiny_qwen2(tmp_path / "m"), in_json, in_config)
    companions = read_companions(source.forecast(SourceOptions(path=folder), {}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for said in in_config:
        text = said["content"]
        assert companions.token_ids[text] == theirs.convert_tokens_to_ids(text) != said["id"]
        assert any(f"{text!r} is 505 in" in note or "500" in note for note in companions.added_token_notes)
    assert equal(whole(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("in_json", "in_config", "says"),
    [
        (
            [token(505, "<|b|>"), token(500, "<|a|>")],
            [token(505, "<|b|>"), token(500, "<|a|>")],
            "496, transformers 5 497",
        ),
        ([], [token(481, "<|other|>")], "id 481 is '<|im_start|>' here and '<|other|>' in"),
        ([token(505, "<|im_end|>")], [], "tokens 482 and 505 are both"),
    ],
)
def test_ids_that_the_libraries_differ_on_are_refused(
    in_json: list[dict[str, Any]], in_config: list[dict[str, Any]], says: str, tmp_path: Path
) -> None:
    folder = with_tokens(tiny_qwen2(tmp_path / "m"), in_json, in_config)
    options = GGUFOptions(types=["F32"], tokenizer_check="warn")
    with pytest.raises(ConvertError, match=r"tokenizer\.json") as caught:
        gguf.run(options, {"source": source.forecast(SourceOptions(path=folder), {})}, tmp_path, Silent())
    assert says in str(caught.value)
    assert not list(tmp_path.glob("*.gguf"))


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "lost"), [(1e5, ["F16"]), (1e12, ["F16", "Q8_0"])])
def test_types_that_hold_every_value_are_made_where_another_does_not(
    value: float, lost: list[str], tmp_path: Path
) -> None:
    folder = tiny_llama(tmp_path / "m")

    def large(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.gate_proj.weight"][5, 7] = 7e4
        tensors["model.layers.1.mlp.gate_proj.weight"][60, 3] = -value

    edit_weights(folder, large)
    bundle, heard = source.forecast(SourceOptions(path=folder), {}), Heard()
    options = GGUFOptions(types=["F16", "Q8_0", "BF16"], tokenizer_check="warn")
    weights = gguf.run(options, {"source": bundle}, tmp_path / "m", heard).of(Role.WEIGHTS)
    kept = [kind for kind in ("F16", "Q8_0", "BF16") if kind not in lost]
    assert [a.type for a in weights] == kept
    assert sorted(path.name for path in (tmp_path / "m").glob("*.gguf")) == sorted(f"m-{kind}.gguf" for kind in kept)
    said = next(text for text in heard.warnings if text.startswith("m-F16.gguf is not made: "))
    assert "tensor model.layers.1.mlp.gate_proj.weight" in said
    assert f"its largest value {-float(torch.tensor(value).bfloat16()):g} at [60, 3] is too large for F16" in said
    assert "BF16" in said
    assert gguf.lacking(options, bundle.with_(weights=weights)) == [
        f"{kind} is not made: it cannot hold a value of this model, use BF16" for kind in lost
    ]
