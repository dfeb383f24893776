"""What a runtime is not asked for, whatever the file: it fails nothing, and a recipe's own limit on it still counts."""

from __future__ import annotations

import json
from pathlib import Path

from convert.formats.stated import stated
from validate import gates
from validate.measurement import Candidate
from validate.measures.base import not_asked
from validate.measures.cache import METRICS
from validate.runtimes.base import Ability
from validate.runtimes.onnxruntime_genai import RUNTIME as genai
from validate.runtimes.transformers_js import RUNTIME as js


def candidate(runtime: object) -> Candidate:
    return Candidate(Path("model.onnx"), None, runtime, 1)  # type: ignore[arg-type]


def test_why_is_said() -> None:
    assert "wrong positions" in not_asked(candidate(js), Ability.DECODE)
    assert "embeddings" in not_asked(candidate(genai), Ability.IMAGES)
    assert not not_asked(candidate(genai), Ability.DECODE)
    assert not not_asked(candidate(None), Ability.DECODE)


def test_usual_limits_on_it_go_and_a_recipes_own_stay() -> None:
    found = {"decode_kl": (0.2, gates.DEFAULT), "decode_max_abs": (0.1, gates.RECIPE), "kl_mean": (0.4, gates.DEFAULT)}
    assert set(gates.without(found, METRICS)) == {"decode_max_abs", "kl_mean"}
    assert gates.without(found, ()) == found


def test_a_nested_text_model_does_not_hide_the_models_kind(tmp_path: Path) -> None:
    flat = {"model_type": "qwen2_5_vl", "hidden_size": 64}
    nested = {**flat, "text_config": {"model_type": "qwen2_5_vl_text", "hidden_size": 32}}
    for name, words in (("flat", flat), ("nested", nested)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(words))
    differing = {h.name for h in stated(tmp_path / "nested", tmp_path / "flat") if h.got != h.wanted}
    assert differing == {"hidden_size"}
