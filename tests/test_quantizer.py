"""GPTQ and AWQ of every family's tiny checkpoint: what the folder holds is the model that the quantizer saw.

Nothing here runs gptqmodel: folders are decoded by the layouts alone and run as any checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.errors import ConvertError
from convert.formats.compressed.against import tensor_pairs
from convert.formats.compressed.folder import Layout, write_weights
from convert.formats.compressed.kept_layers import KeptLayers
from convert.formats.compressed.quantizer import Quantizer
from convert.formats.compressed.scheme import Scheme, quantization_config
from convert.model.layered import Layered
from convert.source.checkpoint import open_checkpoint
from tests.model.test_layered import PLAIN
from validate import diagnosis
from validate.runtimes import _compressed, _packed

SCHEMES = {"gptq": Scheme("gptq", 4, 32, symmetric=True), "awq": Scheme("awq", 4, 32, symmetric=False)}
REFUSED = ("gpt2", "gpt_oss", "granitemoe", "qwen3_vl_moe")  # transposed, or experts packed in one tensor
# a front of the norm in each: a kind of norm (plain, 1 + weight, with a bias), and none where it stands behind
FRONTS = {"llama": 0.0, "nemotron": 1.0, "bloom": 0.0, "olmo2": None, "mixtral": 0.0}


def layout_of(folder: Path, scheme: Scheme) -> Layout | None:
    """None where the checkpoint is refused, or its tiny matrices do not fill the layout's words."""
    layout = Layout(open_checkpoint(folder), scheme)
    try:
        layout.check()
    except ConvertError:
        return None
    return layout


def rows(model: Any) -> list[dict[str, torch.Tensor]]:
    most = min(model.config.get_text_config().vocab_size, 200)
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(5, most, (4, 48), generator=generator)} for _ in range(4)]


def logits(model: Layered, inputs: list[dict[str, torch.Tensor]], visitor: Any = None) -> list[torch.Tensor]:
    found = {number: output.logits for number, output in model.run(inputs, visitor)}  # type: ignore[attr-defined]
    return [found[number] for number in range(len(inputs))]


def lost_more_than_rounding(made: Path, folder: Path, layout: Layout) -> dict[str, str]:
    """What validation says of the tensors of a folder that is right: nothing."""
    config = json.loads((folder / "config.json").read_text())
    words = quantization_config(layout.scheme, layout.towers, {}, layout.head)
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": words}))
    pairs = tensor_pairs(sorted(made.glob("*.safetensors")), folder)
    pieces = ((pair, [diagnosis.measure_piece(a, b) for a, b in pair.pieces(1)]) for pair in pairs)
    return diagnosis.suspects([diagnosis.measured(pair.name, pair.type, found) for pair, found in pieces])


def decoded(folder: Path, made: Path, scheme: Scheme, home: Path) -> Layered:
    """The folder's weights as floats, beside the config of the source."""
    words = {"quant_method": scheme.method, "bits": scheme.bits}
    matrices, _ = _packed.decoded(made, words)
    state = _compressed.tensors(made, _packed.plain_names(made))
    state |= {name: torch.from_numpy(np.ascontiguousarray(matrix)) for name, matrix in matrices.items()}
    home.mkdir()
    save_file({name: tensor.float().contiguous() for name, tensor in state.items()}, home / "model.safetensors")
    shutil.copyfile(folder / "config.json", home / "config.json")
    return Layered.open(home)


@pytest.mark.parametrize("method", SCHEMES)
@pytest.mark.parametrize("name", [name for name in PLAIN if name.split(",")[0] not in REFUSED])
def test_the_folder_is_what_the_quantizer_saw(name: str, method: str, tmp_path: Path) -> None:
    scheme, folder = SCHEMES[method], PLAIN[name].make(tmp_path / "tiny")
    layout = layout_of(folder, scheme)
    if layout is None:
        pytest.skip("its tiny matrices have rows or columns that are no multiple of 32")
    model, warned = Layered.open(folder), list[str]()
    inputs = rows(model.model)
    kept = KeptLayers(tmp_path / "kept")
    quantizer = Quantizer(model, layout, scheme.how, kept, on_layer=lambda: None, warn=warned.append)
    seen = logits(model, inputs, quantizer)
    assert {f"{m}.qweight" for m in layout.decision.quantized} <= kept.tensors().keys()
    if method == "awq" and name in FRONTS:
        found = [front.plus for kind, front in quantizer._trials.items() if front and not front.source]
        assert found == [] if FRONTS[name] is None else set(found) == {FRONTS[name]}
    made = tmp_path / "made"
    made.mkdir()
    write_weights(made, layout, kept.tensors())
    assert lost_more_than_rounding(made, folder, layout) == {}
    for got, wanted in zip(logits(decoded(folder, made, scheme, tmp_path / "whole"), inputs), seen, strict=True):
        scale = float(wanted.std())
        assert float((got - wanted).abs().mean()) < 0.02 * scale, "scales and norms are rounded to 16 bits, no more"


@pytest.mark.parametrize("name", [name for name in PLAIN if name.split(",")[0] in REFUSED])
def test_what_no_loader_takes_is_refused(name: str, tmp_path: Path) -> None:
    layout = Layout(open_checkpoint(PLAIN[name].make(tmp_path / "tiny")), SCHEMES["gptq"])
    with pytest.raises(ConvertError, match=r"inputs before outputs|all experts of a layer in one tensor"):
        layout.check()


def test_a_run_goes_on_at_its_layer_and_gives_the_same(tmp_path: Path) -> None:
    folder, scheme = PLAIN["llama"].make(tmp_path / "tiny"), SCHEMES["awq"]
    layout = layout_of(folder, scheme)
    assert layout is not None
    model, kept = Layered.open(folder), KeptLayers(tmp_path / "kept")
    inputs = rows(model.model)
    asked = {"on_layer": lambda: None, "warn": lambda text: None}
    wanted = logits(model, inputs, Quantizer(model, layout, scheme.how, kept, **asked))
    whole = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    for path in kept.folder.glob("model.layers.1.*"):
        path.unlink()
    (kept.folder / "model.layers.1.part").write_bytes(b"half of it")
    got = logits(model, inputs, Quantizer(model, layout, scheme.how, kept, **asked))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert {name: (kept.folder / name).read_bytes() for name in whole} == whole


def test_all_experts_see_every_token_where_it_is_asked(tmp_path: Path) -> None:
    from dataclasses import replace

    from convert.model.inputs import Listening

    model = Layered.open(PLAIN["mixtral"].make(tmp_path / "tiny"))
    counted: list[torch.Tensor] = []

    class Counts:
        def __init__(self, every: bool) -> None:
            self.every = every

        def visit(self, layer: Any, calls: Any) -> Any:
            listening = Listening(layer, lambda name: False, all_experts=self.every)
            for call in calls:
                with torch.inference_mode(), listening.open(model.model):
                    output = call.run()
                yield output
            counted.extend(found.counts for found in listening.found.values() if found.experts > 1)

    inputs = rows(model.model)[:1]
    plain = logits(model, inputs, Counts(False))
    some, counted = counted, []
    assert torch.equal(plain[0], logits(model, inputs, Counts(True))[0])
    assert all((counts == inputs[0]["input_ids"].numel()).all() for counts in counted)
    assert not all((counts == inputs[0]["input_ids"].numel()).all() for counts in some)
    assert replace(SCHEMES["gptq"], calibrate_all_experts=True).how.all_experts
