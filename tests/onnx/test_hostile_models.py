"""Models that would cost memory or time, or that no graph can be right for: one clear error, from headers alone."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.formats.onnx.stage import STAGE as stage
from tests import tiny
from tests.fixtures_gguf import edit_weights, packed_matrix, source_inputs


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("hostile") / "Tiny", layers=1)


def problems(folder: Path, **options: Any) -> list[str]:
    return [str(problem) for problem in stage.check(stage.Options(**options), source_inputs(folder))]


def with_config(folder: Path, copy: Path, **changes: Any) -> Path:
    """The checkpoint with other words in its config.json."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).hardlink_to(path)
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("flavor", ["portable", "genai"])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**6},  # a module each: minutes, and gigabytes
        {"num_hidden_layers": 10**13},  # transformers writes down the kind of every layer
        {"num_labels": 10**13},
        {"text_config": {"num_hidden_layers": 10**13}},
        {"vision_config": {"depth": 10**13}},
    ],
)
def test_counts_beyond_what_the_weights_can_hold(
    changes: dict[str, Any], flavor: str, llama: Path, tmp_path: Path
) -> None:
    (said,) = problems(with_config(llama, tmp_path / "hostile", **changes), flavor=flavor)
    assert "config.json" in said
    assert "the checkpoint has" in said


@pytest.mark.parametrize("changes", [{"head_dim": 2 * 10**9}, {"hidden_size": 10**9}, {"vocab_size": 10**12}])
def test_sizes_beyond_memory_cost_none(changes: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    folder = with_config(llama, tmp_path / "hostile", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (said,) = problems(folder)
    assert "too large" in said or "disagrees with the weights" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # kB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if "mlp.up_proj" not in k}, "lacks model.layers.0.mlp.up_proj.weight"),
        (lambda t: t | {"model.more.weight": t["model.norm.weight"].clone()}, "unknown tensors: model.more.weight"),
        (lambda t: t | {"model.norm.weight": t["model.norm.weight"][:8].clone()}, "model.norm.weight [8]"),
    ],
)
@pytest.mark.parametrize("flavor", ["portable", "genai"])
def test_weights_that_are_not_the_configs(
    flavor: str, change: Callable[[dict[str, Any]], dict[str, Any]], words: str, tmp_path: Path
) -> None:
    """Of both flavors: what lacks is no random number."""
    folder = tiny.tiny_llama(tmp_path / "Tiny", layers=1)
    edit_weights(folder, change)
    assert any(words in line for line in problems(folder, flavor=flavor))


def test_a_genai_folder_of_quantized_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = with_config(llama, tmp_path / "quantized", quantization_config={"quant_method": "awq", "bits": 4})
    edit_weights(folder, packed_matrix)
    assert "quantization_config says AWQ" in problems(folder, flavor="genai")[0]
