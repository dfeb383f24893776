"""What llama.cpp's graphs of towers and of encoders of sounds cannot compute is refused, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.architectures._graph_spec import GraphSpec
from convert.errors import PlanError
from tests.parity.families import cases

CASES = cases()


def config_of(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    made = CASES[name].make(folder)
    return tuple(json.loads((made / f"{file}config.json").read_text()) for file in ("", "preprocessor_"))  # type: ignore[return-value]


def projector(config: dict[str, Any], images: dict[str, Any]) -> GraphSpec:
    family = architectures.find(config)
    assert family.vision is not None
    return family.vision(config, images)


TOWER, ENCODER = "vision_config", "audio_config"


@pytest.mark.parametrize(
    ("case", "where", "changes", "message"),
    [
        ("mistral3_vision", "", {"vision_feature_layer": -2}, "vision_feature_layer is -2, wanted -1"),
        ("mistral3_vision", "", {"image_break_token_id": 384}, "image_break_token_id is 384, wanted below vocab_size"),
        ("mistral3_vision", TOWER, {"rope_theta": 500.0}, "rope_theta is 500.0, wanted 10000"),
        ("mistral3_vision", TOWER, {"num_attention_heads": 5}, "num_attention_heads is 5, wanted a divisor of"),
        ("llava, Pixtral", "", {"vision_feature_select_strategy": "default"}, "wanted full"),
        ("glm4v", TOWER, {"out_hidden_size": 80}, "out_hidden_size is 80, wanted 64"),
        ("glm4v", TOWER, {"spatial_merge_size": 4}, "spatial_merge_size is 4, wanted 2"),
        ("janus", TOWER, {"depth": 3}, "depth is 3, wanted 2"),
        ("janus", TOWER, {"use_qk_norm": True}, "use_qk_norm is true, wanted false"),
        ("lfm2_vl", "", {"vision_feature_layer": -2}, "vision_feature_layer is -2, wanted -1"),
        ("gemma4_vision", TOWER, {"num_key_value_heads": 1}, "num_key_value_heads is 1, wanted 2"),
        ("gemma4_vision", "", {"audio_config": {"hidden_size": 8}}, "no table here describes Gemma 4's sound encoder"),
        ("internvl_chat", "", {"select_layer": -2}, "select_layer is -2, wanted -1"),
        ("internvl_chat", "", {"ps_version": "v1"}, "ps_version is 'v1', wanted v2"),
        ("qwen2_audio", ENCODER, {"max_source_positions": 750}, "max_source_positions is 750, wanted 1500"),
        ("qwen2_audio", ENCODER, {"scale_embedding": True}, "scale_embedding is true, wanted false"),
        (
            "voxtral",
            ENCODER,
            {"intermediate_size": 100},
            "intermediate_size is 100, wanted 4 times the encoder's width",
        ),
        ("audioflamingo3", "", {"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', wanted 'gelu'"),
    ],
)
def test_a_projector_that_llama_cpp_cannot_compute_is_refused(
    case: str, where: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config, images = config_of(case, tmp_path)
    assert projector(config, images).tensors
    changed = {**config, where: {**config[where], **changes}} if where else {**config, **changes}
    with pytest.raises(PlanError) as caught:
        projector(changed, images)
    assert message in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("paddleocr", {"min_pixels": None}, "min_pixels and max_pixels is 'missing'"),
        ("gemma4_vision", {"image_mean": [0.5, 0.5, 0.5]}, "the processor does not normalize, and llama.cpp does"),
        ("lfm2_vl", {"max_image_tokens": 512}, "max_image_tokens is 512, wanted 256"),
        ("qwen2_audio", {"hop_length": 320}, "hop_length is 320, wanted 160"),
    ],
)
def test_a_processor_that_llama_cpp_has_not_is_refused(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config, images = config_of(case, tmp_path)
    with pytest.raises(PlanError) as caught:
        projector(config, {key: value for key, value in {**images, **changes}.items() if value is not None})
    assert message in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("glm4v", {"rope_scaling": {"rope_type": "default"}}, "mrope_section is null, wanted up to four numbers"),
        ("glm4v_moe", {"rope_scaling": {"rope_type": "default"}}, "mrope_section is null, wanted up to four numbers"),
    ],
)
def test_a_text_without_its_axes_is_refused(case: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config, _ = config_of(case, tmp_path)
    with pytest.raises(PlanError) as caught:
        architectures.find(config).text({**config, "text_config": {**config["text_config"], **changes}})
    assert message in str(caught.value)


def test_the_tokens_a_projector_needs_are_the_tokenizers(tmp_path: Path) -> None:
    """[IMG_BREAK] is where the tokenizer has it; a config that says another number is believed."""
    config, images = config_of("mistral3_vision", tmp_path)
    import numpy as np

    table = np.arange(384)[:, None].repeat(64, 1)
    for number in (7, 12):
        made = projector({**config, "image_break_token_id": number} if number == 7 else config, images)
        (row,) = [tensor for tensor in made.tensors if tensor.borrowed]
        view = row.outputs[0].view
        assert view is not None
        assert set(view(table)) == {number}
