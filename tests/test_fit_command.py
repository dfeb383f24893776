"""`convert fit`: what it is given, what it says, and that a hub's weights stay where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from convert.bundle import Role
from convert.cli import main
from tests import tiny
from tests.fixtures_gguf import convert as make_gguf
from tests.fixtures_server import NAME, Hub, serving

FARA = Path(__file__).parents[1] / "recipes" / "models" / "fara-nano"
HEAD = {"version", "model", "context", "cells", "cache_type", "flash_attention", "texts", "images", "gpu_bytes",
        "ram_bytes", "reserve_bytes", "best", "rows", "notes"}  # fmt: skip
ROW = {"type", "file_bytes", "bits_per_weight", "weights_bytes", "cache_bytes", "compute_bytes", "output_bytes",
       "projector_bytes", "total_bytes", "host_bytes", "fits", "runs", "best", "gpu_layers", "layers",
       "tokens_per_second", "needs_imatrix"}  # fmt: skip


def fit(*words: object) -> Result:
    return CliRunner().invoke(main, ["fit", *map(str, words)], catch_exceptions=False)


def asked(*words: object) -> dict[str, Any]:
    result = fit(*words, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("fit") / "tiny", tied=False)


def test_the_words_of_the_json_stay(folder: Path) -> None:
    found = asked(folder, "--gpu", "1GB", "--bandwidth", "400GB/s")
    assert found.keys() == HEAD
    assert found["version"] == 1
    assert all(row.keys() == ROW for row in found["rows"])
    sizes = [row["file_bytes"] for row in found["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["type"] for row in found["rows"] if row["best"]] == [found["best"]] == ["BF16"]
    assert all(row["tokens_per_second"] > 0 for row in found["rows"])


def test_sizes_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    rows = {row["type"]: row for row in asked(folder, "--ram", "1GB")["rows"]}
    for kind in ("F16", "Q8_0", "Q4_K_M"):
        (made,) = (artifact.path for artifact in make_gguf(folder, tmp_path / kind, kind).of(Role.WEIGHTS))
        assert rows[kind]["file_bytes"] == made.stat().st_size
        of_file = asked(made, "--ram", "1GB")["rows"]
        assert [row["type"] for row in of_file] == [kind]
        assert of_file[0]["total_bytes"] == rows[kind]["total_bytes"]


def test_a_table_for_people(folder: Path) -> None:
    result = fit(folder, "--vram", "1GiB", "--context", "16k", "--kv", "q8_0")
    assert result.exit_code == 0
    first, heads, *lines = result.stdout.splitlines()
    assert first == "tiny: GPU 1,073,741,824 bytes; context 16,384 tokens, cache q8_0"
    assert heads.split() == ["type", "file", "bits/w", "weights", "cache", "buffers", "all", "fits", "layers"]
    assert any(line.startswith("BF16") and line.endswith("<- the best that fits") for line in lines)
    assert any("is more than the 512 that the model was made for" in line for line in lines)


def test_what_does_not_fit_the_gpu_fits_in_part(folder: Path) -> None:
    whole = asked(folder, "--gpu", "1GB")["rows"][0]
    budget = whole["total_bytes"] - 1
    part = asked(folder, "--gpu", budget, "--bandwidth", "1GB/s")["rows"][0]
    assert (whole["fits"], whole["gpu_layers"], whole["layers"]) == (True, 3, 3)
    assert (part["fits"], part["runs"], part["gpu_layers"]) == (False, True, 2)
    assert part["host_bytes"] > whole["host_bytes"]
    assert part["tokens_per_second"] is None  # nothing says how fast the host's memory is
    both = asked(folder, "--gpu", budget, "--bandwidth", "1GB/s", "--ram-bandwidth", "100MB/s")["rows"][0]
    assert (
        0
        < both["tokens_per_second"]
        < asked(folder, "--gpu", "1GB", "--bandwidth", "1GB/s")["rows"][0]["tokens_per_second"]
    )
    assert not asked(folder, "--gpu", budget, "--ram", part["host_bytes"] - 1)["rows"][0]["runs"]


def test_memory_is_left_free(folder: Path) -> None:
    total = asked(folder, "--gpu", "1GB")["rows"][0]["total_bytes"]
    assert asked(folder, "--gpu", total)["rows"][0]["fits"]
    assert not asked(folder, "--gpu", total, "--reserve", "1")["rows"][0]["fits"]


def test_a_budget_below_the_smallest(folder: Path) -> None:
    result = fit(folder, "--ram", "1MB")
    assert result.exit_code == 2
    assert "error: --ram: 1,000,000 bytes, and the smallest, " in result.stderr
    assert "most of it" in result.stderr
    assert "compute buffer" in result.stderr
    assert result.stdout == ""


def test_images_bring_the_projector() -> None:
    without, with_one = (asked(FARA, "--gpu", "2GB", *words)["rows"][0] for words in ([], ["--images", 1]))
    assert without["projector_bytes"] == 0
    assert with_one["projector_bytes"] > 180 << 20  # nearly all of it the buffer for an image of 1288 pixels a side
    assert with_one["total_bytes"] == without["total_bytes"] + with_one["projector_bytes"]


def test_a_recipes_model() -> None:
    recipe = FARA.parents[1] / "demo.yaml"
    assert asked(recipe, "--ram", "1GB")["rows"] == asked(FARA, "--ram", "1GB")["rows"]


def test_a_config_is_enough(folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(folder / "config.json", tmp_path / "config.json")
    found, whole = asked(tmp_path, "--ram", "1GB"), asked(folder, "--ram", "1GB")
    assert [row["weights_bytes"] for row in found["rows"]] == [row["weights_bytes"] for row in whole["rows"]]
    assert any("no weights in the folder" in note for note in found["notes"])
    assert any("no tokenizer" in note for note in found["notes"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "")
    model = tiny.tiny_llama(tmp_path / "Tiny", tied=False)
    with serving(model) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running


def test_of_a_hub_model_headers_are_read(hub: Hub) -> None:
    found = asked(NAME, "--gpu", "1GB")
    here = asked(hub.folder, "--gpu", "1GB")
    for row, same in zip(found["rows"], here["rows"], strict=True):
        assert row["weights_bytes"] == same["weights_bytes"]
        assert 0 < row["file_bytes"] - same["file_bytes"] < 1000  # whose model it is, is said in the file
    spans = [span for path, span in hub.asked if path.endswith(".safetensors")]
    stored = (hub.folder / "model.safetensors").stat().st_size
    header = int.from_bytes((hub.folder / "model.safetensors").read_bytes()[:8], "little") + 8
    assert spans
    assert all(int(span.rpartition("-")[2]) < header < stored for span in spans)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a memory: --gpu 8GB, --ram 16GB or both"),
        (["--gpu", "lots"], "'lots' is not an amount of memory, wanted one as 8GB"),
        (["--gpu", "1GB", "--context", "-5"], "is not a number of tokens"),
        (["--gpu", "1GB", "--kv", "q8"], "llama.cpp has no cache of type 'q8'"),
        (["--gpu", "1GB", "--kv", "q8_0", "--no-flash-attention"], "quantizes V only with flash attention"),
        (["--gpu", "1GB", "--images", "1"], "has no vision tower"),
        (["--gpu", "1GB", "--mmproj", "x.gguf"], "beside a checkpoint"),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, folder: Path) -> None:
    result = fit(folder, *words)
    assert result.exit_code in {1, 2}
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_what_is_no_model(tmp_path: Path) -> None:
    for what, said in ((tmp_path / "none.gguf", "is no file"), (tmp_path / "none.txt", "is no model")):
        result = fit(what, "--ram", "1GB")
        assert result.exit_code == 1
        assert said in result.stderr


def test_a_family_that_is_not_known(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {
        "architectures": ["OddForCausalLM"],
        "model_type": "odd",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = fit(tmp_path, "--ram", "1GB")
    assert result.exit_code != 0
    assert "OddForCausalLM" in result.stderr
