"""What transformers.js is told in JSON files, and what it would not find in those of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.formats.onnx import web_configs
from tests import tiny
from tests.fixtures_gguf import source_inputs

FARA = Path(__file__).parents[2] / "recipes" / "models" / "fara-nano"


def made(folder: Path) -> dict[str, dict[str, object]]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    found = web_configs.texts(source_inputs(folder)["source"], config, {"model_q4.onnx": 2, "x.onnx": 0}, ("int4",))
    return {name: json.loads(text) for name, text in found.items()}


@pytest.mark.parametrize(
    ("precisions", "dtype", "gpu", "half"),
    [
        (("fp32", "int8", "int4"), None, "q4", None),  # what it takes by itself is there
        (("fp32", "int4"), "q4", "q4", None),
        (("int8",), "q8", None, None),
        (("fp16", "q4f16", "bf16"), "q4f16", "q4f16", {"fp16": "float16", "q4f16": "float16"}),
        (("bf16",), None, None, None),
    ],
)
def test_the_dtype_that_is_taken_where_none_is_named_is_one_that_is_there(
    precisions: tuple[str, ...], dtype: str | None, gpu: str | None, half: dict[str, str] | None
) -> None:
    said = web_configs.settings({"model.onnx": 1}, precisions)
    assert said.get("dtype") == dtype
    assert said.get("device_config") == (None if gpu is None else {"webgpu": {"dtype": gpu}})
    assert said.get("kv_cache_dtype") == half


def test_an_old_qwen2_5_vl_gets_a_text_config_and_whole_image_settings() -> None:
    found = made(FARA)
    text = found["config.json"]["text_config"]
    assert isinstance(text, dict)
    assert (text["model_type"], text["num_hidden_layers"]) == ("qwen2_5_vl_text", 4)
    assert not set(text) & {"dtype", "transformers_version"}
    assert found["config.json"][web_configs.KEY] == {
        "dtype": "q4",
        "device_config": {"webgpu": {"dtype": "q4"}},
        "use_external_data_format": {"model_q4.onnx": 2},
    }
    images = found["preprocessor_config.json"]
    assert (images["do_normalize"], images["resample"], images["min_pixels"]) == (True, 3, 3136)
    assert "tokenizer_config.json" not in found  # it has its template


def test_a_template_in_a_file_of_its_own_goes_where_it_is_looked_for(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "Tiny", layers=1)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    template = said.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "chat_template.jinja").write_text(template)
    assert made(folder)["tokenizer_config.json"]["chat_template"] == template


def test_image_settings_are_read_from_the_processors_file_too(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2_5_vl(tmp_path / "Tiny")
    old = folder / "preprocessor_config.json"
    said = json.loads(old.read_text())
    old.unlink()
    words = {"image_processor": said, "processor_class": "Qwen2_5_VLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(words))
    found = made(folder)["preprocessor_config.json"]
    assert found["patch_size"] == said["patch_size"]
    assert (found["processor_class"], found["do_normalize"]) == ("Qwen2_5_VLProcessor", True)
    assert web_configs.lacks_image_settings(source_inputs(folder)["source"])
