"""Files that somebody else made: told by their content, handed on as our own stages would, refused where nothing runs.

Headers only: the files here are small and hold nothing that could answer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert import load_recipe
from convert.bundle import Bundle, Model, Role
from convert.candidates import CandidateRequest, recipe_for, stage_names
from convert.errors import RecipeError
from convert.formats.existing_stage import STAGE as existing
from convert.plan import plan
from convert.progress import Silent
from convert.run import run
from convert.validation.outputs import outputs
from tests import tiny
from tests.fixtures_validate import folder, tiny_text, tiny_vision, weights
from tests.hostile import unpacked

__all__ = ["tiny_text", "tiny_vision"]  # fixtures

SOURCE = Bundle(Model("m"))


def gguf_file(path: Path, types: Mapping[str, str] | None = None, **fields: Any) -> Path:
    """A GGUF file of one tensor a type, with fields of its own."""
    import gguf

    writer = gguf.GGUFWriter(path, str(fields.pop("architecture", "llama")), use_temp_file=False)
    for key, value in fields.items():
        name = key.replace("__", ".")
        if name in ("split.no", "split.count"):
            writer.add_uint16(name, value)
        elif name == "split.tensors.count":
            writer.add_int32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)
    for name, type_ in (types if types is not None else {"blk.0.attn_q.weight": "Q8_0"}).items():
        kind = gguf.GGMLQuantizationType[type_]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor(name, np.zeros((4, 256 // values * size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split_files(folder: Path, count: int = 2) -> list[Path]:
    names = [folder / f"m-Q8_0-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(names):
        fields = {"split__no": i, "split__count": count, "split__tensors__count": count}
        gguf_file(path, {f"blk.{i}.attn_q.weight": "Q8_0"}, **fields)
    return names


def checkpoint(folder: Path, quantization: Any, tensors: Mapping[str, Any] | None = None) -> Path:
    """A folder as the hub has them, with a tokenizer and a config that says how it is quantized."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "llama"} | ({} if quantization is None else {"quantization_config": quantization})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    packed = {"model.layers.0.mlp.up_proj.qweight": np.zeros((4, 4), np.int32)}
    save_file(dict(tensors or packed), folder / "model.safetensors")
    return folder


def float8(folder: Path) -> Path:
    """As `checkpoint`, with a tensor in 8-bit floats, which numpy has not."""
    import torch
    from safetensors.torch import save_file

    made = checkpoint(folder, {"quant_method": "compressed-tensors", "format": "float-quantized"})
    save_file({"a.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, made / "model.safetensors")
    return made


def graph(path: Path, *, inputs: tuple[str, ...] = ("input_ids",), output: str = "logits", **how: Any) -> Path:
    """An ONNX graph of one MatMul on a weight; `dtype` of the weight, `op` in its place, `data` file it lies in."""
    from onnx import TensorProto, helper, save

    dtype, op, data = how.get("dtype", TensorProto.FLOAT), how.get("op", "MatMul"), how.get("data")
    weight = helper.make_tensor("w", dtype, (4, 4), np.zeros(16), raw=False)
    if data:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": data, "offset": "0", "length": str(how.get("length", 64))}.items():
            weight.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("b", 4)) for name in inputs]
    words = {"bits": how["bits"], "domain": "com.microsoft"} if "bits" in how else {}
    nodes = [helper.make_node(op, [inputs[0], "w"], [output], **words)]
    if how.get("cast"):
        nodes = [helper.make_node("Cast", ["w"], ["w1"], to=how["cast"])]
        nodes += [helper.make_node("MatMul", [inputs[0], "w1"], [output])]
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ("b", 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(helper.make_graph(nodes, "g", values, [out], [weight])), path)
    return path


def companions(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def look(path: Path, projector: Path | None = None) -> Bundle:
    options = existing.Options(path=path, projector=projector)
    assert existing.check(options, {"source": SOURCE}) == []
    return existing.forecast(options, {"source": SOURCE})


def refused(path: Path, projector: Path | None = None) -> str:
    (problem,) = existing.check(existing.Options(path=path, projector=projector), {"source": SOURCE})
    return str(problem)


def rows(bundle: Bundle) -> list[tuple[str, str, list[str]]]:
    found = outputs({"source": SOURCE, "theirs": bundle})
    return [(row.label, row.weights.kind, [file.path.name for file in row.files]) for row in found]


# ---- GGUF


def test_a_gguf_file_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "model.safetensors", general__file_type=7)
    assert rows(look(file)) == [("model.safetensors", "gguf/Q8_0", ["model.safetensors"])]


@pytest.mark.parametrize(
    ("tensors", "file_type", "expected"),
    [
        ({"a": "Q4_K", "b": "Q6_K"}, 15, "Q4_K_M"),
        ({"a": "Q4_K", "b": "Q6_K"}, None, "Q6_K"),  # nothing is said: what most bytes are
        ({"a": "Q8_0"}, 15, "Q8_0"),  # what is said is not so
        ({"a": "IQ3_S", "b": "IQ3_XXS"}, 22, "IQ3_XS"),
        ({"a": "BF16"}, 4711, "BF16"),
    ],
)
def test_the_type_is_what_the_tensors_bear_out(
    tmp_path: Path, tensors: dict[str, str], file_type: int | None, expected: str
) -> None:
    said = {} if file_type is None else {"general__file_type": file_type}
    (weights,) = look(gguf_file(tmp_path / "m.gguf", tensors, **said)).of(Role.WEIGHTS)
    assert weights.type == expected


def test_a_split_file_and_a_projector(tmp_path: Path) -> None:
    first, second = split_files(tmp_path)
    eyes = gguf_file(tmp_path / "eyes", {"v.blk.0.attn_q.weight": "F16"}, architecture="clip", general__type="mmproj")
    bundle = look(first, eyes)
    assert rows(bundle) == [(first.name, "gguf/Q8_0", [first.name, second.name, "eyes"])]
    assert [a.kind for a in bundle.of(Role.PROJECTOR)] == ["gguf/F16"]
    assert set(existing.reads(existing.Options(path=first, projector=eyes))) == {first, second, eyes}


def test_what_our_own_stage_made_comes_back_as_it_was(tiny_vision: dict[str, Bundle]) -> None:
    made = tiny_vision["gguf"]
    (weights,), (eyes,) = made.of(Role.WEIGHTS), made.of(Role.PROJECTOR)
    again = look(weights.path, eyes.path)
    for role in (Role.WEIGHTS, Role.PROJECTOR):
        assert [(a.kind, a.path, a.size) for a in again.of(role)] == [(a.kind, a.path, a.size) for a in made.of(role)]


def spoiled_split(folder: Path, change: Callable[[list[Path]], object], which: int = 0) -> Path:
    files = split_files(folder)
    change(files)
    return files[which]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: gguf_file(d / "m.gguf", {}), "holds no tensors"),
        (lambda d: gguf_file(d / "m.gguf", architecture="clip"), "is a projector, which goes with a language model"),
        (lambda d: gguf_file(d / "m.gguf", general__type="adapter"), "is an adapter; merge it into the model first"),
        (lambda d: gguf_file(d / "m.gguf", general__type="imatrix"), "is an importance matrix"),
        (lambda d: spoiled_split(d, lambda files: files[1].unlink()), "which is not there"),
        (lambda d: spoiled_split(d, lambda files: None, 1), "is number 1 of 2 files (split.no), wanted the first"),
        (lambda d: split_files(d)[0].rename(d / "m.gguf"), "download all of them under their own names"),
        (lambda d: spoiled_split(d, lambda f: shutil.copy(f[0], f[1])), "says it is number 0 of 2, wanted number 1"),
        (
            lambda d: spoiled_split(
                d, lambda f: gguf_file(f[1], {"a": "F16", "b": "F16"}, split__no=1, split__count=2)
            ),
            "claims 2 tensors in all, wanted 3, as its files have",
        ),
    ],
)
def test_gguf_files_that_nothing_runs(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    assert message in refused(make(tmp_path))


def test_a_gguf_file_that_was_cut_short_and_one_that_lies(tmp_path: Path) -> None:
    whole = gguf_file(tmp_path / "m.gguf").read_bytes()
    for size in (5, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        assert "cut.gguf" in refused(tmp_path / "cut.gguf")
    (tmp_path / "lies.gguf").write_bytes(whole[:8] + b"\xff" * 16 + whole[24:])  # 2**64 - 1 tensors
    assert "at most" in refused(tmp_path / "lies.gguf")


def test_a_projector_that_is_none(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf")
    assert "wanted 'clip', as projectors are" in refused(file, file)
    assert "does not exist, wanted a projector" in refused(file, tmp_path / "none.gguf")
    assert "is the `projector` of m.onnx, which is not a GGUF file" in refused(graph(tmp_path / "m.onnx"), file)
    assert "leave `projector` out" in refused(tmp_path, file)


# ---- checkpoints


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq/Int4"),
        ({"quant_method": "gptq", "bits": 8}, "gptq/Int8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq/Int4"),
    ],
)
def test_a_quantized_checkpoint_is_told_by_its_config(tmp_path: Path, quantization: Any, kind: str) -> None:
    folder = checkpoint(tmp_path / "any name", quantization)
    bundle = look(folder)
    assert [(a.kind, a.path) for a in bundle.of(Role.WEIGHTS)] == [(kind, folder / "model.safetensors")]
    assert [a.path for a in bundle.of(Role.CONFIG)] == [folder / "config.json"]
    assert not bundle.of(Role.PREPROCESSOR)


def test_an_fp8_checkpoint(tmp_path: Path) -> None:
    (weights,) = look(float8(tmp_path / "f")).of(Role.WEIGHTS)
    assert weights.kind == "fp8/F8_E4M3"


def test_a_checkpoint_in_shards_that_sees(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = checkpoint(tmp_path / "f", {"quant_method": "gptq", "bits": 4})
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"b": np.zeros(1, np.float32)}, folder / "model-00002-of-00002.safetensors")
    (folder / "preprocessor_config.json").write_text("{}")
    ((label, _, files),) = rows(look(folder))
    assert label == "theirs/Int4"
    first, second = (f"model-{i:05}-of-00002.safetensors" for i in (1, 2))
    assert files == [first, second, first]  # which is its own projector


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "is quantized by 'bitsandbytes', wanted gptq or awq in 2, 3, 4 or 8 bits"),
        ({"quant_method": "gptq", "bits": 5}, "is quantized by 'gptq', bits 5, wanted"),
        ({"quant_method": ["gptq"]}, "is quantized by ['gptq'], wanted"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "format 'pack-quantized', wanted"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "has no tensor that is quantized"),
        ("gptq", "quantization_config is 'gptq', wanted a JSON object"),
    ],
)
def test_checkpoints_that_nothing_runs(tmp_path: Path, quantization: Any, message: str) -> None:
    assert message in refused(checkpoint(tmp_path / "f", quantization))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_checkpoint_that_is_not_quantized_is_called_by_its_type(tmp_path: Path, dtype: Any) -> None:
    tensors = {"model.embed_tokens.weight": np.zeros((8, 4), dtype), "model.norm.weight": np.zeros(4, np.float32)}
    found = look(checkpoint(tmp_path / "f", None, tensors))
    type_ = {np.float32: "F32", np.float16: "F16"}[dtype]
    assert rows(found) == [(f"theirs/{type_}", f"checkpoint/{type_}", ["model.safetensors"])]
    (tmp_path / "f" / "model.onnx").write_bytes(b"no graph")  # whose weights may be the checkpoint's own file
    assert "model.onnx: is no ONNX graph" in refused(tmp_path / "f")


def test_a_checkpoint_of_integers_that_does_not_say_why(tmp_path: Path) -> None:
    assert "holds weights of I32, and config.json has no quantization_config" in refused(checkpoint(tmp_path, None))


def test_a_checkpoint_is_believed_by_its_tensors(tmp_path: Path) -> None:
    plain = {"model.embed_tokens.weight": np.zeros(4, np.float32)}
    folder = checkpoint(tmp_path / "f", {"quant_method": "gptq", "bits": 4}, plain)
    assert "has no tensor that is quantized, and config.json says gptq" in refused(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "model.safetensors" in refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/hostname")
    unpacked(folder / "model.safetensors")
    assert "leads out of its folder" in refused(folder)


def test_a_folder_in_the_hubs_cache_is_links(tmp_path: Path) -> None:
    blobs = checkpoint(tmp_path / "models--a--b" / "blobs", {"quant_method": "gptq", "bits": 4})
    folder = tmp_path / "models--a--b" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    assert [a.path for a in look(folder).of(Role.WEIGHTS)] == [folder / "model.safetensors"]


def test_a_checkpoint_without_its_tokenizer(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "f", {"quant_method": "gptq", "bits": 4})
    (folder / "tokenizer.json").unlink()
    assert (
        "has no tokenizer or config.json beside the weights, wanted config.json and the tokenizer's files"
        in refused(folder)
    )


# ---- ONNX


def test_graphs_of_a_folder_are_told_by_what_they_compute_in(tmp_path: Path) -> None:
    from onnx import TensorProto

    (tmp_path / "weights.data").write_bytes(bytes(64))
    graph(tmp_path / "model.onnx", dtype=TensorProto.BFLOAT16, cast=TensorProto.FLOAT)
    graph(tmp_path / "model_fp16.onnx", dtype=TensorProto.FLOAT16)
    graph(tmp_path / "model_x.onnx", op="MatMulNBits", bits=4, data="weights.data")
    graph(tmp_path / "model_y.onnx", op="MatMulNBits", bits=4)
    graph(tmp_path / "model_z.onnx", op="MatMulInteger")
    assert rows(look(companions(tmp_path))) == [
        ("theirs/fp32", "onnx/fp32", ["model.onnx"]),
        ("theirs/fp16", "onnx/fp16", ["model_fp16.onnx"]),
        ("theirs/int4-x", "onnx/int4-x", ["model_x.onnx", "weights.data"]),
        ("theirs/int4-y", "onnx/int4-y", ["model_y.onnx"]),
        ("theirs/int8", "onnx/int8", ["model_z.onnx"]),
    ]


def test_graphs_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "shared.data").write_bytes(bytes(64))
    graph(tmp_path / "decoder_model_merged_q4.onnx", inputs=("inputs_embeds", "attention_mask"), data="shared.data")
    graph(tmp_path / "embed_tokens_q4.onnx", output="inputs_embeds")
    graph(tmp_path / "vision_encoder_q4.onnx", inputs=("pixel_values",), output="image_embeds", data="shared.data")
    bundle = look(companions(tmp_path) / "decoder_model_merged_q4.onnx")
    names = ["decoder_model_merged_q4.onnx", "shared.data", "embed_tokens_q4.onnx", "vision_encoder_q4.onnx"]
    assert rows(bundle) == [("theirs/fp32", "onnx/fp32", names)]
    assert [a.kind for a in bundle.of(Role.PROJECTOR)] == ["onnx/fp32"]


def test_a_folder_of_genai(tmp_path: Path) -> None:
    graph(companions(tmp_path) / "decoder.onnx", op="MatMulNBits", bits=4, data="decoder.onnx.data")
    (tmp_path / "decoder.onnx.data").write_bytes(bytes(64))
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "decoder.onnx"}}}')
    files = ["decoder.onnx", "decoder.onnx.data", "genai_config.json"]
    assert rows(look(tmp_path)) == [("theirs/int4", "onnx-genai/int4", files)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"decoder": {"filename": "../x.onnx"}}}, "names a file outside its folder"),
        ({"model": {"decoder": {"filename": 3}}}, "model.decoder.filename is 3"),
        ({"model": {"decoder": {"session_options": {"custom_ops_library": "x.so"}}}}, "loads a library of its own"),
        ({"model": {"vision": [{"filename": "/etc/passwd"}]}}, "names a file outside its folder"),
    ],
)
def test_a_folder_of_genai_from_somebody_hostile(tmp_path: Path, config: Any, message: str) -> None:
    graph(companions(tmp_path) / "model.onnx")
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: graph(d / "model.onnx", output="hidden"), "gives 'hidden', wanted a graph that gives logits"),
        (lambda d: graph(d / "model.onnx", inputs=("input_ids", "use_cache_branch")), "takes 'use_cache_branch'"),
        (
            lambda d: graph(d / "model.onnx", inputs=("inputs_embeds",)),
            "takes embeddings, and there is no embed_tokens graph beside it",
        ),
        (lambda d: graph(d / "model.onnx", data="../w"), "names a file outside its folder"),
        (lambda d: graph(d / "model.onnx", data="gone"), "names 'gone', which is not there"),
        (lambda d: graph(d / "model.onnx", data="config.json", length=10**9), "reads up to 1000000000"),
        (lambda d: graph(d / "model.onnx", data="config.json", length=-5), "at '-5', wanted a number of bytes"),
        (lambda d: graph(d / "sub" / "model.onnx"), "has no tokenizer or config.json beside the weights"),
        (lambda d: graph(d / "other.onnx").parent, "wanted a graph called decoder_model_merged*.onnx or model*.onnx"),
    ],
)
def test_graphs_that_nothing_runs(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    assert message in refused(make(companions(tmp_path)))


# ---- anything else


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gguf", b"not one", "a.gguf: does not begin as GGUF files do, wanted a GGUF file; make or download it"),
        ("a.onnx", b"not one", "a.onnx: is no ONNX graph, or was cut short"),
        ("a.txt", b"not one", "a.txt: is not a file of a known format, wanted a GGUF file or an ONNX graph"),
        ("a.bin", b"PK\x03\x04 whatever", "is a pickle"),
        ("a.gguf", b"", "is empty"),
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is the weights of a checkpoint"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path / name)


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    assert "is an empty folder, wanted a GGUF file, or the folder of" in refused(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    assert "link: is a link to nowhere, which does not exist" in refused(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "a.txt").touch()
    assert "holds no model of a known format, only 'a.txt'" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "holds a config.json and no weights of a known format beside it" in refused(tmp_path)
    gguf_file(tmp_path / "one.gguf")
    assert "holds GGUF files: 'one.gguf', wanted one of them" in refused(tmp_path)
    (tmp_path / "model.engine").write_bytes(b"")
    assert "holds TensorRT engines" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "none")
    with pytest.raises(ValidationError, match="/dev/null is a pipe or a device"):
        refused(Path("/dev/null"))


def test_one_input_is_taken(tmp_path: Path) -> None:
    options = existing.Options(path=gguf_file(tmp_path / "m.gguf"))
    (problem,) = existing.check(options, {"source": SOURCE, "other": SOURCE})
    assert "takes from 2 stages: source, other" in str(problem)


# ---- in a recipe, and on the command line


def test_it_is_named_and_not_copied(tmp_path: Path) -> None:
    options = existing.Options(path=gguf_file(tmp_path / "m.gguf"))
    out = tmp_path / "out"
    out.mkdir()
    bundle = existing.run(options, {"source": SOURCE}, out, Silent())
    assert bundle == existing.forecast(options, {"source": SOURCE})
    assert list(out.iterdir()) == []
    assert existing.explain(options, {"source": SOURCE}) == ["m.gguf: a GGUF file of the architecture 'llama', Q8_0"]


def test_somebodys_file_beside_ours_in_a_plan(tmp_path: Path) -> None:
    tiny.tiny_qwen2(tmp_path / "tiny")
    theirs = gguf_file(tmp_path / "theirs.gguf")
    (tmp_path / "r.yaml").write_text(
        "name: both\nmodel: {path: tiny}\nstages:\n  ours: {use: gguf, types: [Q8_0]}\n"
        "  theirs: {use: existing, path: theirs.gguf}\nvalidate: {limits: {theirs: good, ours/*: near-lossless}}\n"
    )
    planned = plan(load_recipe(tmp_path / "r.yaml"), tmp_path / "out")
    assert planned.problems == ()
    steps = {step.name: step for step in planned.steps}
    labels = [row.label for row in outputs(planned.inputs(steps["validate"]))]
    assert labels == ["tiny-Q8_0.gguf", "theirs.gguf"]
    assert steps["theirs"].write_bytes == 0
    gguf_file(theirs, {"blk.0.attn_q.weight": "Q4_0"})
    changed = {step.name: step.key for step in plan(load_recipe(tmp_path / "r.yaml"), tmp_path / "out").steps}
    assert changed["theirs"] != steps["theirs"].key
    assert changed["ours"] == steps["ours"].key


def test_a_broken_file_is_a_problem_of_the_plan(tmp_path: Path) -> None:
    tiny.tiny_qwen2(tmp_path / "tiny")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    planned = plan(recipe_for(CandidateRequest([tmp_path / "m.gguf"], tmp_path / "tiny")), tmp_path / "out")
    (problem,) = map(str, planned.problems)
    assert problem.startswith(f"{tmp_path / 'm.gguf'}: ends inside its header")


def test_candidates_make_a_recipe_of_their_own(tmp_path: Path) -> None:
    first, second = gguf_file(tmp_path / "Some Model.Q8_0.gguf"), checkpoint(tmp_path / "X-GPTQ", None)
    eyes = tmp_path / "eyes.gguf"
    asked = CandidateRequest([first, second], tmp_path, eyes, [tmp_path / "t.txt"], None, 64, "good", {"kl_mean": 0.5})
    recipe = recipe_for(asked)
    assert recipe.name == "Some-Model.Q8_0"
    assert list(recipe.stages) == ["source", "Some-Model.Q8_0", "X-GPTQ", "validate"]
    by_name: Any = {name: spec.options for name, spec in recipe.stages.items()}
    assert (by_name["Some-Model.Q8_0"].path, by_name["Some-Model.Q8_0"].projector) == (first, eyes)
    assert by_name["X-GPTQ"].projector is None
    assert by_name["validate"].limits == {"*": {"preset": "good", "kl_mean": 0.5}}
    assert (by_name["validate"].tokens, by_name["validate"].text) == (64, [tmp_path / "t.txt"])
    assert recipe_for(CandidateRequest([first], tmp_path, name="n")).name == "n"


def named(recipe: Any) -> dict[str, tuple[str, str | None]]:
    """Stage -> the names of its file and its projector."""
    options = {name: spec.options for name, spec in recipe.stages.items() if name not in ("source", "validate")}
    return {name: (o.path.name, o.projector.name if o.projector else None) for name, o in options.items()}


def test_a_folder_of_gguf_files_is_its_models_with_their_projector(tmp_path: Path) -> None:
    home = tmp_path / "files"
    home.mkdir()
    for name in ("b-Q8_0", "a-Q8_0"):
        gguf_file(home / f"{name}.gguf")
    gguf_file(home / "mmproj-F16.gguf", architecture="clip")
    gguf_file(home / "imatrix.gguf", general__type="imatrix")
    split_files(home)
    (home / "z-cut.gguf").write_bytes(b"GGUF")
    models = ["a-Q8_0.gguf", "b-Q8_0.gguf", "m-Q8_0-00001-of-00002.gguf", "z-cut.gguf"]
    found = named(recipe_for(CandidateRequest([home], tmp_path)))
    assert list(found.values()) == [(name, "mmproj-F16.gguf") for name in models]
    found = named(recipe_for(CandidateRequest([home], tmp_path, home / "imatrix.gguf")))
    assert {eyes for _, eyes in found.values()} == {"imatrix.gguf"}
    gguf_file(home / "mmproj-Q8_0.gguf", architecture="clip")  # which of two is nobody's guess
    assert {eyes for _, eyes in named(recipe_for(CandidateRequest([home], tmp_path))).values()} == {None}


def test_a_candidate_named_twice_is_one(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m.gguf")
    (tmp_path / "link.gguf").symlink_to(path)
    twice = [path, tmp_path / "." / "m.gguf", tmp_path / "link.gguf", tmp_path]
    assert named(recipe_for(CandidateRequest(twice, tmp_path))) == {"m": ("m.gguf", None)}


def test_a_projector_goes_with_gguf_files_alone(tmp_path: Path) -> None:
    path, eyes = gguf_file(tmp_path / "m.gguf"), tmp_path / "eyes.gguf"
    graph, folder_ = tmp_path / "model.onnx", tmp_path / "folder"
    folder_.mkdir()
    found = named(recipe_for(CandidateRequest([path, graph, folder_], tmp_path, eyes)))
    assert [beside for _, beside in found.values()] == ["eyes.gguf", None, None]
    with pytest.raises(RecipeError, match="command line: --projector, and no candidate is a GGUF file"):
        recipe_for(CandidateRequest([graph, folder_], tmp_path, eyes))


def test_a_checkpoint_in_floats_is_run(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    """The source itself, as if it were somebody's copy: it drifts by nothing."""
    asked = CandidateRequest([folder(tiny_text)], folder(tiny_text), tokens=64)
    result = run(plan(recipe_for(asked), tmp_path / "out"))
    assert result.report is not None
    (row,) = result.report["outputs"]
    assert (row["status"], row["reason"], row["format"]) == ("passed", "", "checkpoint")
    assert row["metrics"]["kl_mean"] < 1e-12
    assert row["runtime"].startswith("transformers (")


def test_a_file_of_ours_judged_as_if_it_were_not(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    """The whole way: plan, run, report."""
    (tmp_path / "t.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    theirs = tmp_path / "theirs.gguf"
    theirs.write_bytes(weights(tiny_text, "F32").path.read_bytes())
    asked = CandidateRequest(
        [theirs], folder(tiny_text), texts=[tmp_path / "t.txt"], tokens=64, limits={"kl_mean": 0.5}
    )
    result = run(plan(recipe_for(asked), tmp_path / "out"))
    assert result.report is not None
    (row,) = result.report["outputs"]
    assert (row["label"], row["type"], row["status"], row["reason"]) == ("theirs.gguf", "F32", "passed", "")
    assert row["limits"]["kl_mean"] == {"better": "<=", "limit": 0.5, "source": "recipe", "p_worse": 0.0}
    assert row["limits"]["top1"]["source"] == "default"
    assert row["path"] == "theirs.gguf"  # not where it lies on this machine
    assert row["sha256"] == hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert run(plan(recipe_for(asked), tmp_path / "out")).ran == ()


def test_what_is_wrong_on_the_command_line_is_said_of_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"command line: .*no metric 'kl_maen'; did you mean 'kl_mean'"):
        recipe_for(CandidateRequest([tmp_path / "m"], tmp_path, limits={"kl_maen": 1}))
    with pytest.raises(RecipeError, match="no preset 'best'"):
        recipe_for(CandidateRequest([tmp_path / "m"], tmp_path, preset="best"))


def test_stages_of_candidates_have_names_that_folders_may_have() -> None:
    paths = ["a/m.gguf", "b/m.gguf", "b/m-2", "c/source", "d/ü ß.onnx", "e/x.partial", "f/" + "y" * 200, "g/..."]
    names = stage_names([Path(path) for path in paths])
    assert names[:4] == ["m", "m-2", "m-2-2", "source-2"]
    assert names[4:6] == ["candidate", "x.partial-2"]
    assert names[7] == "candidate-2"
    assert len(set(names)) == len(paths)
    assert max(map(len, names)) <= 100
