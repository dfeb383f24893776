"""The OpenVINO folder as the pipeline makes it, as OpenVINO runs it, and as OpenVINO GenAI and others find it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.formats.openvino import FORMAT
from convert.formats.openvino.stage import STAGE as stage
from convert.progress import Silent
from tests import tiny
from tests.fixtures_gguf import source_inputs

pytest.importorskip("openvino")
HAS_TOKENIZERS = importlib.util.find_spec("openvino_tokenizers") is not None
HAS_GENAI = HAS_TOKENIZERS and importlib.util.find_spec("openvino_genai") is not None
TOKENS = [1, 5, 9, 33, 20, 44, 7, 100, 12, 3, 55]


def make(folder: Path, out: Path, **options: Any) -> tuple[Bundle, Bundle]:
    """(forecast, bundle) of the stage, run as the pipeline does."""
    inputs, words = source_inputs(folder), stage.Options(tokenizer=HAS_TOKENIZERS, **options)
    assert [str(p) for p in stage.check(words, inputs)] == []
    forecast = stage.forecast(words, inputs)
    out.mkdir(parents=True)
    return forecast, stage.run(words, inputs, out, Silent())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("source") / "Tiny", layers=1)


@pytest.fixture(scope="module")
def exact(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    return make(source, tmp_path_factory.mktemp("exact") / "out", precision="fp32")


@pytest.fixture(scope="module")
def reference(source: Path) -> Any:
    from validate.runtimes import transformers

    with transformers.RUNTIME.open(source) as session:
        yield session


def main_file(bundle: Bundle) -> Path:
    return next(a.path for a in bundle.of(Role.WEIGHTS) if a.format == "openvino")


def test_logits_are_the_source_s_at_once_and_through_the_state(exact: tuple[Bundle, Bundle], reference: Any) -> None:
    from validate.runtimes import openvino

    with openvino.RUNTIME.open(main_file(exact[1])) as session:
        want = reference.logits(TOKENS)
        np.testing.assert_allclose(session.logits(TOKENS), want, atol=1e-5)
        np.testing.assert_allclose(session.decode_logits(TOKENS), want, atol=1e-5)
        assert session.generate_all([TOKENS, TOKENS[::-1], TOKENS[:4]], 5) == [
            reference.generate(prompt, 5) for prompt in (TOKENS, TOKENS[::-1], TOKENS[:4])
        ]


def test_the_model_has_a_state_and_the_names_that_optimum_writes(exact: tuple[Bundle, Bundle]) -> None:
    import openvino as ov

    model = ov.Core().read_model(main_file(exact[1]))
    assert [port.any_name for port in model.inputs] == ["input_ids", "attention_mask", "position_ids", "beam_idx"]
    assert [port.any_name for port in model.outputs] == ["logits"]
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert kinds.count("ReadValue") == kinds.count("Assign") == 2
    assert kinds.count("ScaledDotProductAttention") == 1
    assert "Softmax" not in kinds


def test_the_forecast_names_the_models_and_knows_their_size(exact: tuple[Bundle, Bundle]) -> None:
    forecast, made = ({a.path.name: a.size for a in bundle.of(Role.WEIGHTS)} for bundle in exact)
    assert set(forecast) <= set(made)
    assert abs(forecast["openvino_model.bin"] / made["openvino_model.bin"] - 1) < 0.02


def test_the_folder_is_found_again_with_its_precision(exact: tuple[Bundle, Bundle]) -> None:
    home = main_file(exact[1]).parent
    assert json.loads((home / "openvino_config.json").read_text())["dtype"] == "fp32"
    found = FORMAT.recognize(home, None)
    assert found is not None
    assert [a.kind for a in found.weights if a.path.name == "openvino_model.xml"] == ["openvino/fp32"]
    (row,) = FORMAT.outputs("ov", exact[1])
    assert {a.path.name for a in row.files} >= {"openvino_model.xml", "openvino_model.bin", "openvino_config.json"}


def test_a_folder_without_its_weights_is_refused(exact: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_bytes(main_file(exact[1]).read_bytes())
    with pytest.raises(InputError, match=r"lacks openvino_model\.bin"):
        FORMAT.recognize(tmp_path, None)


def test_four_bits_for_an_npu_have_one_scale_an_output(source: Path, tmp_path: Path) -> None:
    from validate.runtimes import openvino

    _, made = make(source, tmp_path / "out", precision="int4", npu=True)
    config = json.loads((tmp_path / "out" / "openvino_config.json").read_text())
    assert config["quantization_config"] == {
        **{"bits": 4, "dtype": "int4", "group_size": -1, "quant_method": "default", "sym": True},
        "weight_format": "int4",
    }
    with openvino.RUNTIME.open(main_file(made)) as session:
        assert np.isfinite(session.logits(TOKENS)).all()
    if HAS_GENAI:
        _check_genai(main_file(made), source)


def _check_genai(main: Path, source: Path) -> None:
    """The pipeline loads the folder, splits a text as the source does, and goes on as OpenVINO itself does."""
    from validate.runtimes import openvino, openvino_genai, transformers

    with transformers.RUNTIME.open(source) as own:
        want = own.tokenize("Hello world, 12 times.")
    with openvino_genai.RUNTIME.open(main) as session, openvino.RUNTIME.open(main) as plain:
        assert session.tokenize("Hello world, 12 times.") == want
        assert session.detokenize(want) == "Hello world, 12 times."
        assert session.generate(TOKENS, 4) == plain.generate(TOKENS, 4)


def test_options_that_do_nothing_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="are of int4"):
        stage.Options(precision="int8", npu=True)
    with pytest.raises(ValidationError, match="leave them out"):
        stage.Options(npu=True, group_size=64)


def test_without_its_tokenizers_the_check_says_how_to_get_them(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino_tokenizers" else known(name)
    )
    (problem,) = stage.check(stage.Options(), source_inputs(source))
    assert "openvino-tokenizers" in str(problem)
    assert "tokenizer: false" in str(problem)
