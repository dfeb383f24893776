"""The stage on graphs: good, drifted, broken, or beside companions that are not the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert.bundle import Bundle
from convert.validation.stage import STAGE as stage
from tests.fixtures_graphs import copied, graph, swap_cache, swap_tokens, text_graphs, vision_graphs
from tests.validate.test_validate_stage import FEW, report_of
from validate import vision

__all__ = ["text_graphs", "vision_graphs"]  # fixtures


def rows_of(inputs: dict[str, Bundle], tmp_path: Path, **options: Any) -> dict[str, Any]:
    report, _ = report_of(stage.Options(**FEW, **options), inputs, tmp_path)
    return {row["label"]: row for row in report["outputs"]}


def only(inputs: dict[str, Bundle], *precisions: str) -> dict[str, Bundle]:
    """The bundles with some of the graphs."""
    kept = tuple(a for a in inputs["onnx"].roles["weights"] if a.type in (*precisions, "shared"))  # type: ignore[index]
    return inputs | {"onnx": inputs["onnx"].with_(weights=kept)}


def test_graphs_pass_each_as_a_row_and_what_has_no_kernel_is_told(
    text_graphs: dict[str, Bundle], tmp_path: Path
) -> None:
    report, page = report_of(stage.Options(also_on="openvino", **FEW), text_graphs, tmp_path)
    rows = {row["label"]: row for row in report["outputs"]}
    assert list(rows) == [f"onnx/{t}{on}" for t in ("fp32", "fp16", "bf16") for on in ("", "@openvino")]
    assert rows.pop("onnx/bf16")["neutral"]
    assert {row["status"] for row in rows.values()} == {"passed"}, [row["reason"] for row in rows.values()]
    exact = rows["onnx/fp32"]
    assert exact["metrics"]["kl_mean"] < 1e-12
    assert exact["metrics"]["decode_max_abs"] < 1e-5
    assert exact["metrics"]["greedy_equal"] == 1.0
    assert exact["contract"]["templates_runtime"]["total"] == 0
    assert "does not apply" in exact["contract"]["templates_runtime"]["note"]
    assert 16 < exact["bits_per_weight"] < 20  # the checkpoint's own bfloat16, and the graph
    assert exact["size_bytes"] > graph(text_graphs).stat().st_size + 100_000
    assert "openvino" in rows["onnx/fp32@openvino"]["runtime"]
    assert page.startswith("# demo: all 5 outputs passed, 1 more built and not run\n")
    assert "- **NOT RUN** `onnx/bf16`: built, not run: ONNX Runtime has no CPU kernel" in page
    assert "| `onnx/fp32@openvino` | passed |" in page


def test_images_and_clicks_go_through_the_three_graphs(vision_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(vision.drawing(112 + 28 * i, 84)).save(tmp_path / f"{i}.png")
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text("\n".join(f'{{"image": "{i}.png", "instruction": "x", "box": [0, 0, 9, 9]}}' for i in range(2)))
    (row,) = rows_of(vision_graphs, tmp_path, clicks=clicks, images=[tmp_path / "0.png"]).values()
    assert row["status"] == "passed", row["reason"]
    assert row["metrics"]["image_max_error"] < 1e-3
    assert row["metrics"]["image_kl"] < 1e-9
    assert row["metrics"]["click_drop"] == 0.0
    assert row["limits"]["image_cosine_unresized"]["limit"] == 0.999
    assert row["vision"]["projector"]["path"].endswith("vision_encoder.onnx")
    names = [Path(file["path"]).name for file in row["files"]]
    assert names[0] == "decoder_model_merged.onnx"
    assert {"embed_tokens.onnx", "vision_encoder.onnx", "model.safetensors"} == set(names[1:])


def test_another_models_tokenizer_beside_the_graph_is_caught(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    inputs = only(copied(text_graphs, tmp_path / "onnx"), "fp32")
    swap_tokens(tmp_path / "onnx")
    (row,) = rows_of(inputs, tmp_path).values()
    assert row["status"] == "failed"
    assert "tokens_equal" in row["reason"]
    assert "vocabulary_equal" in row["reason"]
    assert row["metrics"]["kl_mean"] < 1e-12  # the weights are right: only the companions are not


def test_a_chat_template_that_is_not_the_models_is_caught(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    inputs = only(copied(text_graphs, tmp_path / "onnx"), "fp32")
    (tmp_path / "onnx" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (row,) = rows_of(inputs, tmp_path).values()
    assert row["status"] == "failed"
    assert "templates_equal" in row["reason"]


def test_a_cache_that_is_wrong_is_caught(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    inputs = only(copied(text_graphs, tmp_path / "onnx"), "fp32")
    swap_cache(graph(inputs))
    limits = {"fp32": {"decode_max_abs": 0.001}}
    (row,) = rows_of(inputs, tmp_path, limits=limits).values()
    assert row["status"] == "failed"
    assert "decode_max_abs" in row["reason"]
    assert row["metrics"]["kl_mean"] < 1e-12  # read at once, nothing is wrong


def test_broken_data_fails_its_row_and_only_its(text_graphs: dict[str, Bundle], tmp_path: Path) -> None:
    inputs = only(copied(text_graphs, tmp_path / "onnx"), "fp32", "fp16")
    data = graph(inputs, "fp16")
    data = data.with_name(f"{data.name}_data")
    whole = data.read_bytes()
    values = np.frombuffer(whole, np.float16).copy()
    values[5::1000] = np.nan
    data.write_bytes(values.tobytes())
    rows = rows_of(inputs, tmp_path / "nan")
    assert (rows["onnx/fp32"]["status"], rows["onnx/fp16"]["status"]) == ("passed", "failed")
    assert "the candidate's logits are not finite" in rows["onnx/fp16"]["reason"]
    data.write_bytes(whole[: len(whole) // 2])
    rows = rows_of(inputs, tmp_path / "short")
    assert (rows["onnx/fp32"]["status"], rows["onnx/fp16"]["status"]) == ("passed", "failed")
    assert "ONNX Runtime could not load model_fp16.onnx" in rows["onnx/fp16"]["reason"]
    assert not rows["onnx/fp16"]["neutral"]


def test_a_runtime_that_is_not_installed_is_never_a_pass(
    text_graphs: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from validate.runtimes import onnxruntime

    monkeypatch.setattr(onnxruntime.RUNTIME, "available", lambda: "onnxruntime not installed: pip install it")
    (row,) = rows_of(only(text_graphs, "fp32"), tmp_path).values()
    assert (row["status"], row["neutral"]) == ("not_run", False)


def test_what_lies_beside_the_graphs_is_known_before_anything_runs(vision_graphs: dict[str, Bundle]) -> None:
    assert stage.check(stage.Options(also_on="openvino", require="run"), vision_graphs) == []
    lines = stage.explain(stage.Options(), vision_graphs)
    assert lines[0].startswith("onnx/fp32: ")
    assert "image_cosine_unresized >= 0.999 (default)" in lines[0]
