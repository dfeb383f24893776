"""Graphs of models that write no text by one stack; all classes are measured by `python -m tests.onnx.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert.errors import InputError
from convert.formats.onnx import bind, tasks
from convert.formats.onnx.export import prepare
from convert.formats.onnx.stage import STAGE
from tests.fixtures_gguf import source_inputs
from tests.onnx import task_contract as contract
from tests.onnx.contract import LIMIT
from tests.onnx.graphs import config_of, export
from tests.onnx.task_checkpoints import CASES, STACKS, TEXT, Tiny

SHALLOW = {**STACKS, "encoder_layers": 1, "decoder_layers": 1}
IN_THE_SUITE = (Tiny("MarianMTModel", "MarianConfig", SHALLOW), CASES["ResNetForImageClassification"])
ENDINGS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForDepthEstimation": "depth-estimation",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "ForConditionalGeneration": "text2text-generation",
}


@pytest.mark.parametrize("tiny", IN_THE_SUITE, ids=lambda tiny: tiny.kind)
def test_graphs_give_what_transformers_gives(tiny: Tiny, tmp_path: Path) -> None:
    found = contract.measure(tiny.make(tmp_path / "tiny"), tmp_path / "out", ("fp32", "int8"))
    assert found.apart < LIMIT
    assert found.precisions == ("fp32", "int8")


def test_every_class_has_the_task_of_its_name() -> None:
    import transformers

    for kind, tiny in CASES.items():
        config = getattr(transformers, tiny.config)(architectures=[kind])
        task = tasks.find(config)
        assert not task.is_text, kind
        wanted = next((name for end, name in ENDINGS.items() if kind.endswith(end)), task.name)
        assert task.name == wanted, kind
        assert task.auto_class().__name__ == task.auto


def test_a_decoder_keeps_its_task_and_becomes_an_embedder_by_the_files_beside_it() -> None:
    import transformers

    config = transformers.Qwen3Config(architectures=["Qwen3ForCausalLM"])
    assert tasks.find(config) is tasks.TEXT_GENERATION
    assert tasks.find(config, is_embedder=True) is tasks.FEATURES


# ---- embedding models


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with the head it was trained with, and sentence-transformers' files: mean, a matrix, length 1."""
    folder = Tiny("BertForMaskedLM", "BertConfig", TEXT).make(tmp_path_factory.mktemp("embedder") / "tiny")
    for name, config in {
        "1_Pooling": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense": {"in_features": 32, "out_features": 16, "bias": True},
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(kinds, paths, strict=True)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    draw = np.random.default_rng(1)
    weights = {"linear.weight": draw.normal(size=(16, 32)), "linear.bias": draw.normal(size=16)}
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


def vectors(folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What sentence-transformers would make of the texts."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    hidden = contract.run(model, feeds).last_hidden_state.numpy()
    seen = feeds["attention_mask"][..., None]
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    mean = (hidden * seen).sum(1) / seen.sum(1)
    out = np.tanh(mean @ dense["linear.weight"].T + dense["linear.bias"])
    return out / np.linalg.norm(out, axis=1, keepdims=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def embedding_graphs(embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the hub's layout, whose folder is whole: what sentence-transformers reads lies where it was."""
    folder = tmp_path_factory.mktemp("embedder-graphs")
    export(embedder, folder, precision=("fp32", "fp16", "int8"), layout="hub")
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors", "modules.json"):
        assert (folder / name).read_bytes() == (embedder / name).read_bytes()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    return folder / "onnx"


def test_pooling_and_length_are_inside_the_graph(embedder: Path, embedding_graphs: Path) -> None:
    for batch, length, padded in ((1, 3, 0), (3, 9, 4)):
        feeds = contract.texts(batch, length, padded)
        wanted = vectors(embedder, feeds)
        for suffix, least in {"": 1 - 1e-6, "_fp16": 0.9999, "_quantized": 0.99}.items():
            made = contract.Folder(embedding_graphs, suffix)("model", feeds)
            assert set(made) == {"last_hidden_state", "sentence_embedding"}
            assert (made["sentence_embedding"] * wanted).sum(1).min() > least, suffix


def test_the_masked_head_is_left_out_and_named(embedder: Path) -> None:
    lines = "\n".join(STAGE.explain(STAGE.Options(), source_inputs(embedder)))
    assert "left out: cls.predictions" in lines


def test_pooling_can_be_left_to_the_caller(embedder: Path) -> None:
    for pooling, outputs in {True: ("last_hidden_state", "sentence_embedding"), False: ("last_hidden_state",)}.items():
        prepared = prepare(source_inputs(embedder)["source"], pooling=pooling)
        (part,) = prepared.cut.parts(prepared.config)
        assert tuple(part.outputs) == outputs


def test_onnx_runtime_embeds_as_the_source_does(embedder: Path, embedding_graphs: Path) -> None:
    """The session that a validation opens, on the graph; its folder has no tokenizer, which this one lends it."""
    from validate.embeddings import EMBEDDINGS
    from validate.runtimes import _graph_encoder, onnxruntime

    graph = onnxruntime.OnnxGraph(embedding_graphs / "model.onnx", 1)
    assert _graph_encoder.is_encoder(graph)
    session = object.__new__(_graph_encoder.GraphEncoder)
    session._graph, session._name, session._sentences = graph, "model.onnx", None
    session._text = config_of(embedder)
    tokens = [5, 17, 33, 80]
    feeds = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, 4), np.int64)}
    assert np.abs(session.embed(tokens) - vectors(embedder, feeds)[0]).max() < 1e-5
    assert EMBEDDINGS == "embeddings"


# ---- what is refused, and what is left out


def test_a_weight_that_a_graph_needs_is_missed_and_one_that_none_needs_is_not(tmp_path: Path) -> None:
    folder = CASES["Dinov2Model"].make(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    for name in ("embeddings.mask_token", "embeddings.cls_token"):  # of training, and of every image
        del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    assert STAGE.check(STAGE.Options(), source_inputs(folder)) == []
    ledger = prepare(source_inputs(folder)["source"]).ledger
    bind.check_found(ledger, {"layernorm.weight"})
    with pytest.raises(InputError, match=r"lacks embeddings\.cls_token"):
        bind.check_found(ledger, {"layernorm.weight", "embeddings.cls_token"})


def test_a_class_without_a_graph_is_refused_in_words(tmp_path: Path) -> None:
    folder = CASES["BertModel"].make(tmp_path / "tiny")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["BertForMultipleChoice"], "model_type": "megatron-bert"}
    (folder / "config.json").write_text(json.dumps(config))
    (problem,) = STAGE.check(STAGE.Options(), source_inputs(folder))
    assert "BertForMultipleChoice" in str(problem)
    assert "feature-extraction" in str(problem)


def test_a_pair_of_stacks_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = CASES["BartForConditionalGeneration"].make(tmp_path / "tiny")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BartModel"]}))
    (problem,) = STAGE.check(STAGE.Options(), source_inputs(folder))
    assert "BartModel is a base model of two stacks" in str(problem)
