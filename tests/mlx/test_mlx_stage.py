"""The mlx stage: what lies in its folder, what is forecast of it, and what is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from convert import registry
from convert.bundle import Role
from convert.formats.mlx import FORMAT
from convert.formats.mlx.stage import STAGE
from convert.source.checkpoint import open_checkpoint, open_tensors
from quantize.mlx import decode
from quantize.mlx_layout import Encoded, Layout
from tests import tiny
from tests.fixtures_gptq import NANO, source_bundle
from tests.fixtures_mlx import made, stored
from tests.hostile import edit_config

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama") / "Tiny")


def problems(source: Path, **words: Any) -> list[str]:
    return [str(problem) for problem in STAGE.check(STAGE.Options(**words), {"source": source_bundle(source)})]


def decoded(tensors: dict[str, Any], module: str, layout: Layout) -> np.ndarray:
    weight = tensors[f"{module}.weight"].numpy().view(np.uint32)
    scales, biases = (tensors[f"{module}.{part}"].float().numpy() for part in ("scales", "biases"))
    return decode(Encoded(weight, scales, biases), layout)


def test_what_lies_in_the_folder(llama: Path, tmp_path: Path) -> None:
    """Weights with their index, config.json in MLX's words, the tokenizer's files as they were; sizes as forecast."""
    bundle, folder = made(llama, tmp_path / "out", group_size=32)
    assert folder.name == "Tiny-4bit-g32"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"} <= names
    assert (folder / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    header = json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    assert header["__metadata__"] == {"format": "mlx"}
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"} == config["quantization_config"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = stored(folder)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(np.prod(t.shape) for t in open_tensors(llama).values())
    forecast = STAGE.forecast(STAGE.Options(group_size=32), {"source": source_bundle(llama)})
    wanted, found = (b.of(Role.WEIGHTS)[0] for b in (forecast, bundle))
    assert wanted.kind == found.kind == "mlx/4bit-g32"
    assert 0 <= found.size - wanted.size < 16384  # the header
    (output,) = registry.outputs("mlx", bundle)
    assert [file.path.name for file in output.files] == ["model.safetensors", "model.safetensors.index.json"]
    released = FORMAT.release(output, folder.parent)
    assert released.suffix == "-4bit-g32"
    assert {"config.json", "tokenizer.json"} <= released.files.keys()


def test_what_is_quantized_and_what_is_kept(llama: Path, tmp_path: Path) -> None:
    """Every matrix and the embedding; norms have the source's bytes; what is decoded is near the source."""
    _, folder = made(llama, tmp_path / "out", bits=8, group_size=32)
    tensors, source = stored(folder), {n: torch.from_numpy(_wide(t)) for n, t in open_tensors(llama).items()}
    for name, own in source.items():
        module = name.removesuffix(".weight")
        if own.ndim == 1:
            assert torch.equal(tensors[name].float(), own)
            continue
        off = decoded(tensors, module, Layout("affine", 8, 32)) - own.numpy()
        assert np.abs(off).max() < 0.01 * own.abs().max()
        assert tensors[f"{module}.scales"].dtype == torch.bfloat16


def _wide(tensor: Any) -> np.ndarray:
    from quantize.floats import to_float32

    return np.array(to_float32(np.ascontiguousarray(tensor.load())))


def test_equal_inputs_give_equal_bytes_and_a_search_less_error(llama: Path, tmp_path: Path) -> None:
    files = [made(llama, tmp_path / f"{i}", bits=3, group_size=32)[1] / "model.safetensors" for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    plain = stored(made(llama, tmp_path / "plain", bits=3, group_size=32, method="plain")[1])
    source, layout = open_tensors(llama), Layout("affine", 3, 32)
    module = "model.layers.0.mlp.down_proj"
    own = _wide(source[f"{module}.weight"])
    errors = [np.square(decoded(one, module, layout) - own).sum() for one in (stored(files[0].parent), plain)]
    assert errors[0] < 0.9 * errors[1]


def test_overrides_by_pattern(llama: Path, tmp_path: Path) -> None:
    """The first that matches counts; false leaves a module as it is; config.json says each."""
    words = {r"embed_tokens|lm_head": {"bits": 6}, r"layers\.0\.mlp\.down": False, r"mlp": {"mode": "mxfp8"}}
    _, folder = made(llama, tmp_path / "out", group_size=32, overrides=words)
    said, tensors = json.loads((folder / "config.json").read_text())["quantization"], stored(folder)
    assert said["model.embed_tokens"] == {"group_size": 32, "bits": 6, "mode": "affine"}
    assert said["model.layers.1.mlp.down_proj"] == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    assert "model.layers.0.mlp.down_proj.scales" not in tensors
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    assert tensors["model.layers.1.mlp.down_proj.scales"].dtype == torch.uint8
    assert "model.layers.1.mlp.down_proj.biases" not in tensors
    assert "model.layers.0.self_attn.q_proj" not in said


def test_dtype_of_what_is_not_quantized(llama: Path, tmp_path: Path) -> None:
    tensors = stored(made(llama, tmp_path / "out", group_size=32, dtype="float16")[1])
    assert tensors["model.norm.weight"].dtype == tensors["model.layers.0.mlp.up_proj.scales"].dtype == torch.float16


def test_experts_are_stacked_and_routers_have_eight_bits(tmp_path: Path) -> None:
    source = tiny.tiny_qwen3_moe(tmp_path / "Tiny")
    _, folder = made(source, tmp_path / "out", bits=8, group_size=32, method="plain")
    tensors = stored(folder)
    stack = decoded_stack(tensors, "model.layers.0.mlp.switch_mlp.down_proj")
    own = open_tensors(source)
    for number, matrix in enumerate(stack):
        wanted = _wide(own[f"model.layers.0.mlp.experts.{number}.down_proj.weight"])
        assert np.abs(matrix - wanted).max() < 0.01 * np.abs(wanted).max()
    assert not any(".experts." in name for name in tensors)
    assert json.loads((folder / "config.json").read_text())["quantization"]["model.layers.0.mlp.gate"]["bits"] == 8


def decoded_stack(tensors: dict[str, Any], module: str) -> np.ndarray:
    parts = [tensors[f"{module}.{word}"] for word in ("weight", "scales", "biases")]
    flat = [part.reshape(-1, part.shape[-1]) for part in parts]
    named = dict(zip((f"x.{word}" for word in ("weight", "scales", "biases")), flat, strict=True))
    return decoded(named, "x", Layout("affine", 8, 32)).reshape(*parts[0].shape[:2], -1)


def test_a_model_that_sees_is_laid_out_as_mlx_vlm_has_it(tmp_path: Path) -> None:
    """The tower under its own name with the source's bytes, patches channels last; the text model within."""
    bundle, folder = made(NANO, tmp_path / "out")
    tensors, own = stored(folder), open_tensors(NANO)
    assert tensors.keys() >= {"language_model.model.embed_tokens.scales", "language_model.lm_head.scales"}
    assert not any(name.startswith(("visual.", "model.", "lm_head")) for name in tensors)
    tower = {name for name in tensors if name.startswith("vision_tower.")}
    assert tower == {name.replace("visual.", "vision_tower.") for name in own if name.startswith("visual.")}
    patches = tensors["vision_tower.patch_embed.proj.weight"].float().numpy()
    assert (patches == _wide(own["visual.patch_embed.proj.weight"]).transpose(0, 2, 3, 4, 1)).all()
    assert (folder / "preprocessor_config.json").is_file()
    assert json.loads((folder / "config.json").read_text())["vision_config"]["depth"] == 4
    (output,) = registry.outputs("mlx", bundle)
    assert "mlx-vlm" in output.text_only


def test_older_words_of_rotary_positions_are_said(llama: Path, tmp_path: Path) -> None:
    """transformers 5 writes `rope_parameters`, of which mlx-lm's llama knows nothing: it would take its own base."""
    source = Path(shutil.copytree(llama, tmp_path / "Tiny"))
    params = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    edit_config(source, rope_parameters=params, rope_theta=None, torch_dtype="bfloat16")
    config = json.loads((made(source, tmp_path / "out", group_size=32)[1] / "config.json").read_text())
    assert config["rope_theta"] == 5e5
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_the_tensors_of_an_output_beside_the_sources(tmp_path: Path) -> None:
    source = tiny.tiny_qwen3_moe(tmp_path / "Tiny")
    bundle, folder = made(source, tmp_path / "out", group_size=32)
    (output,) = registry.outputs("mlx", bundle)
    seen = 0
    for pair in FORMAT.tensor_pairs(output, source):
        for mine, wanted in pair.pieces(1):
            assert mine.shape == wanted.shape
            assert np.abs(mine - wanted).max() <= 0.2 * np.abs(wanted).max()
        seen += pair.size
    assert seen == sum(np.prod(t.shape) for t in open_tensors(source).values())
    assert all(number.got == number.wanted for number in FORMAT.hyperparameters(output, source))
    (folder / "model.safetensors.index.json").unlink()
    found = FORMAT.recognize(folder, None)
    assert found is not None
    assert found.weights[0].kind == "mlx/4bit-g32"


def test_a_damaged_tensor_is_seen(llama: Path, tmp_path: Path) -> None:
    """One scale of another matrix: its pair is off, the others are not."""
    from safetensors.torch import save_file

    bundle, folder = made(llama, tmp_path / "out", bits=8, group_size=32)
    tensors = {name: tensor.clone() for name, tensor in stored(folder).items()}
    tensors["model.layers.1.mlp.up_proj.scales"] *= 3
    save_file(tensors, folder / "model.safetensors", {"format": "mlx"})
    (output,) = registry.outputs("mlx", bundle)
    off = {
        pair.name
        for pair in FORMAT.tensor_pairs(output, llama)
        for mine, wanted in pair.pieces(1)
        if np.abs(mine - wanted).max() > 0.05 * np.abs(wanted).max()
    }
    assert off == {"model.layers.1.mlp.up_proj.weight"}


def test_by_the_importance_and_the_gram_matrices_of_a_calibration(llama: Path, tmp_path: Path) -> None:
    """Outputs of a layer differ less: with importance than without, with Gram matrices than with importance."""
    from convert.formats.gguf.calibration_stage import STAGE as calibration
    from convert.progress import Silent

    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i % 97} and {i % 31}" for i in range(4000)))
    out = tmp_path / "statistics"
    out.mkdir()
    asked = calibration.Options(text=text, samples=8, length=64, threads=1)
    measured = calibration.run(asked, {"source": source_bundle(llama)}, out, Silent())
    (tmp_path / "mlx").mkdir()
    notes = Noting()
    bundle = STAGE.run(STAGE.Options(bits=3, group_size=32, threads=1), {"cal": measured}, tmp_path / "mlx", notes)
    assert "from Gram matrices" in notes.said[-1]
    plain = stored(made(llama, tmp_path / "plain", bits=3, group_size=32, method="plain")[1])
    found = stored(bundle.of(Role.WEIGHTS)[0].path.parent)
    module, layout = "model.layers.1.mlp.down_proj", Layout("affine", 3, 32)
    gram = _gram(measured, module)
    own = _wide(open_tensors(llama)[f"{module}.weight"])
    losses = []
    for one in (found, plain):
        off = decoded(one, module, layout) - own
        losses.append(float(np.trace(off @ gram @ off.T)))
    assert losses[0] < 0.5 * losses[1]
    assert not bundle.of(Role.STATISTICS)


class Noting:
    """A progress that keeps what is noted."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, label: str, total: int, unit: str = "") -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def _gram(measured: Any, module: str) -> np.ndarray:
    from convert.model.statistics import Statistics

    inputs = Statistics.of(measured).load(".".join(module.split(".")[:3])).found[f"{module}.weight"]
    return np.asarray(inputs.gram().numpy())


# ---- refused


def test_what_is_refused_before_anything_is_written(llama: Path, tmp_path: Path) -> None:
    assert problems(llama, group_size=32) == []
    assert "matches no module" in problems(llama, group_size=32, overrides={"nothing_like_it": {"bits": 8}})[0]
    odd = Path(shutil.copytree(llama, tmp_path / "odd"))
    edit_config(odd, model_type="bamba")
    assert "no MLX model of the type" in problems(odd)[0]
    assert "model_type" not in problems(odd)[0]
    wide = problems(llama, group_size=128, mixed="mixed_3_6")
    assert wide == [] or "groups of 128" in wide[0]


def test_a_number_that_is_not_finite(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from convert.errors import InputError

    source = tiny.tiny_llama(tmp_path / "Tiny", shards=1)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj.weight: holds numbers that are not finite"):
        made(source, tmp_path / "out", group_size=32)


@pytest.mark.parametrize(
    "words",
    [
        {"bits": 7},
        {"mode": "mxfp4", "bits": 8},
        {"mode": "nvfp4", "group_size": 64},
        {"mixed": "mixed_3_6", "bits": 4},
        {"group_size": 16},
        {"overrides": {"(": {"bits": 4}}},
        {"overrides": {"x": {"mode": "mxfp4", "bits": 6}}},
    ],
)
def test_options_that_mean_nothing(words: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        STAGE.Options(**words)


def test_a_checkpoint_without_one_of_its_experts(tmp_path: Path) -> None:
    from dataclasses import replace

    from convert.errors import InputError
    from convert.formats.mlx.layout import Folder, Scheme

    found = open_checkpoint(tiny.tiny_qwen3_moe(tmp_path / "Tiny"))
    lacking = {n: t for n, t in found.tensors.items() if ".experts.3.up_proj" not in n}
    with pytest.raises(InputError, match=r"lacks .3. of its"):
        Folder(replace(found, tensors=lacking), Scheme()).check()
