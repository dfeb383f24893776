"""Every declared model: names, shapes, types and bytes are those that mlx_lm.convert writes of the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert import architectures
from convert.formats.mlx.models import FAMILIES, MODELS
from tests.fixtures_mlx import WORDS, differences, made, of_mlx_lm, own
from tests.parity.families import cases, config_of, tried

NOT_LOADED = {  # by mlx-lm itself, or not as it is: the checkpoint's own, beside what would have to be another there
    "cohere2": "heads that are not hidden_size / heads wide",
    "deci, a matrix in place of attention": "a matrix in place of attention",
    "deepseek2, V2, latent queries": "no rope_scaling",
    "gpt2": "names that begin with transformer.",
    "internlm3": "heads that are not hidden_size / heads wide",
    "internlm3, no biases": "heads that are not hidden_size / heads wide",
    "laguna, no windows, a gate for each value": "a gate for each value",
    "llama, the text of SmolVLM": "names of a model within another",
    "mamba, of mamba_ssm": "another name of the embedding",
    "minicpm3, untied, wide values": "no rope_scaling",
    "qwen2_moe, no biases": "no biases",
    "starcoder, untied, width unsaid": "width of the MLP unsaid",
}
CASES = [name for name in tried(cases()) if name not in NOT_LOADED]


def _declared(name: str, folder: Path) -> bool:
    config = config_of(name, folder)
    model = MODELS.get(str(config.get("model_type")))
    return model is not None and model.library == "mlx-lm" and not any(config.get(word) for word in model.refuses)


@pytest.mark.parametrize("name", CASES)
def test_as_mlx_lm_makes_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    family = name.partition(",")[0]
    if not _declared(name, tmp_path / "Tiny"):
        assert family not in FAMILIES or "," in name or _sees(tmp_path / "Tiny"), "no model is declared, yet listed"
        pytest.skip("no model of mlx-lm is declared for it")
    assert family in FAMILIES
    config = json.loads((tmp_path / "Tiny" / "config.json").read_text())
    _, folder = made(tmp_path / "Tiny", tmp_path / "out", method="plain", bits=4, group_size=32)
    mine, words = own(folder)
    added = {**WORDS.get(config["model_type"], {}), "tie_word_embeddings": json_of(folder)["tie_word_embeddings"]}
    theirs, their_words = of_mlx_lm(tmp_path / "Tiny", 32, 4, **added)
    assert differences(mine, theirs) == []
    assert {k: (v["bits"], v["group_size"]) for k, v in words.items() if isinstance(v, dict)} == {
        k: (v["bits"], v["group_size"]) for k, v in their_words.items() if isinstance(v, dict)
    }


def json_of(folder: Path) -> dict[str, object]:
    """config.json of a folder, or what it says in its text model."""
    config = json.loads((folder / "config.json").read_text())
    return {**config, **config.get("text_config", {})}


def _sees(folder: Path) -> bool:
    return "vision_config" in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_mixed_bits_as_mlx_lm_chooses_them(recipe: str, tmp_path: Path) -> None:
    """On 64 layers, where every rule has a layer of its own."""
    pytest.importorskip("mlx_lm")
    source = cases()["exaone4, 64 layers, windows"].make(tmp_path / "Tiny")
    _, folder = made(source, tmp_path / "out", method="plain", mixed=recipe, group_size=32)
    mine, words = own(folder)
    tied = {"tie_word_embeddings": json_of(folder)["tie_word_embeddings"]}
    theirs, their_words = of_mlx_lm(source, 32, 4, recipe, **tied)
    assert differences(mine, theirs) == []
    chosen = {name: value["bits"] for name, value in words.items() if isinstance(value, dict)}
    assert chosen == {name: value["bits"] for name, value in their_words.items() if isinstance(value, dict)}
    assert len(set(chosen.values())) == 2


def test_families_that_are_listed_are_there() -> None:
    assert {family.name for family in architectures.families()} >= FAMILIES
