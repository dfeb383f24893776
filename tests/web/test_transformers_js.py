"""transformers.js opens what the onnx stage wrote by its usual calls, and writes what transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Role
from convert.validation.stage import STAGE as stage
from tests.fixtures_gguf import source_inputs
from tests.validate.test_validate_stage import FEW, report_of
from tests.web.exported import ASKED, DTYPES, FARA, MADE, PICTURE, TARGET, ask_node, needs_node, outputs
from validate import runtimes, transformers_js
from validate.errors import NotOnThisMachine, RuntimeFailure, Unsupported
from validate.vision import clicked

__all__ = ["outputs"]
PROMPT = "Hello there, how are you?"


@pytest.fixture(scope="module")
def answers(outputs: Path) -> dict[str, Any]:
    """Every question in one process of node."""
    text = {"prompt": PROMPT, "count": 12}
    asked = {f"qwen {dtype}": {"kind": "text", "model": "qwen", "dtype": dtype, **text} for dtype in DTYPES}
    asked["llama fp32"] = {"kind": "text", "model": "llama", "dtype": "fp32", **text}
    asked["pipeline"] = {"kind": "pipeline", "model": "qwen", "dtype": "fp32", **text}
    image = {"kind": "image", "model": "fara", "prompt": ASKED, "image": str(PICTURE), "count": 40}
    asked |= {f"fara {dtype}": {**image, "dtype": dtype} for dtype in DTYPES}
    return dict(zip(asked, ask_node(outputs, list(asked.values())), strict=True))


def by_transformers(folder: Path) -> tuple[list[int], str]:
    """The greedy ids and the whole text of the source in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
    count = inputs["input_ids"].shape[1]
    return made[count:].tolist(), PROMPT + tokenizer.decode(made[count:], skip_special_tokens=True)


@needs_node
@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_text_models_write_the_sources_own_ids(name: str, outputs: Path, answers: dict[str, Any]) -> None:
    ids, text = by_transformers(outputs.parent / name)
    assert answers[f"{name} fp32"] == ids
    if name == "qwen":
        assert answers["pipeline"] == text


@needs_node
def test_every_dtype_loads_and_answers(answers: dict[str, Any]) -> None:
    assert {len(answers[f"qwen {dtype}"]) for dtype in DTYPES} == {12}
    assert answers["qwen fp16"] == answers["qwen fp32"]


@needs_node
def test_a_screenshot_is_clicked_at_the_same_place_in_every_dtype(outputs: Path, answers: dict[str, Any]) -> None:
    from PIL import Image

    with runtimes.load("transformers").open(FARA) as source:
        prompt = source.image_prompt(ASKED)  # type: ignore[attr-defined]
        (ids,) = source.image_generate([prompt], [np.array(Image.open(PICTURE).convert("RGB"))], 40)
        points = {dtype: clicked(source.detokenize(answers[f"fara {dtype}"])) for dtype in DTYPES}
        wanted = clicked(source.detokenize(ids))
    assert answers["fara fp32"] == ids
    assert wanted is not None
    assert points["fp32"] == points["fp16"] == wanted
    for point in points.values():
        assert point is not None
        assert TARGET[0] <= point[0] <= TARGET[2]
        assert TARGET[1] <= point[1] <= TARGET[3]


# ---- as a runtime of validation


@needs_node
@pytest.mark.parametrize("file", ["qwen/onnx/model.onnx", "qwen/onnx/model_q4.onnx"])
def test_its_session_says_what_onnx_runtime_says_of_the_graph(file: str, outputs: Path) -> None:
    theirs, ours = (runtimes.load(name) for name in ("transformers_js", "onnxruntime"))
    with runtimes.open_session(theirs, outputs / file, threads=1) as js, ours.open(outputs / file, threads=1) as py:
        ids = py.tokenize("Hello <|im_end|>\n\nthere, how are you?")
        assert js.tokenize("Hello <|im_end|>\n\nthere, how are you?") == ids
        assert np.abs(js.logits(ids) - py.logits(ids)).max() < 1e-4
        assert np.abs(js.decode_logits(ids) - py.decode_logits(ids)).max() < 1e-4
        assert js.generate(ids, 6) == py.generate(ids, 6)
        assert js.detokenize(ids) == py.detokenize(ids)
        assert js.pieces() == py.pieces()
        one, other = js.identity(), py.identity()
        for word in ("vocab", "bos", "eos", "pad", "end_of_generation", "adds_bos", "templates", "added"):
            assert getattr(one, word) == getattr(other, word), word
        with pytest.raises(RuntimeFailure, match="outside of a vocabulary"):
            js.logits([10**6])
        assert js.tokenize("a<|im_end|>", parse_special=False) == py.tokenize("a<|im_end|>", parse_special=False)


@needs_node
def test_what_it_has_no_dtype_or_no_call_for_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "onnx" / "model_bf16.onnx"
    with pytest.raises(NotOnThisMachine, match=r"no dtype for a file called model_bf16\.onnx; wanted model\.onnx"):
        runtimes.open_session(runtimes.load("transformers_js"), file)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(NotOnThisMachine, match="measures what models write, and BertModel is asked otherwise"):
        runtimes.open_session(runtimes.load("transformers_js"), tmp_path / "onnx" / "model.onnx")


@needs_node
def test_where_a_model_takes_images_what_it_writes_of_text_alone_is_not_measured(outputs: Path) -> None:
    file = outputs / "fara" / "onnx" / "decoder_model_merged.onnx"
    with runtimes.open_session(runtimes.load("transformers_js"), file, threads=1) as session:
        ids = session.tokenize("Hello")
        assert session.logits(ids).shape == (len(ids), session.identity().vocab)
        with pytest.raises(Unsupported):
            session.decode_logits(ids)


@needs_node
def test_a_recipe_measures_drift_by_it(outputs: Path, tmp_path: Path) -> None:
    made = MADE["qwen"]
    kept = tuple(artifact for artifact in made.of(Role.WEIGHTS) if artifact.type in ("fp32", "int8"))
    inputs = source_inputs(outputs.parent / "qwen") | {"onnx": made.with_(weights=kept)}
    report, _ = report_of(stage.Options(also_on="transformers_js", **FEW), inputs, tmp_path)
    rows = {row["label"]: row for row in report["outputs"]}
    assert list(rows) == [f"onnx/{t}{on}" for t in ("fp32", "int8") for on in ("", "@transformers_js")]
    exact, whole = rows["onnx/fp32@transformers_js"], rows["onnx/int8@transformers_js"]
    assert exact["status"] == "passed", exact["reason"]
    assert exact["metrics"]["kl_mean"] < 1e-9
    assert "@huggingface/transformers 4." in exact["runtime"]
    assert whole["metrics"]["kl_mean"] == pytest.approx(rows["onnx/int8"]["metrics"]["kl_mean"], rel=0.2)


def test_where_it_is_not_installed_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from validate.runtimes.transformers_js import TransformersJs

    monkeypatch.setenv(transformers_js.VARIABLE, str(tmp_path))
    said = TransformersJs().available()
    assert said is not None
    assert f"{tmp_path} has no @huggingface/transformers: `make web`, or `npm install" in said
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match="install Node"):
        transformers_js.node()
