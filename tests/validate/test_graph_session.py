"""Graphs run together: text, cache, padding, images; and graphs that do not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from tests.fixtures_graphs import checkpoint, copied, graph, swap_cache, text_graphs, vision_graphs
from validate import runtimes, vision
from validate.runtimes import NotOnThisMachine, RuntimeFailure, Unsupported, _graph_session, onnxruntime, openvino
from validate.runtimes import transformers as reference_runtime

__all__ = ["text_graphs", "vision_graphs"]  # fixtures

TEXT = "Click the button, don't wait 12 seconds."
BOTH = pytest.mark.parametrize("runtime", [onnxruntime.RUNTIME, openvino.RUNTIME], ids=["onnxruntime", "openvino"])


@pytest.fixture(scope="module")
def reference(text_graphs: dict[str, Bundle]) -> Iterator[Any]:
    with reference_runtime.RUNTIME.open(checkpoint(text_graphs), threads=1) as session:
        yield session


@pytest.fixture(scope="module")
def seeing(vision_graphs: dict[str, Bundle]) -> Iterator[Any]:
    with reference_runtime.RUNTIME.open(checkpoint(vision_graphs), threads=1) as session:
        yield session


@BOTH
def test_text_is_read_and_written_as_by_the_source(
    runtime: Any, reference: Any, text_graphs: dict[str, Bundle]
) -> None:
    with runtime.open(graph(text_graphs), threads=1) as session:
        ids = session.tokenize(TEXT)
        assert ids == reference.tokenize(TEXT)
        assert session.detokenize(ids) == TEXT
        got, wanted = session.logits(ids), reference.logits(ids)
        assert got.shape == wanted.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        np.testing.assert_allclose(session.decode_logits(ids), wanted, atol=1e-5)
        assert session.generate(ids, 12) == reference.generate(ids, 12)
        for prompts in ([ids[:4], ids[2:6], ids[5:9]], [ids, ids[:3], ids[4:5]]):  # of one length, and of several
            assert session.generate_all(prompts, 12) == [reference.generate(prompt, 12) for prompt in prompts]
        np.testing.assert_array_equal(session.logits(ids), got)  # an empty cache at every start
        identity = session.identity()
        assert (identity.vocab, identity.eos, identity.has_vision) == (512, reference.identity().eos, False)
        assert identity.end_of_generation == reference.identity().end_of_generation


@BOTH
def test_a_cache_in_16_bits_is_fed_in_16_bits(runtime: Any, reference: Any, text_graphs: dict[str, Bundle]) -> None:
    with runtime.open(graph(text_graphs, "fp16"), threads=1) as session:
        ids = session.tokenize(TEXT)
        np.testing.assert_allclose(session.decode_logits(ids), reference.logits(ids), atol=0.01)


def test_bfloat16_runs_where_there_are_kernels_and_is_no_failure_elsewhere(
    reference: Any, text_graphs: dict[str, Bundle]
) -> None:
    with pytest.raises(NotOnThisMachine, match=r"ONNX Runtime has no CPU kernel .*MatMul"):
        onnxruntime.RUNTIME.open(graph(text_graphs, "bf16"))
    with openvino.RUNTIME.open(graph(text_graphs, "bf16"), threads=1) as session:
        ids = session.tokenize(TEXT)
        np.testing.assert_allclose(session.decode_logits(ids), reference.logits(ids), atol=0.05)


def test_reading_in_pieces_is_reading_at_once(
    reference: Any, text_graphs: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_graph_session, "PREFILL_TOKENS", 7)
    with onnxruntime.RUNTIME.open(graph(text_graphs), threads=1) as session:
        ids = session.tokenize(TEXT)
        assert len(ids) > 14
        assert session.generate(ids, 12) == reference.generate(ids, 12)


def test_bad_questions_are_errors_and_not_the_end(text_graphs: dict[str, Bundle]) -> None:
    with onnxruntime.RUNTIME.open(graph(text_graphs), threads=1) as session:
        for tokens in ([], [10**6], [-1]):
            for ask in (session.logits, session.decode_logits, lambda ids: session.generate(ids, 2)):
                with pytest.raises(RuntimeFailure):
                    ask(tokens)
        for ask in (
            lambda: session.image_embeddings(np.zeros((28, 28, 3), np.uint8)),
            lambda: session.image_tokens(28, 28),
        ):
            with pytest.raises(Unsupported, match="no vision graph"):
                ask()
        assert session.logits([1]).shape == (1, 512)


def test_a_wrong_cache_shows_when_tokens_are_fed_one_at_a_time(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    broken = graph(copied(text_graphs, tmp_path / "onnx"))
    swap_cache(broken)
    with onnxruntime.RUNTIME.open(broken, threads=1) as session:
        ids = session.tokenize(TEXT)
        at_once, fed = session.logits(ids), session.decode_logits(ids)
        np.testing.assert_array_equal(fed[0], at_once[0])  # there is no cache yet
        assert np.abs(fed - at_once).max() > 0.01


# ---- images


@BOTH
def test_images_are_seen_as_by_the_source(runtime: Any, seeing: Any, vision_graphs: dict[str, Bundle]) -> None:
    seen = vision.ask(seeing, "drawing", vision.drawing())
    with runtime.open(graph(vision_graphs), threads=1) as session:
        assert session.identity().has_vision
        image = vision.compare_image(seen, session)
        assert image.max_error < 1e-3
        assert image.kl < 1e-9
        assert session.image_tokens(280, 196) == seeing.image_tokens(280, 196) == image.tokens
        ids = session.tokenize(TEXT)
        np.testing.assert_allclose(session.logits(ids), seeing.logits(ids), atol=1e-4)
        np.testing.assert_allclose(session.decode_logits(ids), seeing.logits(ids), atol=1e-4)


def test_a_batch_padded_on_the_left_answers_as_each_alone(seeing: Any, vision_graphs: dict[str, Bundle]) -> None:
    pixels = [vision.drawing(), vision.drawing(140, 84), vision.drawing(56, 56)]
    texts = ("What is this?", "Another, longer question for the batch?", "?")
    prompts = [seeing.image_prompt(text) for text in texts]
    with onnxruntime.RUNTIME.open(graph(vision_graphs), threads=1) as session:
        assert [session.image_prompt(text) for text in texts] == prompts
        together = session.image_generate(prompts, pixels, 8)
        assert together == [session.image_generate([p], [x], 8)[0] for p, x in zip(prompts, pixels, strict=True)]
    assert together == seeing.image_generate(prompts, pixels, 8)


def test_the_other_graphs_are_those_of_the_same_precision(tmp_path: Path) -> None:
    main = tmp_path / "decoder_model_merged_q4.onnx"
    for name in ("embed_tokens.onnx", "embed_tokens_q4.onnx", "vision_encoder.engine"):
        (tmp_path / name).touch()
    assert _graph_session.sibling(main, "embed_tokens") == tmp_path / "embed_tokens_q4.onnx"
    assert _graph_session.sibling(main, "vision_encoder") is None
    assert _graph_session.sibling(tmp_path / "model.engine", "vision_encoder") == tmp_path / "vision_encoder.engine"


def test_a_decoder_alone_is_a_failure_that_says_what_is_missing(
    vision_graphs: dict[str, Bundle], tmp_path: Path
) -> None:
    alone = graph(copied(vision_graphs, tmp_path / "onnx"))
    alone.with_name("embed_tokens.onnx").unlink()
    with pytest.raises(RuntimeFailure, match="takes embeddings, and beside it is no graph that makes them"):
        onnxruntime.RUNTIME.open(alone)


# ---- graphs that do not run


@BOTH
def test_data_that_is_cut_off_is_a_failure_in_the_runtimes_words(
    runtime: Any, text_graphs: dict[str, Bundle], tmp_path: Path
) -> None:
    main = graph(copied(text_graphs, tmp_path / "onnx"), "fp16")
    data = main.with_name(f"{main.name}_data")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeFailure, match=rf"(?i){runtime.NAME} could not load {main.name}: .*(data|external)"):
        runtime.open(main)


@BOTH
def test_a_graph_that_is_none_is_a_failure_in_one_line(
    runtime: Any, text_graphs: dict[str, Bundle], tmp_path: Path
) -> None:
    main = graph(copied(text_graphs, tmp_path / "onnx"))
    for broken in (b"", b"not a graph", main.read_bytes()[:5000]):
        main.write_bytes(broken)
        with pytest.raises(RuntimeFailure, match=f"{runtime.NAME} could not load") as failure:
            runtime.open(main)
        assert "\n" not in str(failure.value)
        assert len(str(failure.value)) < 600


def test_a_folder_without_its_config_is_a_failure(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    main = graph(copied(text_graphs, tmp_path / "onnx"))
    main.with_name("config.json").unlink()
    with pytest.raises(RuntimeFailure, match="transformers could not load"):
        onnxruntime.RUNTIME.open(main)


def test_in_a_process_of_its_own_it_answers_the_same(reference: Any, text_graphs: dict[str, Bundle]) -> None:
    with runtimes.open_session(onnxruntime.RUNTIME, graph(text_graphs), threads=1) as session:
        ids = session.tokenize(TEXT)
        np.testing.assert_allclose(session.decode_logits(ids), reference.logits(ids), atol=1e-5)
    with pytest.raises(NotOnThisMachine, match="no CPU kernel"):
        runtimes.open_session(onnxruntime.RUNTIME, graph(text_graphs, "bf16"))


@BOTH
def test_a_graph_that_names_a_file_outside_of_its_folder_is_refused(
    runtime: Any, text_graphs: dict[str, Bundle], tmp_path: Path
) -> None:
    import onnx

    main = graph(copied(text_graphs, tmp_path / "onnx"), "fp16")
    data = main.with_name(f"{main.name}_data")
    data.rename(tmp_path / "elsewhere")
    model = onnx.load(main, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == data.name:
                entry.value = "../elsewhere"
    onnx.save(model, main)
    with pytest.raises(RuntimeFailure, match=r"could not load .*(outside the base|escapes model) directory"):
        runtime.open(main)
