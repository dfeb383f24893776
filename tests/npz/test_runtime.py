"""An archive on its runtime says what the checkpoint says; the stage takes no model that sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert import load_recipe, plan
from convert.bundle import Role
from convert.formats.npz.stage import STAGE
from convert.progress import Silent
from tests import tiny
from tests.fixtures_gptq import source_bundle
from validate.errors import RuntimeFailure
from validate.runtimes.npz import RUNTIME

TOKENS = [1, 5, 9, 200, 33]


def test_an_archive_computes_what_the_checkpoint_does(tmp_path: Path) -> None:
    from validate.runtimes.transformers import TransformersSession

    source = tiny.tiny_llama(tmp_path / "source")
    (tmp_path / "out").mkdir()
    inputs = {"source": source_bundle(source)}
    forecast = STAGE.forecast(STAGE.Options(), inputs)
    made = STAGE.run(STAGE.Options(), inputs, tmp_path / "out", Silent())
    (weights,) = made.of(Role.WEIGHTS)
    assert weights.size == forecast.of(Role.WEIGHTS)[0].size
    with RUNTIME.open(weights.path) as ours, TransformersSession(source, 1, False) as theirs:
        assert np.abs(ours.logits(TOKENS) - theirs.logits(TOKENS)).max() < 1e-5
        assert ours.tokenize("a text") == theirs.tokenize("a text")
    weights.path.write_bytes(b"PK")
    with pytest.raises(RuntimeFailure, match="numpy could not load"):
        RUNTIME.open(weights.path)


def test_a_model_that_sees_is_refused_when_it_is_planned(tmp_path: Path) -> None:
    tiny.tiny_qwen2_5_vl(tmp_path / "model")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: {path: model}\nstages:\n  npz: {use: npz}\n")
    assert "has a vision tower" in str(plan(load_recipe(recipe), tmp_path / "out").problems)
