"""`fit:` of the mlx stage: sizes are kept to the byte, errors count as gradients say, and rules stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from convert import registry
from convert.bundle import Artifact, Bundle, Role
from convert.formats.mlx.fit import Open, Target, choose
from convert.formats.mlx.layout import Folder
from convert.formats.mlx.stage import STAGE
from convert.model import fisher_file
from convert.model.fisher import fisher
from convert.model.layered import Layered
from convert.model.weighing import Gradients
from convert.progress import Silent
from convert.source.checkpoint import open_checkpoint
from tests import tiny
from tests.fixtures_gptq import source_bundle


def measured(folder: Path, at: Path) -> Artifact:
    """The gradients of a tiny model at some tokens."""
    model = Layered.open(folder)
    rows = [{"input_ids": torch.randint(3, 300, (1, 24), generator=torch.Generator().manual_seed(n))} for n in (0, 1)]
    return fisher_file.save(at, fisher(model, rows), model.tensors, [], {})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    home = tmp_path_factory.mktemp("llama")
    folder = tiny.tiny_llama(home / "Tiny")
    return source_bundle(folder).with_(gradients=(measured(folder, home / "fisher.safetensors"),))


def fitted(source: Bundle, out: Path, **words: Any) -> tuple[Bundle, Path]:
    out.mkdir(parents=True)
    bundle = STAGE.run(STAGE.Options(**words), {"source": source}, out, Silent())
    return bundle, bundle.of(Role.WEIGHTS)[0].path.parent


@pytest.mark.parametrize("target", [{"bits": 4.5}, {"bits": 3}, {"file": 60_000}, {"file": "95kB"}])
def test_no_byte_more_than_asked_for_and_little_less(llama: Bundle, tmp_path: Path, target: dict[str, Any]) -> None:
    bundle, folder = fitted(llama, tmp_path / "out", fit=target)
    size = (folder / "model.safetensors").stat().st_size
    report = json.loads(bundle.of(Role.FIT)[0].path.read_bytes())
    data = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]
    assert data["total_size"] == report["bytes"] <= report["budget"]
    assert (
        report["bytes"] > 0.97 * report["budget"]
    )  # a step of the embedding is several hundredths of so small a model
    if "bits" in target:
        assert 8 * report["bytes"] / data["total_parameters"] <= target["bits"]
    else:
        assert size <= STAGE.Options(fit=target).fit.target.file
    forecast = STAGE.forecast(STAGE.Options(fit=target), {"source": llama}).of(Role.WEIGHTS)[0]
    assert report["bytes"] <= forecast.size <= report["budget"]
    (output,) = registry.outputs("mlx", bundle)
    assert output.fit is not None
    assert folder.name == f"Tiny-{STAGE.Options(fit=target).fit.target.label}" == f"Tiny-{output.weights.type}"


def test_a_module_says_its_layout_where_it_is_not_the_usual_one(llama: Bundle, tmp_path: Path) -> None:
    rule = {"q_proj$": {"bits": 8, "group_size": 64}, "lm_head": False}
    bundle, folder = fitted(llama, tmp_path / "out", fit={"bits": 6}, overrides=rule)
    words = json.loads((folder / "config.json").read_text())["quantization"]
    chosen = {
        m["name"].removesuffix(".weight"): m["type"]
        for m in json.loads(bundle.of(Role.FIT)[0].path.read_bytes())["matrices"]
    }
    assert chosen
    assert not any(name.endswith(("q_proj", "lm_head")) for name in chosen)
    assert words["model.layers.0.self_attn.q_proj"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    for name, kind in chosen.items():
        said = words.get(name, {word: words[word] for word in ("group_size", "bits", "mode")})
        assert kind in {f"{said['bits']} bits in {said['group_size']}s", "F32", "BF16", "F16"}


def opened(source: Bundle, bits: float) -> Open:
    folder = source.of(Role.CONFIG)[0].path.parent
    return Open.of(Folder(open_checkpoint(folder), STAGE.Options(fit={"bits": bits}).scheme), None)


def test_more_bytes_cost_less(llama: Bundle) -> None:
    costs = [choose(opened(llama, b), Target(bits=b), llama, Silent()).report["predicted"] for b in (3.5, 4.5, 6.0)]
    assert costs[0] > costs[1] > costs[2] > 0


def test_what_counts_more_gets_more_bits(llama: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "model.layers.0.mlp.down_proj"
    before = choose(opened(llama, 4), Target(bits=4), llama, Silent()).layouts[module]
    gradients = Gradients.of(llama)
    assert gradients is not None
    gradients.fisher.matrices[f"{module}.weight"].rows[:] *= 1e6
    monkeypatch.setattr(Gradients, "of", lambda source: gradients)
    after = choose(opened(llama, 4), Target(bits=4), llama, Silent()).layouts[module]
    assert before is not None
    assert after is None or after.bits > before.bits


def test_experts_and_a_head_that_is_the_embedding_have_gradients(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen3_moe(tmp_path / "tiny")
    path = tmp_path / "fisher.safetensors"
    source = source_bundle(folder).with_(gradients=(measured(folder, path),))
    gradients = Gradients.of(source)
    assert gradients is not None
    packed = gradients.fisher.matrices["model.layers.0.mlp.experts.gate_up_proj"]
    half = packed.rows.shape[1] // 2
    for word, rows in (("gate_proj", packed.rows[:, :half]), ("up_proj", packed.rows[:, half:])):
        one = gradients.matrix(f"model.layers.0.mlp.experts.1.{word}.weight")
        assert one is not None
        assert one.rows is not None
        assert np.array_equal(one.rows, rows[1:2])
        assert np.array_equal(one.squares, packed.squares[1:2])
    assert gradients.matrix("model.layers.9.mlp.experts.1.up_proj.weight") is None
    made = STAGE.check(STAGE.Options(fit={"bits": 5}), {"source": source})
    assert not made
    chosen = choose(
        Open.of(Folder(open_checkpoint(folder), STAGE.Options(fit={"bits": 5}).scheme), None),
        Target(bits=5),
        source,
        Silent(),
    )
    assert any("switch_mlp" in module for module in chosen.layouts)


@pytest.mark.parametrize(
    ("words", "got"),
    [
        ({"fit": {}}, "no size"),
        ({"fit": {"bits": 4, "file": "1GB"}}, "file and bits"),
        ({"fit": {"bits": 4}, "bits": 4}, "fit chooses bits, and bits too"),
        ({"fit": {"bits": 4}, "method": "plain"}, "method too"),
        ({"fit": {"file": "many"}}, "'many' is not an amount of memory"),
    ],
)
def test_words_that_do_not_go_together(words: dict[str, Any], got: str) -> None:
    with pytest.raises(ValidationError, match=got):
        STAGE.Options(**words)


def test_a_size_below_the_smallest_names_who_holds_its_bytes(llama: Bundle) -> None:
    (problem,) = STAGE.check(STAGE.Options(fit={"file": 9000}), {"source": llama})
    assert "the smallest there is takes" in str(problem)
    assert "embed_tokens.weight" in str(problem)


def test_without_gradients_it_is_said_that_costs_are_guessed(tmp_path: Path) -> None:
    said: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    source = source_bundle(tiny.tiny_llama(tmp_path / "Tiny"))
    choose(opened(source, 4), Target(bits=4), source, Told())
    assert any("costs are guessed" in text for text in said)
