"""Passes that were killed go on at the layer they were at, with the same bytes at the end; else they begin anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convert.model import layered
from convert.model.forward import Call
from convert.model.layered import Layer, Layered, Through
from convert.model.resume import Resume
from tests import processes, tiny
from tests.model.passes import Sums, windows
from tests.parity.families import cases

KILLED_AT = "model.layers.3"


@pytest.fixture(autouse=True)
def small_matrices_are_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered, "LARGE", 64 * 200)


def command(checkpoint: Path, folder: Path, *words: str) -> list[str]:
    paths = [str(checkpoint), str(folder / "state"), str(folder / "result.npz")]
    return [sys.executable, "-m", "tests.model.passes", *paths, *words]


def lines_of(checkpoint: Path, folder: Path, *words: str) -> list[str]:
    """What a run that is left alone prints."""
    output = processes.run(command(checkpoint, folder, *words), check=True, capture_output=True, text=True).stdout
    return output.splitlines()  # type: ignore[no-any-return]


def killed(checkpoint: Path, folder: Path, *words: str) -> None:
    """A run that ends by SIGKILL when a layer's weights were read."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with processes.started(command(checkpoint, folder, "--wait", *words), **pipes) as process:
        assert process.stdin
        assert process.stdout
        while process.stdout.readline().strip() != KILLED_AT:
            process.stdin.write("\n")
            process.stdin.flush()
        process.kill()
        assert process.wait(60) == -9


@pytest.mark.parametrize("words", [(), ("--gather",)], ids=["logits", "statistics"])
def test_a_killed_run_goes_on_at_its_layer(words: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint = tiny.tiny_llama(tmp_path / "model", layers=5)
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    killed(checkpoint, tmp_path / "killed", *words)
    (left,) = (tmp_path / "killed" / "state").glob("*.layers")
    lines = lines_of(checkpoint, tmp_path / "killed", *words)
    assert lines[0] == "goes on behind model.layers.2, where the last run was"
    assert [line for line in lines if line.startswith("model.layers")] == ["model.layers.3", "model.layers.4"]
    lines_of(checkpoint, tmp_path / "whole", *words)
    assert (tmp_path / "killed" / "result.npz").read_bytes() == (tmp_path / "whole" / "result.npz").read_bytes()
    assert not left.exists(), "nobody goes on from a run that is through"


class Stops(Through):
    """As a run that is killed when a layer's weights were read: nothing behind that is written."""

    def __init__(self, at: str = "") -> None:
        self.at, self.seen = at, list[str]()

    def visit(self, layer: Layer, calls: Any) -> Any:
        self.seen.append(layer.name)
        if layer.name == self.at:
            raise KeyboardInterrupt
        return super().visit(layer, calls)


def stopped(parts: Layered, inputs: Any, resume: Resume) -> Path:
    at, parts.resume = parts.decoder_layers()[-1].name, resume
    with pytest.raises(KeyboardInterrupt):
        list(parts.run(inputs, Stops(at)))
    return resume.path


def seen(parts: Layered, inputs: Any, resume: Resume) -> list[str]:
    """The decoder layers that a run reads, whose logits are those of a run from the start."""
    parts.resume = None
    looking, wanted = Stops(), dict(parts.run(inputs))
    parts.resume = resume
    for number, output in parts.run(inputs, looking):
        assert torch.equal(output.logits, wanted[number].logits)  # type: ignore[attr-defined]
    return [name for name in looking.seen if name in {layer.name for layer in parts.decoder_layers()}]


# those whose layers give tuples, whose towers' features are added between the decoder's layers, with experts
ODD = ("llama", "gpt2", "bloom", "falcon", "mpt", "gemma2", "mixtral", "qwen3_vl", "gemma3_vision", "qwen2_5_vl")


@pytest.mark.parametrize("name", ODD)
def test_families(name: str, tmp_path: Path) -> None:
    parts = Layered.open(cases()[name].make(tmp_path / "tiny"))
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0)
    assert stopped(parts, inputs, resume).is_file()
    assert seen(parts, inputs, resume) == [parts.decoder_layers()[-1].name]
    assert not any(resume.folder.iterdir())


def test_images_are_read_again(tmp_path: Path) -> None:
    """Their features are added behind the decoder's first layers."""
    from validate import vision
    from validate.runtimes.base import IMAGE_MARK
    from validate.runtimes.transformers import TransformersSession

    folder = cases()["qwen3_vl"].make(tmp_path / "tiny")
    session = TransformersSession(folder, 1, False)
    prompt = session.mark_images(session.image_prompt("x"))
    assert IMAGE_MARK in prompt
    arrays = session.image_inputs([prompt], [vision.drawing(112, 84)])
    inputs = [{name: torch.from_numpy(array) for name, array in arrays.items()}]
    parts, resume = Layered.open(folder), Resume(tmp_path / "state", "key", seconds=0)
    assert stopped(parts, inputs, resume).is_file()
    assert seen(parts, inputs, resume) == [parts.decoder_layers()[-1].name]


def test_fewer_passes_go_on_too(tmp_path: Path) -> None:
    """Some windows' logits were there and are kept when the last run was killed."""
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0)
    stopped(parts, inputs, resume)
    assert seen(parts, inputs[1:], resume) == ["model.layers.2"]


def test_statistics_of_other_passes_do_not_go_on(tmp_path: Path) -> None:
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0, statistics=Sums())
    stopped(parts, inputs, resume)
    assert len(seen(parts, inputs[1:], resume)) == 3


def broken(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [broken, cut])
def test_a_broken_file_is_none(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0)
    spoil(stopped(parts, inputs, resume))
    assert len(seen(parts, inputs, resume)) == 3


def test_of_another_model_or_other_tokens_it_is_none(tmp_path: Path) -> None:
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0)
    others = [{"input_ids": arguments["input_ids"] + 1} for arguments in inputs]
    stopped(parts, inputs, resume)
    assert len(seen(parts, others, resume)) == 3
    left = stopped(parts, inputs, resume)
    assert len(seen(parts, inputs, replace(resume, key="another"))) == 3
    assert not left.exists(), "what nobody will ask for takes no room"


def test_it_is_written_no_more_often_than_asked(tmp_path: Path) -> None:
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    assert not stopped(parts, windows(parts), Resume(tmp_path / "state", "key")).exists()


def test_layers_that_share_state_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one writes into a dict for another would be lost where it is skipped."""
    parts = Layered.open(tiny.tiny_llama(tmp_path / "tiny", layers=3))
    call = Call.__init__

    def shares(self: Call, layer: Layer, args: Any, kwargs: Any, number: int = 0) -> None:
        call(self, layer, args, {**kwargs, "shared": {}} if layer.in_list else kwargs, number)

    monkeypatch.setattr(Call, "__init__", shares)
    inputs, resume = windows(parts), Resume(tmp_path / "state", "key", seconds=0)
    assert not stopped(parts, inputs, resume).exists()


def test_as_good_as_the_whole_model(tmp_path: Path) -> None:
    """The npz of tests.model.passes holds what transformers gives."""
    from transformers import AutoModelForCausalLM

    checkpoint = tiny.tiny_llama(tmp_path / "model", layers=3)
    lines_of(checkpoint, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with np.load(tmp_path / "result.npz") as found, torch.inference_mode():
        for number, arguments in enumerate(windows(Layered(model))):
            assert np.abs(found[f"{number}"] - model(**arguments).logits.numpy()).max() < 1e-5
