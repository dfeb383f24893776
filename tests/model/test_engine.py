"""Quantized folders that do not fit as a whole: loaded again and measured one layer at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from convert.bundle import Bundle
from convert.formats.compressed import reload
from convert.formats.compressed.fp8_stage import STAGE as fp8
from convert.model import engine
from tests.fixtures_gptq import NANO, source_bundle
from tests.test_compressed_stage import preset, written
from validate import memory
from validate.runtimes import gptqmodel
from validate.runtimes.base import Ability

SCHEMES = ("FP8_TENSOR", "W4A16", "W8A16")


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free for use is less than the demo model as float32."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 20)
    monkeypatch.setattr(memory, "total_bytes", lambda: 1 << 20)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_reads_what_the_loader_reads(scheme: str, tmp_path: Path) -> None:
    folder = written(NANO, tmp_path / "made", preset(scheme))
    tokens = list(range(40, 72))

    assert engine.is_needed(folder)
    with engine.RUNTIME.open(folder / "model.safetensors") as session:
        found = next(session.logits_of([tokens]))
        able = [ability for ability in Ability if session.can(ability)]
        assert session.speed(tokens).decode_tokens_per_second is None
    with gptqmodel.GptqModelSession(folder, threads=1) as whole:
        wanted = whole.logits(tokens)

    assert Ability.GENERATE not in able
    # the loader rounds what goes into matrices where the scheme says so
    apart, limit = np.abs(found - wanted), 0.05 if scheme == "FP8_TENSOR" else 1e-4
    assert apart.mean() <= limit * wanted.std()


@pytest.mark.usefixtures("small_machine")
def test_a_folder_loaded_again_by_layers_is_looked_at_as_closely(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = written(NANO, tmp_path / "made", preset("W8A16"))
    for file in (*NANO.glob("*processor*"), *NANO.glob("chat_template*"), NANO / "tokenizer_config.json"):
        shutil.copyfile(file, folder / file.name)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    matrices = sorted(name.rpartition(".")[0] for name in tensors if name.endswith(".weight_scale"))
    assert not list(reload.faults(folder, matrices, ["lm_head"]))

    assert list(reload.faults(folder, [*matrices, "lm_head"], matrices[:1])) == [
        "1 quantized modules came back as plain ones: 'lm_head'",
        f"1 modules that are not quantized came back as quantized: '{matrices[0]}'",
    ]
    tensors[f"{matrices[0]}.weight_scale"].fill_(float("nan"))
    save_file(tensors, path, {"format": "pt"})
    assert next(reload.faults(folder, matrices, [])) == "logits that are not finite"
    save_file({name: t for name, t in tensors.items() if not name.endswith("norm.weight")}, path, {"format": "pt"})
    (lost,) = reload.faults(folder, matrices, [])
    assert "missing" in lost


def test_the_plan_counts_a_layer_where_all_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[str, Bundle] = {"source": source_bundle(NANO)}
    options = fp8.Options.model_validate({})
    made = fp8.forecast(options, inputs)
    before = fp8.needs(options, inputs, made).memory_bytes
    monkeypatch.setattr(memory, "total_bytes", lambda: 1 << 20)

    assert fp8.needs(options, inputs, made).memory_bytes < before
