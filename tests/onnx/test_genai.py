"""The generate() folder: what the builder is asked, what is set right afterwards, and that its runtime agrees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import child
from convert.bundle import Bundle, Role
from convert.formats.onnx import genai_config
from convert.formats.onnx.genai_search import search_settings
from convert.formats.onnx.stage import STAGE as stage
from convert.progress import Silent
from convert.source.stage import STAGE as source
from tests import processes, tiny
from validate import runtimes

FARA = Path(__file__).parents[2] / "recipes" / "models" / "fara-nano"


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def bundle_of(folder: Path) -> Bundle:
    return source.run(source.Options(path=folder), {}, folder, Silent())  # type: ignore[call-arg]


def write_config(checkpoint: Path, out: Path) -> None:
    """genai_config.json of another checkpoint's files, in a folder that there is."""
    import transformers

    from convert.source.companions import read_companions

    facts = genai_config.Facts.of(transformers.AutoConfig.from_pretrained(checkpoint))
    inputs = ("input_ids", "attention_mask")
    said = genai_config.document(read_companions(bundle_of(checkpoint)), facts, inputs, False, Silent())
    (out / "genai_config.json").write_text(json.dumps(said))


def build(folder: Path, out: Path, **asked: Any) -> tuple[Bundle, Notes]:
    out.mkdir(parents=True)
    notes = Notes()
    options = stage.Options(flavor="genai", **{"precision": "fp32", **asked})
    return stage.run(options, {"source": bundle_of(folder)}, out, notes), notes


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Bundle, Notes]:
    """Checkpoint, folder, bundle and what was said, in float32."""
    root = tmp_path_factory.mktemp("qwen")
    folder = tiny.tiny_qwen2(root / "tiny-qwen2")
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = [*generation["eos_token_id"], 7]  # more than the tokenizer and config.json know of
    (folder / "generation_config.json").write_text(json.dumps(generation))
    made, notes = build(folder, root / "out")
    return folder, root / "out", made, notes


@pytest.fixture(scope="module")
def reference(qwen: tuple[Path, Path, Bundle, Notes]) -> Iterator[Any]:
    from validate.runtimes import transformers

    with transformers.RUNTIME.open(qwen[0], threads=1) as session:
        yield session


@pytest.fixture(scope="module")
def session(qwen: tuple[Path, Path, Bundle, Notes]) -> Iterator[Any]:
    runtime = runtimes.for_format("onnx-genai")
    assert runtime is not None
    with runtimes.open_session(runtime, qwen[1] / "model.onnx", context=64, threads=1) as session:
        yield session


def test_the_folder_is_whole_and_says_what_each_file_is(qwen: tuple[Path, Path, Bundle, Notes]) -> None:
    _, out, made, _ = qwen
    kinds = {a.path.name: a.kind for a in made.of(Role.WEIGHTS)}
    assert kinds == {
        "model.onnx": "onnx-genai/fp32",
        "model.onnx_data": "onnx-part/fp32",
        "genai_config.json": "onnx-part/fp32",
    }
    inside = {a.path.name for _, a in made.artifacts() if a.path.is_relative_to(out)}
    assert inside == {path.name for path in out.iterdir()}  # nothing is left behind that the manifest would not know
    for _, artifact in made.artifacts():
        assert artifact.size == artifact.path.stat().st_size
        assert len(artifact.sha256) == 64 or not artifact.path.is_relative_to(out)


def test_the_companions_are_the_sources_own(qwen: tuple[Path, Path, Bundle, Notes]) -> None:
    folder, out, _, _ = qwen
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not (out / "chat_template.jinja").exists()  # it is in tokenizer_config.json, once is enough


def test_the_config_is_held_against_the_source(qwen: tuple[Path, Path, Bundle, Notes]) -> None:
    folder, out, _, _ = qwen
    model = json.loads((out / "genai_config.json").read_text())["model"]
    assert set(model["eos_token_id"]) == set(
        json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    )
    assert 7 in model["eos_token_id"]
    config = json.loads((folder / "config.json").read_text())
    assert model["vocab_size"] == config["vocab_size"]
    assert model["context_length"] == config["max_position_embeddings"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("do_sample", False),
        ("temperature", 0.6),
        ("top_k", 50),
        ("top_p", 1.0),
        ("temperature", 1.0),
        ("repetition_penalty", 1.05),
        ("no_repeat_ngram_size", 3),
        ("min_length", 2),
        ("max_length", 100),
        ("num_beams", 2),
        ("length_penalty", 0.5),
        ("diversity_penalty", 0.2),
    ],
)
def test_every_word_of_sampling_travels_and_the_runtime_takes_it(
    qwen: tuple[Path, Path, Bundle, Notes], tmp_path: Path, word: str, value: Any
) -> None:
    import onnxruntime_genai as og

    checkpoint, out = tmp_path / "m", tmp_path / "out"
    shutil.copytree(qwen[0], checkpoint)
    shutil.copytree(qwen[1], out)
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    greedy = {"do_sample": False} if word == "num_beams" else {}
    (checkpoint / "generation_config.json").write_text(json.dumps(generation | greedy | {word: value}))
    write_config(checkpoint, out)
    assert json.loads((out / "genai_config.json").read_text())["search"][word] == value
    model = og.Model(og.Config(str(out)))
    generator = og.Generator(model, og.GeneratorParams(model))
    generator.append_tokens(np.array([40, 50, 60], np.int32))
    generator.generate_next_token()


def test_beams_with_sampling_are_no_setting_that_its_runtime_has() -> None:
    assert search_settings({"num_beams": 2, "do_sample": True}, 512) == {"do_sample": True}


@pytest.mark.parametrize(
    ("section", "word", "value"),
    [
        ("search", "do_sample", False),
        ("search", "temperature", 0.1),
        ("search", "top_k", 7),
        ("search", "top_p", 0.3),
        ("search", "repetition_penalty", 1.2),
        ("search", "no_repeat_ngram_size", 2),
        ("search", "length_penalty", 0.1),
        ("search", "max_length", 9),
        ("search", "min_length", 3),
        ("model", "pad_token_id", 5),
        ("model", "bos_token_id", 5),
        ("model", "context_length", 256),
    ],
)
def test_validation_finds_a_word_that_is_lost_or_another(
    qwen: tuple[Path, Path, Bundle, Notes], tmp_path: Path, section: str, word: str, value: Any
) -> None:
    from validate.runtimes._folder import CheckpointFolder
    from validate.settings import compare_settings

    says = {"no_repeat_ngram_size": 3, "length_penalty": 0.5, "max_length": 77, "min_length": 2, "min_p": 0.05}
    checkpoint, out = tmp_path / "m", tmp_path / "out"
    shutil.copytree(qwen[0], checkpoint)
    shutil.copytree(qwen[1], out)
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps(generation | says))
    write_config(checkpoint, out)
    wanted = CheckpointFolder(checkpoint).settings().values

    def differences() -> set[str]:
        from validate.runtimes import onnxruntime_genai

        with onnxruntime_genai.RUNTIME.open(out / "model.onnx", threads=1) as session:
            check = compare_settings(wanted, session.settings())
        assert "cannot be held by genai_config.json: min_p 0.05" in check.note
        return {d.what for d in check.differences}

    assert differences() == set()
    config = json.loads((out / "genai_config.json").read_text())
    setting = "max_position_embeddings" if word == "context_length" else word
    config[section][word] = value
    (out / "genai_config.json").write_text(json.dumps(config))
    assert differences() == {setting}
    if section == "search":
        del config[section][word]
        (out / "genai_config.json").write_text(json.dumps(config))
        assert differences() == {setting}


def test_words_of_the_wrong_type_stay_the_runtimes() -> None:
    nonsense = {"temperature": "hot", "top_k": 2.5, "top_p": float("nan"), "do_sample": 1, "num_beams": True}
    assert search_settings(nonsense, 512) == {}
    assert search_settings({"max_length": 4096}, 512) == {"max_length": 512}  # the runtime refuses more


def test_two_runs_give_equal_bytes(qwen: tuple[Path, Path, Bundle, Notes], tmp_path: Path) -> None:
    _, out, made, _ = qwen
    again, _ = build(qwen[0], tmp_path / "again")
    first = {a.path.name: a.sha256 for _, a in made.artifacts() if a.path.is_relative_to(out)}
    assert first == {a.path.name: a.sha256 for _, a in again.artifacts() if a.path.is_relative_to(tmp_path / "again")}


def test_the_graph_says_where_it_is_from(qwen: tuple[Path, Path, Bundle, Notes]) -> None:
    import onnx

    graph = onnx.load(qwen[1] / "model.onnx", load_external_data=False)
    assert {p.key: p.value for p in graph.metadata_props} == {
        "convert.precision": "fp32",
        "convert.model": "tiny-qwen2",
    }
    kernels = [node for node in graph.graph.node if node.op_type == "GroupQueryAttention"]
    assert [node.domain for node in kernels] == ["com.microsoft"] * 2
    assert all({a.name: a.i for a in node.attribute}["do_rotary"] == 1 for node in kernels)
    assert [value.name for value in graph.graph.input][:2] == ["input_ids", "attention_mask"]


# ---- its runtime


def test_its_logits_are_the_sources(session: Any, reference: Any) -> None:
    ids = reference.tokenize("Click the button, then 42 times more.")
    logits = session.logits(ids)
    assert np.abs(logits - reference.logits(ids)).max() < 1e-4
    assert np.abs(session.decode_logits(ids) - logits).max() < 1e-4
    assert session.generate(ids, 6) == reference.generate(ids, 6)


@pytest.mark.parametrize(
    ("vocab", "tokens", "unk", "wanted"),
    [
        (8, {"a": 0, "b": 7}, -1, 6),  # the last row of the embedding that no token has
        (3, {"a": 0, "b": 1, "<unk>": 2}, 2, 2),  # none: what no text becomes
        (2, {"a": 0, "b": 1}, -1, None),
        (3, {}, -1, None),  # a vocabulary that is not read here
    ],
)
def test_what_pads_is_in_no_text(vocab: int, tokens: dict[str, int], unk: int, wanted: int | None) -> None:
    from types import SimpleNamespace

    known: Any = SimpleNamespace(token_ids=tokens, special_ids={"unk": unk} if unk >= 0 else {}, end_ids=(1,))
    assert genai_config.harmless_pad(known, vocab) == wanted


def test_its_tokenizer_agrees(session: Any, reference: Any) -> None:
    for text in ("Hello  world\n\n 12", "we'll <|im_end|>\n<tool_call>", "", " a"):
        assert session.tokenize(text, add_special=True) == reference.tokenize(text, add_special=True)
    assert session.tokenize("<|im_end|>", parse_special=False) == reference.tokenize("<|im_end|>", parse_special=False)


def test_what_stops_it_is_in_its_config(session: Any, reference: Any) -> None:
    assert session.identity().end_of_generation == reference.identity().end_of_generation
    assert session.identity().vocab == reference.identity().vocab


@pytest.mark.parametrize(
    ("tokens", "words"), [([512], "token id 512 of a vocabulary of 512"), ([], "no tokens"), ([1] * 600, "max length")]
)
def test_tokens_it_cannot_take_are_refused(session: Any, tokens: list[int], words: str) -> None:
    with pytest.raises(runtimes.RuntimeFailure, match=words):
        session.logits(tokens)


def test_images_are_not_its_business(session: Any) -> None:
    assert not session.identity().has_vision
    with pytest.raises(runtimes.Unsupported, match="text decoder only"):
        session.image_logits("<__image__>", np.zeros((28, 28, 3), np.uint8))


def test_a_broken_folder_fails_in_its_own_words(qwen: tuple[Path, Path, Bundle, Notes], tmp_path: Path) -> None:
    folder = shutil.copytree(qwen[1], tmp_path / "cut")
    data = (folder / "model.onnx_data").read_bytes()
    (folder / "model.onnx_data").write_bytes(data[: len(data) // 2])
    runtime = runtimes.load("onnxruntime_genai")
    with pytest.raises(runtimes.RuntimeFailure, match="could not load"):
        runtimes.open_session(runtime, folder / "model.onnx")
    (folder / "genai_config.json").write_text("{}")
    with pytest.raises(runtimes.RuntimeFailure, match=r"genai_config\.json cannot be read"):
        runtimes.open_session(runtime, folder / "model.onnx")


# ---- images


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Bundle, Notes]:
    """A model that sees: checkpoint, folder, bundle and what was said."""
    root = tmp_path_factory.mktemp("sees")
    folder = tiny.tiny_qwen2_5_vl(root / "m", layers=1, vision_layers=2)
    made, notes = build(folder, root / "out")
    return folder, root / "out", made, notes


def test_a_model_that_sees_answers_about_an_image_as_the_source(sees: tuple[Path, Path, Bundle, Notes]) -> None:
    """Its own processor, its own positions; a token that pads elsewhere may stand in a text."""
    from validate.runtimes import onnxruntime_genai, transformers

    folder, out, _, notes = sees
    assert any("pad_token_id 511 instead of 480" in note for note in notes.notes)
    pixels = np.random.default_rng(0).integers(0, 255, (112, 168, 3)).astype(np.uint8)
    with transformers.RUNTIME.open(folder, threads=1) as reference:
        identity, prompt = reference.identity(), reference.image_prompt("where?")
        ids = [40, 50, identity.pad, 60, *sorted(identity.end_of_generation), identity.eos, 70]
        with onnxruntime_genai.RUNTIME.open(out / "model.onnx", threads=1) as session:
            assert np.abs(session.logits(ids) - reference.logits(ids)).max() < 1e-4
            assert session.identity().has_vision
            assert session.image_tokens(168, 112) == reference.image_tokens(168, 112) == 24
            seen = session.image_logits(prompt, pixels)
            assert np.abs(seen - reference.image_logits(prompt, pixels)).max() < 1e-3
            assert session.image_generate([prompt], [pixels], 4) == reference.image_generate([prompt], [pixels], 4)


def test_the_graphs_of_a_model_that_sees_are_one_output(sees: tuple[Path, Path, Bundle, Notes]) -> None:
    from convert.formats.onnx import FORMAT

    _, out, made, _ = sees
    (row,) = FORMAT.outputs("genai", made)
    assert row.text_only == ""
    assert {file.path.name for file in row.files} >= {"model.onnx", "embedding.onnx", "vision.onnx"}
    found = FORMAT.recognize(out, None)
    assert found is not None
    assert {a.path.name for a in found.weights} == {file.path.name for file in row.files}


# ---- other precisions and models


@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_has_the_portable_graphs_weights(tmp_path: Path, symmetric: bool) -> None:
    import onnx

    folder = tiny.tiny_qwen2(tmp_path / "m", layers=1)
    made, _ = build(folder, tmp_path / "out", precision="int4", block_size=64, symmetric=symmetric)
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    quantized = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(quantized) == 8
    for node in quantized:
        assert {a.name: a.i for a in node.attribute}["block_size"] == 64
        assert (len([i for i in node.input if i]) > 3) is not symmetric  # zero points
    options = stage.Options(flavor="genai", precision="int4", block_size=64, symmetric=symmetric)
    predicted = stage.forecast(options, {"source": bundle_of(folder)})
    size, built = (sum(a.size for a in b.of(Role.WEIGHTS)) for b in (predicted, made))
    assert abs(size - built) / built < 0.3


def test_a_window_is_the_models_own(tmp_path: Path) -> None:
    """Every layer sees six tokens back; its heads are too narrow for the kernel to turn, and are turned before it."""
    from validate.runtimes import onnxruntime_genai, transformers

    folder = tiny.tiny_mistral(tmp_path / "m", window=6)
    build(folder, tmp_path / "out")
    ids = [int(token) for token in np.random.default_rng(0).integers(3, 380, 24)]
    with (
        transformers.RUNTIME.open(folder, threads=1) as reference,
        onnxruntime_genai.RUNTIME.open(tmp_path / "out" / "model.onnx", threads=1) as session,
    ):
        want = reference.logits(ids)
        assert np.abs(session.logits(ids) - want).max() < 1e-4
        assert np.abs(session.decode_logits(ids) - want).max() < 1e-4


# ---- before anything runs


def test_what_the_folder_cannot_be_is_said_before_it_is_made(tmp_path: Path) -> None:
    bundle = bundle_of(tiny.tiny_qwen2(tmp_path / "m"))
    asked = stage.Options(flavor="genai", precision=["bf16", "int4"], weights="own")
    problems = [str(problem) for problem in stage.check(asked, {"source": bundle})]
    assert problems == [
        "precision: bf16, int4 with flavor: genai, wanted one; make a stage for each: "
        "generate() wants one model in a folder",
        "precision: bf16 with flavor: genai, wanted fp32 or fp16 or int8 or int4; flavor: portable has the others",
        "weights: flavor: genai has no such option; leave it out",
    ]
    assert stage.check(stage.Options(flavor="genai", precision="int4"), {"source": bundle}) == []


# ---- the process


def test_a_process_is_heard_line_by_line() -> None:
    heard: list[str] = []
    ended = child.run(["timeit", "-n1", "-r1", "print('one\\rtwo\\n\\nthree', end='')"], on_line=heard.append)
    assert ended.code == 0
    assert heard[:3] == ["one", "two", "three1 loop, best of 1: " + heard[2].partition(": ")[2]]


def test_a_process_that_dies_says_how() -> None:
    ended = child.run(["timeit", "-n1", "-r1", "-s", "import os; print('last words', flush=True)", "os.abort()"])
    assert ended.how == "was stopped by SIGABRT"
    assert "last words" in ended.last


def test_an_exception_ends_the_process_at_once() -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        child.run(["timeit", "-n1", "-r1", "import time; print('x', flush=True); time.sleep(60)"], on_line=stop)
    assert time.monotonic() - started < 20


def test_a_process_goes_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Killed outright, the caller can clean nothing up."""
    inner = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"from convert import child; child.run(['timeit', '-n1', '-r1', {inner!r}])"
    environment = {**os.environ, "PYTHONPATH": str(FARA.parents[2])}
    pid = tmp_path / "pid"
    with processes.started([sys.executable, "-c", code], cwd=tmp_path, env=environment) as caller:
        _wait(lambda: pid.is_file() and pid.read_text() != "")
        caller.send_signal(signal.SIGKILL)
    _wait(lambda: not Path(f"/proc/{pid.read_text()}/cmdline").is_file())


def _wait(until: Any) -> None:
    for _ in range(400):
        if until():
            return
        time.sleep(0.05)
    raise AssertionError("waited 20 s")
