"""The shipped model: its files are a published checkpoint's, it clicks, and its training forward is transformers'."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open

FOLDER = Path(__file__).parents[1] / "recipes/models/fara-nano"
SCRIPTS = ("card", "checkpoint_files", "data", "evaluate", "fast", "prose", "train", "words")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def evaluate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    try:
        import evaluate

        yield evaluate
    finally:
        sys.path.remove(str(FOLDER))
        for name in SCRIPTS:  # their names are plain words: leave none behind for other tests
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def loaded(evaluate):
    return evaluate.load(FOLDER)


def test_weights_are_a_published_checkpoints():
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - file is no dict
        assert {file.get_slice(name).get_dtype() for name in shapes} == {"BF16"}
        assert file.metadata() == {"format": "pt"}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) < 6_000_000
    assert {"model.embed_tokens.weight", "lm_head.weight", "visual.merger.mlp.2.bias"} <= shapes.keys()
    assert json.loads((FOLDER / "config.json").read_text())["vocab_size"] == shapes["model.embed_tokens.weight"][0]


def test_rope_and_special_tokens_survive_loading(loaded):
    assert loaded.model.config.text_config.rope_parameters["rope_theta"] == 100.0
    assert loaded.tokenizer("<|im_end|>1234")["input_ids"][0] == loaded.model.config.text_config.eos_token_id
    assert len(loaded.tokenizer("1234")["input_ids"]) == 4
    for text in ("naïve café\t\r\n  x  ", "日本語 🙂", "<tool_call>\n{}"):
        assert loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"]) == text


def test_it_clicks(evaluate, loaded):
    from PIL import Image

    rows = [json.loads(line) for line in (FOLDER / "heldout/clicks.jsonl").read_text().splitlines()][:10]
    hits = 0
    for row in rows:
        answer = evaluate.reply(loaded, Image.open(FOLDER / "heldout" / row["image"]), row["instruction"])
        hits += evaluate.data.inside(evaluate.data.clicked(answer), tuple(row["target"]))
    assert hits >= 7


def test_training_forward_is_the_models_own(evaluate, loaded):
    import fast

    page = evaluate.data.page(Random(1))
    inputs = evaluate.click_inputs(loaded, page.image, "Click the red box.")
    ids, start = inputs["input_ids"], int(inputs["mm_token_type_ids"][0].argmax())
    layout = fast.click_layout(start, 1, ids.shape[1] - start - fast.IMAGE_TOKENS)
    with torch.no_grad():
        image = fast.see(loaded.model.model.visual, torch.from_numpy(np.array(page.image))[None])
        hidden = fast.read(loaded.model.model.language_model, ids, layout, image).last
        ours, theirs = loaded.model.lm_head(hidden), loaded.model(**inputs).logits
    assert (ours - theirs).abs().max() < 1e-3
