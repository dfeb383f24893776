"""The source on transformers: loaded late, given back whole, and refused where its files are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle
from tests.fixtures_validate import folder, tiny_text, tiny_vision
from tests.parity.families import cases
from validate import runtimes
from validate.runtimes import RuntimeFailure, transformers

__all__ = ["tiny_text", "tiny_vision"]  # fixtures


@pytest.mark.parametrize(
    ("said", "inner"), [({"eos_token_id": [484, 482]}, {"eos_token_id": 2}), ({}, {"eos_token_id": [484]}), ({}, {})]
)
def test_ends_without_a_generation_config_are_those_transformers_generates_by(
    tmp_path: Path, said: dict[str, Any], inner: dict[str, Any]
) -> None:
    """Of a config in two parts the whole's count first, and no default of a config's class (LlamaConfig's is 2)."""
    import transformers as library

    home = cases()["idefics3"].make(tmp_path)
    config = json.loads((home / "config.json").read_text())
    del config["eos_token_id"]
    (home / "config.json").write_text(json.dumps(config | said | {"text_config": config["text_config"] | inner}))
    model = library.AutoModelForImageTextToText.from_pretrained(home, local_files_only=True)
    by_config = model.generation_config.eos_token_id
    with transformers.RUNTIME.open(home, threads=1) as session:
        ends = session.identity().end_of_generation
    assert ends == {482, *(by_config if isinstance(by_config, list) else [])}  # 482 is the tokenizer's


@pytest.mark.parametrize("break_it", ["missing", "unexpected"])
def test_a_source_with_a_tensor_too_few_or_too_many_is_no_reference(
    tiny_text: dict[str, Bundle], tmp_path: Path, break_it: str
) -> None:
    from safetensors.torch import load_file, save_file

    for path in folder(tiny_text).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if break_it == "missing":
        del tensors[name]
    else:
        tensors["model.layers.1.mlp.side_proj.weight"] = tensors[name].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with (
        runtimes.open_session(transformers.RUNTIME, tmp_path) as session,
        pytest.raises(RuntimeFailure, match=f"1 {break_it} keys: model.layers.1.mlp"),
    ):
        session.logits([1])


def test_a_source_is_loaded_when_its_weights_are_asked_for(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    """All that is kept of it from an earlier run is answered without; weights that are broken fail what needs them."""
    for path in folder(tiny_vision).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    with transformers.RUNTIME.open(tmp_path, threads=1) as session:
        ids = session.tokenize("Click the button.")
        assert session.detokenize(ids) == "Click the button."
        assert session.identity().has_vision
        assert len(session.pieces()) == session.identity().vocab
        assert session.image_prompt("Look.")
        assert session.image_tokens(280, 196) == 70
        assert session.identity().pixel_limits == (3136, 200704)
        assert session.bytes_to_load == 4 * sum(p.numel() for p in _parameters(tmp_path))
        assert session.logits(ids).shape[0] == len(ids)
        assert session.bytes_to_load == 0
        assert not any(p.is_inference() for p in session.model.parameters())
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with transformers.RUNTIME.open(tmp_path, threads=1) as session:
        assert session.tokenize("Click the button.") == ids
        for ask in (lambda: session.logits(ids), lambda: session.generate(ids, 2), lambda: session.model):
            with pytest.raises(RuntimeFailure, match="transformers could not load"):
                ask()


def _parameters(checkpoint: Path) -> list[Any]:
    from safetensors.torch import load_file

    return list(load_file(checkpoint / "model.safetensors").values())


@pytest.mark.parametrize("loaded", [False, True])
def test_closing_a_source_gives_back_what_it_took(tiny_text: dict[str, Bundle], loaded: bool) -> None:
    import torch

    before = torch.get_num_threads()
    session = transformers.RUNTIME.open(folder(tiny_text), threads=before + 1)
    assert torch.get_num_threads() == before + 1
    if loaded:
        session.logits([1])
    session.close()
    assert torch.get_num_threads() == before
    assert session.model is None, "a session that is closed loads nothing"


def test_code_of_a_checkpoint_is_not_run(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    import json

    for path in folder(tiny_text).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(RuntimeFailure, match="could not load"):
        runtimes.open_session(transformers.RUNTIME, tmp_path)
    assert not (tmp_path / "ran").exists()
