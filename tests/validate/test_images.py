"""How images get into a prompt, family by family: as transformers' own processors put them there."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import architectures
from tests.fixtures_images import IDS, SOURCES, llava
from tests.parity.families import IMAGES_NOT_KNOWN, families
from validate.runtimes import IMAGE_MARK, RuntimeFailure, Unsupported, _images, transformers

SIZES = [(140, 84), (56, 56), (30, 200), (400, 90)]  # width, height


@pytest.fixture(scope="module", params=SOURCES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model_type and a tiny checkpoint of it."""
    return request.param, SOURCES[request.param](tmp_path_factory.mktemp("sees") / "tiny")


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)


# What of a Processor is not the image processor or the tokenizer; on the hub it stands in small files beside the model.
TOKENS: dict[str, dict[str, Any]] = {
    "gemma3": {
        **{"boi_token": "<start_of_image>", "boi_token_id": IDS["<|box_start|>"], "eoi_token": "<end_of_image>"},
        **{"image_token": "<image_soft_token>", "image_token_id": IDS["<|image_pad|>"]},
    },
    "glm4v": {"image_token": "<|image_pad|>", "image_token_id": IDS["<|image_pad|>"], "video_token": "<|video_pad|>"},
    "internvl": {
        **{"start_image_token": "<img>", "start_image_token_id": IDS["<|box_start|>"]},
        **{"end_image_token": "</img>", "end_image_token_id": IDS["<|box_end|>"]},
        **{"context_image_token": "<IMG_CONTEXT>", "context_image_token_id": IDS["<|image_pad|>"]},
        **{"video_token": "<video>"},
    },
}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": (
        "LlavaProcessor",
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "gemma3": ("Gemma3Processor", {"image_seq_length": 4}),
    "internvl": ("InternVLProcessor", {"image_seq_length": 4, "video_processor": None}),
    "idefics3": ("Idefics3Processor", {"image_seq_len": 4}),
    "smolvlm": ("SmolVLMProcessor", {"image_seq_len": 4, "video_processor": None}),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", {"video_processor": None}),
    "qwen3_vl": ("Qwen3VLProcessor", {"video_processor": None}),
    "mistral3": ("PixtralProcessor", {"patch_size": 14, "spatial_merge_size": 2}),
    "glm4v": ("Glm4vProcessor", {"video_processor": None}),
}


def processor_of(family: str, session: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' own, without its half for videos, which wants torchvision."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    mixin = transformers.ProcessorMixin
    monkeypatch.setattr(mixin, "check_argument_for_proper_class", lambda *_: None)
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    name, words = PROCESSORS[family]
    for token, value in TOKENS.get(family, {}).items():
        setattr(session.tokenizer, token, value)
    owner = pixtral_processing(monkeypatch) if name == "PixtralProcessor" else transformers
    return getattr(owner, name)(session._processor, session.tokenizer, **words)


def pixtral_processing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of Pixtral's processor, which imports the image processor that wants torchvision, with the other."""
    from transformers.models.pixtral import image_processing_pil_pixtral

    home = "transformers.models.pixtral"
    monkeypatch.setitem(sys.modules, f"{home}.image_processing_pixtral", image_processing_pil_pixtral)
    return importlib.import_module(f"{home}.processing_pixtral")


def test_every_family_has_a_tiny_source() -> None:
    sisters = {"qwen2_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v_moe", "glm_ocr", "pixtral"}
    assert set(SOURCES) == set(_images.known()) - sisters, "whose images are as their sisters'"


@pytest.mark.parametrize("size", SIZES)
def test_inputs_are_what_transformers_processor_makes(
    family: tuple[str, Path], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    pixels = noise(*size)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the button?"}]}
    with transformers.RUNTIME.open(family[1], threads=1) as session:
        ours = session.image_inputs([session.image_prompt("Where is the button?")], [pixels])
        rendered = session.render([turn], None, True)
        processor = processor_of(family[0], session, monkeypatch)
        theirs = processor(images=[Image.fromarray(pixels)], text=[rendered], return_tensors="np")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], name)


def test_a_source_answers_all_that_is_asked_of_images(family: tuple[str, Path]) -> None:
    name, folder = family
    with transformers.RUNTIME.open(folder, threads=1) as session:
        assert (session.identity().pixel_limits is None) == (not name.startswith(("qwen", "glm")))
        assert session.image_unit in (14, 28, 32)
        images = [noise(*size) for size in SIZES]
        prompts = [session.image_prompt(text) for text in ("Look.", "What is it?", "Where?", "Why is it there?")]
        assert all(prompt.count(IMAGE_MARK) == 1 for prompt in prompts)
        for pixels, (width, height) in zip(images, SIZES, strict=True):
            embeddings = session.image_embeddings(pixels)
            assert embeddings.ndim == 2
            assert len(embeddings) == session.image_tokens(width, height)
            assert np.isfinite(embeddings).all()
        alone = [session.image_generate([p], [i], 3)[0] for p, i in zip(prompts, images, strict=True)]
        assert session.image_generate(prompts, images, 3) == alone, "a batch is as each by itself"
        logits = [session.image_logits(p, i) for p, i in zip(prompts, images, strict=True)]
        assert [row[0] for row in alone] == [int(after.argmax()) for after in logits]
        assert not np.array_equal(logits[0], session.image_logits(prompts[0], images[1])), "it looks"


def test_a_size_that_nobody_resizes(family: tuple[str, Path]) -> None:
    """What the source makes of an image is a size that it takes as it is: our drawing is made in it."""
    with transformers.RUNTIME.open(family[1], threads=1) as session:
        for size in SIZES:
            taken = session.processed_size(noise(*size))
            assert session.processed_size(noise(*taken)) == taken


def test_every_family_that_sees_is_known_or_listed(tmp_path: Path) -> None:
    for name, variants in families().items():
        folder = variants[0].make(tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        if architectures.load(name).has_vision:
            assert (_images.for_model(config["model_type"]) is None) == (name in IMAGES_NOT_KNOWN), name


def test_a_family_that_is_not_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_images, "for_model", lambda _: None)
    with transformers.RUNTIME.open(llava(tmp_path / "tiny"), threads=1) as session:
        assert session.identity().has_vision
        assert session.identity().pixel_limits is None
        with pytest.raises(Unsupported, match="how images are put into llava is not known here, only for gemma3, "):
            session.image_prompt("Look.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_config": {"model_type": "idefics3_vision", "hidden_size": 32}}, "not for idefics3_vision"),
        ({"image_token_index": 511}, "does not suit the model: ValueError: token 511 of the config is none"),
    ],
)
def test_a_config_that_does_not_suit_the_processor_is_one_error(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = llava(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with transformers.RUNTIME.open(folder, threads=1) as session, pytest.raises(RuntimeFailure, match=words):
        session.image_inputs([f"{IMAGE_MARK}Look."], [noise(56, 56)])


def test_a_question_with_the_image_token_in_it_is_one_error(tmp_path: Path) -> None:
    """Another token would be taken for an image's."""
    words = "the prompt has 17 image tokens, '<image>', for 16 embeddings"
    with (
        transformers.RUNTIME.open(llava(tmp_path / "tiny"), threads=1) as session,
        pytest.raises(RuntimeFailure, match=words),
    ):
        session.image_logits(session.image_prompt("What is <image>?"), noise(56, 56))


def test_an_image_that_the_processor_refuses_is_one_error(tmp_path: Path) -> None:
    folder = SOURCES["qwen2_5_vl"](tmp_path / "tiny")
    with transformers.RUNTIME.open(folder, threads=1) as session:
        for ask in (session.processed_size, session.image_embeddings):
            with pytest.raises(RuntimeFailure, match="the image processor refuses an image: ValueError"):
                ask(noise(4000, 2))
