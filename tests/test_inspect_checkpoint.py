"""`convert inspect` of a checkpoint: what it is, and what each stage says it would make of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result

from convert import registry
from convert.bundle import Role
from convert.cli import main
from convert.formats.gguf.preview import USUAL, plain_types
from convert.inspection.checkpoint import CheckpointInspection, inspect_checkpoint
from convert.inspection.checkpoint_ref import is_checkpoint, options_for
from convert.inspection.preview import Preview, Reference, preview, questions
from convert.plan import plan
from convert.recipe import recipe_of
from convert.source.checkpoint import open_checkpoint
from quantize.mixes import MIXES
from tests import processes, tiny
from tests.hostile import BROKEN, edit_config, edit_header, split
from tests.peer_quantize import ONLY_WEIGHTED

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VISION_TENSORS = ("visual.", "model.visual.")


@pytest.fixture(scope="module")
def vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for groups of 128, and a context that calibration rows fit into."""
    folder = tmp_path_factory.mktemp("models") / "tiny-vl"
    folder.mkdir()
    return tiny.tiny_qwen2_5_vl(folder, hidden=128)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_qwen3_moe(tmp_path_factory.mktemp("moe"), experts=8, used=2, expert_ffn=96)


def about(folder: Path) -> CheckpointInspection:
    return inspect_checkpoint(options_for(folder))[0]


def asked(folder: Path, *, quick: bool = True, every: bool = False) -> dict[str, Preview]:
    found, bundle = inspect_checkpoint(options_for(folder))
    told = preview(found, bundle, quick=quick, every=every)
    return {f"{t.stage} {t.words}".strip(): t for t in told if isinstance(t, Preview)}


def convert(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def shapes(folder: Path) -> dict[str, int]:
    from math import prod

    from convert.source.safetensors import read_header

    return {e.name: prod(e.shape) for e in read_header(folder / "model.safetensors").entries}


# ---- what it is


def test_a_model_that_sees(vl: Path) -> None:
    found = about(vl)
    counts = shapes(vl)
    vision = sum(count for name, count in counts.items() if name.startswith(VISION_TENSORS))
    assert (found.family, found.title, found.model_type) == ("qwen2_5_vl", "Qwen2.5-VL", "qwen2_5_vl")
    assert found.classes == ("Qwen2_5_VLForConditionalGeneration",)
    shape = found.shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.context) == (2, 128, 2, 1, 512)
    assert found.parameters is not None
    assert (found.parameters.vision, found.parameters.text) == (vision, sum(counts.values()) - vision)
    assert vision > 0
    assert found.parameters.active == found.parameters.text
    assert found.tokenizer is not None
    assert (found.tokenizer.kind, found.tokenizer.pre, found.tokenizer.tokens) == ("byte-level BPE", "qwen2", 496)
    assert (shape.vocabulary, found.chat_templates) == (512, {"default": len(tiny.CHATML)})
    assert (found.format, found.files, [t.type for t in found.types]) == ("safetensors", 1, ["BF16"])
    assert not found.unread
    assert not found.problems


def test_experts_count_where_a_token_meets_them(moe: Path) -> None:
    found = about(moe)
    counts = shapes(moe)
    experts = sum(count for name, count in counts.items() if ".experts." in name)
    assert experts > 0
    assert found.parameters is not None
    assert found.parameters.text == sum(counts.values())
    assert found.parameters.active == sum(counts.values()) - experts * 6 // 8
    assert (found.shape.experts, found.shape.experts_used) == (8, 2)
    assert "8 experts, 2 for a token" in "\n".join(found.lines())
    layers = f"{found.shape.layers} x (q, k, v, o, router, experts' gate, experts' up, experts' down)"
    assert f"  matrices     {layers}" in list(found.lines())


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    whole = about(tiny.tiny_llama(tmp_path))
    split(tmp_path)
    found = about(tmp_path)
    assert found.files == 2
    assert (found.parameters, found.types) == (whole.parameters, whole.types)
    assert found.tokenizer is not None
    assert found.tokenizer.kind == "sentencepiece BPE"


def test_pickles_are_not_opened_and_promise_what_the_config_says(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    whole = about(tiny.tiny_llama(tmp_path))
    sizes = [output.size for output in asked(tmp_path)["gguf"].outputs]
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    found = about(tmp_path)
    assert (found.format, found.files, found.types) == ("pickles", 1, ())
    assert found.parameters == whole.parameters
    assert [output.size for output in asked(tmp_path)["gguf"].outputs] == sizes


def test_an_unknown_family_has_the_numbers_of_its_config(tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path)
    edit_config(tmp_path, architectures=["LlamaNextForCausalLM"], model_type="llama_next")
    found, told = about(tmp_path), asked(tmp_path)
    assert (found.family, found.shape.layers, found.shape.heads, found.shape.context) == ("", 2, 4, 512)
    assert found.parameters is not None
    assert found.parameters.text == sum(shapes(tmp_path).values())
    assert found.tokenizer is not None
    (said,) = told["gguf"].problems
    assert "not supported: model_type 'llama_next' (LlamaNextForCausalLM); every tensor and every key of" in said
    assert "its config fits llama; `as: llama` under `model:`" in said
    assert told["fp8"].problems == told["gguf"].problems


def test_an_unknown_family_hears_what_the_nearest_would_have_to_be_taught(tmp_path: Path) -> None:
    tiny.tiny_qwen3_moe(tmp_path)
    edit_config(tmp_path, architectures=["OtherForCausalLM"], model_type="other")
    near = about(tmp_path).nearest
    assert near is not None
    assert (near.family, near.unknown, near.lacking) == ("qwen3_moe", (), ())

    def rename(header: dict[str, Any]) -> None:
        for name in [name for name in header if "q_norm" in name]:
            header[name.replace("q_norm", "query_norm")] = header.pop(name)

    edit_header(tmp_path, rename)
    said = "\n".join(about(tmp_path).lines())
    assert f"nearest is qwen3_moe, which takes {near.kinds - 1} of {near.kinds} kinds of tensors, all but" in said
    assert "model.layers.{i}.self_attn.query_norm.weight" in said
    assert "it also needs model.layers.{i}.self_attn.q_norm.weight" in said


def test_a_tensor_that_the_nearest_has_in_another_shape_is_told_with_both(tmp_path: Path) -> None:
    tiny.tiny_qwen3(tmp_path)
    edit_config(tmp_path, architectures=["OtherForCausalLM"], model_type="other", intermediate_size=96)
    near = about(tmp_path).nearest
    assert near is not None
    assert "model.layers.{i}.mlp.up_proj.weight (128x64, not 96x64)" in near.unknown


def test_tensors_like_no_familys_have_no_nearest(tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path)
    edit_config(tmp_path, architectures=["OtherForCausalLM"])

    def rename(header: dict[str, Any]) -> None:
        for name in [name for name in header if name != "__metadata__"]:
            header[f"x.{name}"] = header.pop(name)

    edit_header(tmp_path, rename)
    found = about(tmp_path)
    assert found.nearest is None
    assert not found.problems
    assert "not supported\n" in "\n".join(found.lines())
    (tmp_path / "model.safetensors").unlink()
    assert about(tmp_path).nearest is None


def test_what_is_left_of_a_folder_without_weights(tmp_path: Path) -> None:
    (tiny.tiny_qwen3(tmp_path) / "model.safetensors").unlink()
    found, bundle = inspect_checkpoint(options_for(tmp_path))
    assert bundle is None
    assert list(preview(found, bundle)) == []
    assert (found.family, found.shape.layers, found.parameters) == ("qwen3", 2, None)
    assert found.tokenizer is not None
    assert found.tokenizer.pre == "qwen2"
    result = convert("inspect", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
    assert "has no weights" in result.stderr


# ---- what stages would make of it


def test_every_stage_is_asked_or_makes_nothing() -> None:
    others = {"gguf_lora", "checkpoint", "calibration"}  # of an adapter, of a GGUF file, for other stages
    assert sorted({*(one.stage for one in questions(512)), *registry.OWN, *others}) == registry.names()


def test_it_says_what_a_plan_says(vl: Path, tmp_path: Path) -> None:
    """File by file, for the stages that import nothing large."""
    takes = {word for found in registry.formats() if found.supports(open_checkpoint(vl)).yes for word in found.stages}
    wanted = [one for one in questions(512) if not one.slow and one.stage in takes]
    words = {f"{one.stage}-{n}": {"use": one.stage, **one.options} for n, one in enumerate(wanted)}
    made = plan(recipe_of({"name": "r", "model": {"path": str(vl)}, "stages": words}, tmp_path / "r.yaml"), tmp_path)
    assert not made.problems
    planned = {step.spec.use: step for step in made.steps}
    told = asked(vl)
    assert [o.name for o in told["gguf"].outputs] == [*USUAL, "mmproj F16"]
    for name, said in ((name, said) for name, said in told.items() if name in takes):
        bundle = planned[name].bundle
        assert bundle is not None
        files = [a for role in (Role.WEIGHTS, Role.PROJECTOR, Role.IMATRIX) for a in bundle.of(role)]
        mine = [a.size for a in files if a.path.is_relative_to(planned[name].out)]
        assert [output.size for output in said.outputs] == mine, name


def test_bits_are_of_the_weights_in_the_file(vl: Path) -> None:
    found, told = about(vl), asked(vl)
    assert found.parameters is not None
    by_name = {output.name: output for output in told["gguf"].outputs}
    assert by_name["Q8_0"].bits_per_weight == pytest.approx(8 * by_name["Q8_0"].size / found.parameters.text)
    assert by_name["mmproj F16"].bits_per_weight is None
    both = found.parameters.text + found.parameters.vision
    (fp8,) = told["fp8"].outputs
    assert fp8.bits_per_weight == pytest.approx(8 * fp8.size / both)


def test_graphs_are_told_last_and_with_the_vision_encoder(vl: Path) -> None:
    told = asked(vl, quick=False)
    assert list(told)[-4:] == ["onnx", "onnx genai", "openvino", "tensorrt"]
    assert [output.name for output in told["onnx"].outputs] == ["fp32", "fp16", "int8", "int4", "q4f16"]
    sizes = [output.size for output in told["onnx"].outputs]
    assert sizes == sorted(sizes, reverse=True)


def test_what_a_stage_cannot_do_is_its_own_word(moe: Path) -> None:
    told = asked(moe)
    assert told["gguf"].outputs
    assert not told["gptq"].outputs
    assert told["gptq"].problems[0].startswith("model.layers.0.mlp.experts.0.down_proj.weight: has 96 input columns")


def test_a_stage_without_its_packages_says_which(vl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("gptq"), "NEEDS", {"no_such_module": "gptq"})
    (said,) = asked(vl)["gptq"].problems
    assert said == "needs no_such_module, not installed; pip install 'convert-quantize-validate[gptq]'"


def test_every_type_that_needs_no_importance_matrix_is_shown_when_asked(vl: Path) -> None:
    assert set(plain_types()) == set(MIXES) - set(ONLY_WEIGHTED)
    told = asked(vl, every=True)["gguf"]
    assert [output.name for output in told.outputs[:-1]] == list(plain_types())


def test_the_reference_that_does_not_fit_says_so(vl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from validate import memory

    monkeypatch.setattr(memory, "total_bytes", lambda: 1000)
    found, bundle = inspect_checkpoint(options_for(vl))
    first = next(iter(preview(found, bundle, quick=True)))
    assert isinstance(first, Reference)
    assert first.float32 == 4 * sum(shapes(vl).values())
    assert "run it on a machine with more" in "\n".join(first.lines())


# ---- where it is


@pytest.fixture
def cached(vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the hub's cache, its files links to blobs; gives the snapshot."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--org--Tiny-VL"
    (home / "refs").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in vl.iterdir():
        shutil.copyfile(path, home / "blobs" / path.name)
        (snapshot / path.name).symlink_to(home / "blobs" / path.name)
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("words", ["org/Tiny-VL", "org/Tiny-VL@main", f"org/Tiny-VL@{COMMIT}"])
def test_a_model_of_the_hub_by_name(cached: Path, words: str) -> None:
    assert is_checkpoint(Path(words))
    found = about(Path(words))
    assert (found.hub, found.revision, found.name, found.path) == ("org/Tiny-VL", COMMIT, "Tiny-VL", str(cached))
    assert found.parameters is not None


def test_a_model_of_the_hub_by_its_folders(cached: Path) -> None:
    for place in (cached, cached / "config.json", cached.parent.parent):
        assert is_checkpoint(place)
        found = about(place)
        assert (found.name, found.path, found.problems) == ("Tiny-VL", str(cached), ())


def test_a_model_that_is_not_in_the_cache_says_how_to_get_it(cached: Path) -> None:
    result = convert("inspect", "org/Other")
    assert result.exit_code == 1
    assert "hf download org/Other --revision main" in result.stderr


@pytest.mark.parametrize("name", ["nothing", "nothing.gguf", "org/x.safetensors", "../x", "a/b/c"])
def test_other_names_are_of_files(cached: Path, name: str) -> None:
    assert not is_checkpoint(Path(name))
    assert "does not exist, wanted" in convert("inspect", name).stderr


# ---- the command


def test_json_is_one_object(vl: Path) -> None:
    result = convert("inspect", "--json", "--quick", vl)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["family"] == "qwen2_5_vl"
    assert said["parameters"]["vision"] > 0
    assert said["reference"]["float32"] > said["reference"]["least"]
    assert [stage["stage"] for stage in said["stages"]][:5] == ["gguf", "imatrix", "mlx", "gptq", "awq"]
    assert said["stages"][0]["outputs"][0]["name"] == "F16"


def test_verbose_tells_the_stages_own_words(vl: Path) -> None:
    plain, verbose = (convert("inspect", "--quick", *words, vl).stdout for words in ((), ("-v",)))
    assert "all other weights" in verbose
    assert "all other weights" not in plain
    assert len(plain.splitlines()) < 30


def test_a_problem_is_spelled_out_once(moe: Path) -> None:
    said = convert("inspect", "--quick", moe).stdout
    assert said.count("96 input columns, which is not a multiple of group_size 128") == 1
    assert "  awq          not possible, for the same reason as gptq\n" in said


def test_quick_imports_nothing_large(vl: Path) -> None:
    code = (
        "import sys\nfrom convert.cli import main\n"
        "try: main(['inspect', '--quick', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'numba', 'onnx'} & set(sys.modules)"
    )
    done = processes.run([sys.executable, "-c", code, str(vl)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Q4_K_M" in done.stdout


# ---- strangers


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_what_is_broken_is_told_and_nothing_is_run(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    BROKEN[case](tiny.tiny_llama(folder))
    result = convert("inspect", "--quick", folder)
    told = result.stdout + result.stderr
    refused = "error: " in result.stderr
    assert result.exit_code == (1 if refused else 0)
    assert refused or "not possible: " in result.stdout
    assert "Traceback" not in told
    assert all(line.isprintable() for line in told.splitlines())


WORDS_OF_STRANGERS: tuple[dict[str, Any], ...] = (
    {"model_type": "\x1b[2J" * 999, "architectures": ["\x1b[2J"] * 999},
    {"model_type": {"a": [1]}, "architectures": {"a": 1}},
    {"architectures": ["Unknown"], "num_hidden_layers": -1, "vocab_size": 10**30, "text_config": [1]},
    {"architectures": ["Unknown"], "num_hidden_layers": [2, "x", 3], "text_config": {"hidden_size": True}},
    {"vocab_size": 10**9, "num_hidden_layers": 10**9},
    {"num_attention_heads": 0, "hidden_size": "x"},
)


@pytest.mark.parametrize("number", range(len(WORDS_OF_STRANGERS)))
def test_a_strangers_config_moves_no_cursor(number: int, tmp_path: Path) -> None:
    tiny.tiny_llama(tmp_path)
    edit_config(tmp_path, **WORDS_OF_STRANGERS[number])
    result = convert("inspect", "--quick", tmp_path)
    assert "not possible: " in result.stdout
    assert all(line.isprintable() and len(line) < 2000 for line in result.output.splitlines())


def test_a_broken_tokenizer_leaves_the_rest(tmp_path: Path) -> None:
    tiny.tiny_qwen2(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    found = about(tmp_path)
    assert (found.tokenizer, found.shape.layers) == (None, 2)
    assert "tokenizer.json:1" in found.unread[0]
    assert "tokenizer.json:1" in asked(tmp_path)["gguf"].problems[0]
