"""Every setting that travels, dropped or changed, is found; an honest output of each format has no alarm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle, Role
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source.stage import STAGE as source
from tests import tiny
from tests.fixtures_validate import rewritten
from tests.parity.families import cases
from validate import runtimes
from validate.contract import Check
from validate.runtimes import llama_cpp, transformers
from validate.runtimes._folder import CheckpointFolder
from validate.runtimes.base import ModelSettings, ReferenceSession
from validate.settings import compare_settings

SAYS = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 23,
    "top_p": 0.85,
    "min_p": 0.02,
    "repetition_penalty": 1.05,
    "no_repeat_ngram_size": 3,
    "length_penalty": 0.5,
    "max_length": 77,
    "min_length": 2,
    "max_new_tokens": 33,
    "stop_strings": ["</answer>", "\n\n"],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
Made = tuple[Path, Path, Path | None]  # checkpoint, GGUF file, projector


def edit(path: Path, **words: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    kept = {word: value for word, value in (content | words).items() if value is not None}
    path.write_text(json.dumps(kept))


def made(make: Callable[[Path], Path], home: Path, **config: Any) -> Made:
    folder = make(home / "m")
    edit(folder / "config.json", **config)
    edit(folder / "generation_config.json", **SAYS)
    bundles: dict[str, Bundle] = {}
    for name, stage, options in (
        ("source", source, source.Options(path=folder)),  # type: ignore[call-arg]
        ("gguf", gguf, gguf.Options(types=["F32"])),  # type: ignore[call-arg]
    ):
        (home / name).mkdir()
        bundles[name] = stage.run(options, bundles, home / name, Silent())
    projector = bundles["gguf"].of(Role.PROJECTOR)
    return folder, bundles["gguf"].of(Role.WEIGHTS)[0].path, projector[0].path if projector else None


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Made:
    scaling = YARN | {"rope_theta": 500000.0}
    return made(tiny.tiny_qwen2, tmp_path_factory.mktemp("text"), rope_parameters=scaling, rope_theta=None)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tiny.tiny_qwen2_5_vl, tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(cases()["gemma2"].make, tmp_path_factory.mktemp("windowed"))


@pytest.fixture(scope="module")
def reference(text: Made) -> Iterator[ReferenceSession]:
    with transformers.RUNTIME.open(text[0], threads=1) as session:
        yield session


def on_llama_cpp(folder: Path, file: Path, projector: Path | None = None) -> Check:
    wanted = CheckpointFolder(folder).settings().values
    with runtimes.open_session(llama_cpp.RUNTIME, file, projector=projector, context=32, threads=1) as session:
        return compare_settings(wanted, session.settings())


def found(check: Check) -> set[str]:
    return {difference.what for difference in check.differences}


# ---- GGUF


def test_our_gguf_states_all_that_it_can_and_the_rest_is_named(text: Made) -> None:
    check = on_llama_cpp(*text)
    assert check.differences == ()
    assert check.total >= 11  # six of sampling, five of positions
    for words in (
        "cannot be held by GGUF: max_new_tokens 33; pass --predict 33",
        "stop_strings ['</answer>', '\\n\\n']; send them as `stop`",
        "no_repeat_ngram_size 3",
        "length_penalty 0.5",
        "max_length 77",
        "min_length 2",
    ):
        assert words in check.note
    assert "repetition_penalty" not in check.note


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        ("general.sampling.temp", 0.7, "temperature"),
        ("general.sampling.top_k", 24, "top_k"),
        ("general.sampling.top_p", 0.8, "top_p"),
        ("general.sampling.min_p", 0.03, "min_p"),
        ("general.sampling.penalty_repeat", 1.1, "repetition_penalty"),
        ("qwen2.rope.freq_base", 10000.0, "rope_theta"),
        ("qwen2.rope.scaling.type", "linear", "rope_type"),
        ("qwen2.rope.scaling.factor", 2.0, "rope_factor"),
        ("qwen2.rope.scaling.original_context_length", 64, "original_max_position_embeddings"),
        ("qwen2.context_length", 256, "max_position_embeddings"),
    ],
)
def test_a_setting_that_a_gguf_file_lost_or_has_otherwise_is_found(
    text: Made, tmp_path: Path, key: str, value: Any, setting: str
) -> None:
    changed = on_llama_cpp(text[0], rewritten(text[1], tmp_path / "changed.gguf", {key: value}))
    assert found(changed) == {setting}
    if key == "qwen2.context_length":
        return  # llama.cpp loads no file without one
    dropped = on_llama_cpp(text[0], rewritten(text[1], tmp_path / "dropped.gguf", {key: None}))
    assert found(dropped) == {setting}


def test_a_file_that_takes_the_likeliest_token_where_the_source_samples_is_found(text: Made, tmp_path: Path) -> None:
    check = on_llama_cpp(text[0], rewritten(text[1], tmp_path / "greedy.gguf", {"general.sampling.temp": 0.0}))
    assert {"do_sample", "temperature"} <= found(check)


def test_of_a_source_that_takes_the_likeliest_token_samplers_say_nothing(tmp_path: Path) -> None:
    folder, file, _ = made(tiny.tiny_qwen2, tmp_path)
    edit(folder / "generation_config.json", do_sample=False)
    again = made(lambda path: Path(shutil.copytree(folder, path)), tmp_path / "again")
    edit(again[0] / "generation_config.json", do_sample=False)
    assert found(on_llama_cpp(again[0], file)) == {"do_sample"}  # a file that samples
    greedy = rewritten(file, tmp_path / "greedy.gguf", {"general.sampling.temp": 0.0, "general.sampling.top_k": None})
    assert found(on_llama_cpp(again[0], greedy)) == set()


def test_a_window_lost_or_changed_is_found_where_the_graph_has_one(windowed: Made, tmp_path: Path) -> None:
    key = "gemma2.attention.sliding_window"
    assert found(on_llama_cpp(*windowed)) == set()
    for value in (16, None):
        path = rewritten(windowed[1], tmp_path / f"{value}.gguf", {key: value})
        assert found(on_llama_cpp(windowed[0], path)) == {"sliding_window"}


def test_a_window_that_the_graph_has_not_is_named(tmp_path: Path) -> None:
    folder, file, _ = made(tiny.tiny_mistral, tmp_path)
    check = on_llama_cpp(folder, file)
    assert check.differences == ()
    assert "cannot be held by GGUF: sliding_window 24; llama.cpp's graph of this architecture" in check.note


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        ("clip.vision.image_mean", [0.5, 0.5, 0.5], "image_mean"),
        ("clip.vision.image_std", [0.4, 0.3, 0.2], "image_std"),
        ("clip.vision.image_min_pixels", 784, "min_pixels"),
        ("clip.vision.image_max_pixels", 7840, "max_pixels"),
    ],
)
def test_how_images_are_prepared_is_compared(seeing: Made, tmp_path: Path, key: str, value: Any, setting: str) -> None:
    folder, file, projector = seeing
    assert projector is not None
    assert found(on_llama_cpp(folder, file, projector)) == set()
    wrong = rewritten(projector, tmp_path / "wrong.gguf", {key: value})
    assert found(on_llama_cpp(folder, file, wrong)) == {setting}
    assert found(on_llama_cpp(folder, file)) == set()  # without a projector there are no images to prepare


@pytest.mark.parametrize(
    "name", ["llama, llama3 scaling", "llama, linear scaling", "llama, yarn", "phi3", "cohere, trained for more"]
)
def test_other_ways_of_scaling_positions_raise_no_alarm(name: str, tmp_path: Path) -> None:
    assert found(on_llama_cpp(*made(cases()[name].make, tmp_path))) == set()


# ---- folders: GPTQ, AWQ, FP8, ONNX and TensorRT are read by what lies beside their weights


@pytest.mark.parametrize("word", SAYS)
def test_a_word_of_generation_config_that_a_folder_lost_or_has_otherwise_is_found(
    text: Made, reference: ReferenceSession, tmp_path: Path, word: str
) -> None:
    wanted = reference.settings().values
    assert word in wanted
    shutil.copytree(text[0], tmp_path / "m")
    assert found(compare_settings(wanted, CheckpointFolder(tmp_path / "m").settings())) == set()
    other: dict[str, Any] = {"do_sample": False, "stop_strings": ["x"]}
    for value in (None, other.get(word, 5)):
        edit(tmp_path / "m" / "generation_config.json", **{word: value})
        assert found(compare_settings(wanted, CheckpointFolder(tmp_path / "m").settings())) == {word}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ({"rope_parameters": YARN | {"rope_theta": 10000.0}}, {"rope_theta"}),
        ({"rope_parameters": YARN | {"rope_theta": 500000.0, "factor": 2.0}}, {"rope_factor"}),
        (
            {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
            {"rope_type", "rope_factor", "original_max_position_embeddings"},
        ),
        ({"max_position_embeddings": 256}, {"max_position_embeddings"}),
        ({"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, {"sliding_window"}),
    ],
)
def test_a_config_that_a_folder_has_otherwise_is_found(
    text: Made, reference: ReferenceSession, tmp_path: Path, words: dict[str, Any], settings: set[str]
) -> None:
    shutil.copytree(text[0], tmp_path / "m")
    edit(tmp_path / "m" / "config.json", **words)
    check = compare_settings(reference.settings().values, CheckpointFolder(tmp_path / "m").settings())
    assert found(check) == settings


@pytest.mark.parametrize(
    ("words", "setting"),
    [({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"), ({"image_std": [0.1, 0.2, 0.3]}, "image_std")],
)
def test_an_image_processor_that_a_folder_has_otherwise_is_found(
    seeing: Made, tmp_path: Path, words: dict[str, Any], setting: str
) -> None:
    shutil.copytree(seeing[0], tmp_path / "m")
    wanted = CheckpointFolder(seeing[0]).settings().values
    assert found(compare_settings(wanted, CheckpointFolder(tmp_path / "m").settings())) == set()
    edit(tmp_path / "m" / "preprocessor_config.json", **words)
    assert found(compare_settings(wanted, CheckpointFolder(tmp_path / "m").settings())) == {setting}


# ---- the rules


def test_what_neither_says_is_no_setting_and_what_is_neutral_need_not_be_said() -> None:
    assert compare_settings({}, ModelSettings("x")).total == 0
    assert compare_settings({}, ModelSettings("x", {"temperature": 1.0, "max_length": 512})).score == 1.0
    assert found(compare_settings({}, ModelSettings("x", {"temperature": 0.7}))) == {"temperature"}
    assert compare_settings({"num_beams": 1}, ModelSettings("x", no_place={"num_beams": ""})).note == ""


def test_a_runtime_that_has_another_default_needs_the_word() -> None:
    silent = ModelSettings("x", defaults={"temperature": 0.8, "repetition_penalty": 1.0})
    check = compare_settings({"temperature": 1.0, "repetition_penalty": 1.0}, silent)
    assert [(d.what, d.reference, d.candidate) for d in check.differences] == [
        ("temperature", "1", "0.8, which the runtime takes: the file says nothing")
    ]


def test_numbers_are_equal_as_float32_keeps_them() -> None:
    assert compare_settings({"top_p": 0.95}, ModelSettings("x", {"top_p": 0.949999988})).score == 1.0
    assert compare_settings({"top_p": 0.95}, ModelSettings("x", {"top_p": 0.9501})).score == 0.0
    assert compare_settings({"do_sample": True}, ModelSettings("x", {"do_sample": 1})).score == 0.0
