"""Every precision of real models' graphs: what is left in float32, how many Casts, and logits close to float32's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from convert.formats.onnx import bind
from convert.formats.onnx.attention import multiplications
from convert.formats.onnx.blocks import Int4
from convert.formats.onnx.half import to_half
from convert.formats.onnx.int4 import to_int4
from convert.formats.onnx.int8 import to_int8
from convert.formats.onnx.linears import head, linears
from tests.fixtures_onnx_graphs import counts
from tests.onnx.graphs import TextGraph, ledger_of, traced
from tests.onnx.test_families import FAMILIES

SHAPES = ("llama with llama3 rope", "qwen2 tied", "qwen3", "phi3 with longrope", "gemma2: windows, soft caps")
"""All that differ in what stands around a layer."""
PASSES: dict[str, tuple[Callable[[ir.Model], None], float]] = {  # and the largest difference of a logit, of 1 and less
    "fp16": (lambda model: to_half(model, ir.DataType.FLOAT16), 0.004),
    "int8": (to_int8, 0.1),
    "int4": (lambda model: to_int4(model, Int4(16)), 0.5),
}


@pytest.fixture(scope="module", params=SHAPES)
def bound(request: pytest.FixtureRequest) -> Callable[[], ir.Model]:
    """Makes the bound graph of a family."""
    folder, graph = traced(FAMILIES[request.param])

    def make() -> ir.Model:
        model = graph.clone()
        bind.bind(model, ledger_of(folder))
        return model

    return make


def run(model: ir.Model, folder: Path) -> np.ndarray:
    """Logits of three texts, two padded in front, fed in two calls."""
    ir.save(model, folder / "model.onnx", external_data="model.onnx_data")
    graph = TextGraph(folder / "model.onnx")
    tokens = np.random.default_rng(0).integers(3, 300, (3, 9))
    mask = np.ones_like(tokens)
    mask[0, :4] = mask[2, :1] = 0
    first, cache = graph(tokens[:, :6], mask=mask[:, :6])
    second, _ = graph(tokens[:, 6:], cache, mask)
    return np.concatenate([first, second], axis=1)[mask == 1]


def test_logits_are_close_to_those_of_float32(bound: Callable[[], ir.Model], tmp_path: Path) -> None:
    wanted = run(bound(), tmp_path)
    for name, (change, limit) in PASSES.items():
        change(model := bound())
        worst = np.abs(run(model, tmp_path) - wanted).max()
        assert 1e-6 < worst < limit * max(1, np.abs(wanted).max()), name


def test_every_layer_and_attention_is_half_but_what_is_kept(bound: Callable[[], ir.Model]) -> None:
    model = bound()
    layers, attention = len(linears(model)), len(multiplications(model))
    to_half(model, ir.DataType.FLOAT16)
    kept = {found.node for found in linears(model) if "down_proj" in found.name}
    half = {node for node in model.graph if node.op_type == "MatMul" and node.inputs[0].dtype == ir.DataType.FLOAT16}
    assert len(half) == layers + attention - len(kept)
    assert attention == 2 * 2  # two layers
    assert not half & kept
    for value in [*model.graph.inputs, *model.graph.outputs]:
        assert (value.dtype == ir.DataType.FLOAT16) == value.name.startswith(("past_key_values.", "present."))


def test_casts_do_not_multiply(bound: Callable[[], ir.Model]) -> None:
    model = bound()
    before = counts(model)["Cast"]
    to_half(model, ir.DataType.FLOAT16)
    assert counts(model)["Cast"] <= before + 2 * 14  # at most two a multiplication, of which there are eight to nine
    for node in model.graph:
        made = node.inputs[0].producer() if node.op_type == "Cast" else None
        if made is not None and made.op_type == "Cast":  # no way there and back
            assert ir.DataType.FLOAT16 not in (made.inputs[0].dtype, made.outputs[0].dtype), node


def test_integers_take_every_layer(bound: Callable[[], ir.Model]) -> None:
    layers = len(linears(bound()))
    to_int8(eight := bound())
    to_int4(four := bound(), Int4(16))
    assert counts(eight)["MatMulInteger"] == layers
    assert counts(four)["MatMulNBits"] == layers
    assert not linears(eight)
    assert not linears(four)
    assert {node.domain for node in eight.graph} == {""}


def test_the_head_is_found_and_can_be_kept(bound: Callable[[], ir.Model]) -> None:
    model = bound()
    last = head(model)
    assert last is not None
    to_int4(model, Int4(16), keep=[re.compile(r"^lm_head\.")])
    assert [found.node for found in linears(model)] == [last]
