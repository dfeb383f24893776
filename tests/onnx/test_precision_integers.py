"""int8 and int4: the bytes that ONNX Runtime's own quantizers give, one weight in memory at a time."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from convert.formats.onnx import blocks, int4, int8, linears
from convert.formats.onnx.blocks import Int4
from convert.formats.onnx.int4 import to_int4
from convert.formats.onnx.int8 import to_int8
from quantize import nbits
from quantize.grids import Quantized
from quantize.nbits_layout import Encoded, Layout
from tests.fixtures_onnx_graphs import counts, decoder, graph, inputs, run

STORAGE = ("FLOAT", "FLOAT16", "BFLOAT16")
EVERYTHING: list[re.Pattern[str]] = []


def layer(inputs: int, outputs: int, seed: int = 0) -> ir.Model:
    """`x @ w` with w (inputs, outputs), and one output whose weights are all zero."""
    weight = np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)
    weight[:, 1] = 0
    weight[:, 2] *= 1e-6
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, {inputs}] x) => (float[n, {outputs}] y) {{ y = MatMul (x, w) }}"""
    return graph(text, [ir.tensor(weight, name="w")])


def values(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize("storage", STORAGE)
def test_int8_is_close_to_float32(storage: str, tmp_path: Path) -> None:
    plain, small = decoder(storage), decoder(storage)
    to_int8(small, EVERYTHING)
    wanted = run(plain, inputs(plain), tmp_path)["logits"]
    got = run(small, inputs(small), tmp_path)["logits"]
    assert 0.001 < np.abs(got - wanted).max() < 0.25  # measured: 0.16 of logits of 1
    assert {node.domain for node in small.graph} == {""}
    assert counts(small)["MatMulInteger"] == 15


def test_int8_gives_the_weights_of_quantize_dynamic_and_less_error(tmp_path: Path) -> None:
    """The same weights and scales to the bit; of lopsided activations, some much larger, an eighth of the error."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = layer(70, 33)
    ir.save(model, tmp_path / "plain.onnx")
    quantize_dynamic(
        tmp_path / "plain.onnx",
        tmp_path / "theirs.onnx",
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QInt8,
    )
    theirs = ir.load(tmp_path / "theirs.onnx")
    to_int8(model, EVERYTHING)
    np.testing.assert_array_equal(values(model, "w_int8"), values(theirs, "w_quantized"))
    np.testing.assert_array_equal(values(model, "w_scales"), values(theirs, "w_scale"))
    decoded = values(model, "w_int8").astype(np.float64) * values(model, "w_scales")
    np.testing.assert_allclose(values(model, "w_sums"), decoded.sum(0), rtol=1e-4, atol=1e-4)
    x = np.random.default_rng(1).standard_normal((5, 70)).astype(np.float32) + 2
    x[0] *= 20
    wanted = x @ decoded
    ours, other = (np.abs(run(one, {"x": x}, tmp_path)["y"] - wanted)[1:].max() for one in (model, theirs))
    assert ours < other / 8  # measured: a 20th


def test_an_activation_is_quantized_once_for_all_its_layers() -> None:
    model = decoder()
    to_int8(model, EVERYTHING)
    # a layer: for q, k and v; for o; for gate and up; for down; and once for the head
    assert counts(model)["DynamicQuantizeLinear"] == 2 * 4 + 1


def test_onnx_runtime_fuses_the_integer_layers(tmp_path: Path) -> None:
    import onnxruntime as ort

    model = decoder()
    to_int8(model)
    ir.save(model, tmp_path / "graph.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(tmp_path / "graph.onnx", options, providers=["CPUExecutionProvider"])
    found = counts(ir.load(tmp_path / "optimized.onnx"))
    assert found["MatMulIntegerToFloat"] + found["DynamicQuantizeMatMul"] == 15


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("size", "block"), [((96, 40), 32), ((70, 33), 16), ((300, 5), 128), ((8, 8), 16)])
@pytest.mark.parametrize("bits", [4, 8])
def test_int4_gives_the_bytes_of_onnx_runtimes_quantizer(
    size: tuple[int, int], block: int, symmetric: bool, bits: int, monkeypatch
) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    monkeypatch.setattr(int4, "FINE_BITS", bits)
    model = layer(*size)
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, accuracy_level=4, bits=bits)
    peer = MatMulNBitsQuantizer(ir.to_proto(model), algo_config=config)
    peer.process()
    theirs = {t.name: onnx.numpy_helper.to_array(t) for t in peer.model.model.graph.initializer}
    to_int4(model, Int4(block, symmetric, "plain"), EVERYTHING)
    names = [f"w_Q{bits}", "w_scales", "w_zero_points"][: 2 if symmetric else 3]
    assert sorted(model.graph.initializers) == sorted(names) == sorted(theirs)
    for name in names:
        assert model.graph.initializers[name].shape == theirs[name].shape
        np.testing.assert_array_equal(values(model, name), theirs[name], err_msg=name)
    (node,), (other,) = model.graph, peer.model.model.graph.node
    ours = {a.name: a.value for a in node.attributes.values()}
    assert ours == {a.name: a.i for a in other.attribute}
    assert [v.name for v in node.inputs] == list(other.input)


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_runs_and_is_what_its_weights_say(storage: str, symmetric: bool, monkeypatch, tmp_path: Path) -> None:
    """Logits of the quantized graph and of the plain one with the rounded weights, activations being float32."""
    monkeypatch.setattr(int4, "ACCURACY", 1)
    model, rounded = decoder(storage), decoder("FLOAT")
    source = decoder(storage)
    to_int4(model, Int4(16, symmetric), EVERYTHING)
    for name, value in rounded.graph.initializers.items():
        if name != "frequencies":
            array = source.graph.initializers[name].const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=name)
    for found in [*linears.linears(rounded), *linears.lookups(rounded)]:
        found.weight.const_value = ir.tensor(dequantized(model, found, symmetric), name=found.name)
    feeds = inputs(model)
    got, wanted = run(model, feeds, tmp_path), run(rounded, feeds, tmp_path)
    np.testing.assert_allclose(got["logits"], wanted["logits"], atol=2e-5)


def dequantized(model: ir.Model, found: linears.Linear, symmetric: bool) -> np.ndarray:
    """(outputs, inputs) float32 of what MatMulNBits holds, by its documentation."""
    bits = 8 if f"{found.name}_Q8" in model.graph.initializers else 4
    scales = values(model, f"{found.name}_scales")
    numbers = unpacked(values(model, f"{found.name}_Q{bits}"), bits).reshape(*scales.shape, -1)
    zeros = np.full(scales.shape, 1 << (bits - 1), np.float32)
    if not symmetric and bits == 4:
        zeros = unpacked(values(model, f"{found.name}_zero_points"), bits)[:, : scales.shape[1]]
    whole = ((numbers - zeros[..., None]) * scales[..., None]).reshape(len(scales), -1)
    return whole[:, : found.inputs]


def unpacked(array: np.ndarray, bits: int) -> np.ndarray:
    numbers = array[..., None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    return numbers.reshape(len(array), -1).astype(np.float32)


def test_a_graph_without_logits_has_eight_bits() -> None:
    to_int4(model := layer(64, 8))
    assert [node.attributes["bits"].value for node in model.graph] == [8]


def test_a_graph_without_layers_stays_standard() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    embed (int64[n] ids) => (float[n, 4] inputs_embeds) { inputs_embeds = Gather (w, ids) }"""
    to_int4(model := graph(text, [ir.tensor(np.ones((9, 4), np.float32), name="w")]))
    assert dict(model.opset_imports) == {"": 20}
    assert not model.metadata_props


def test_the_head_has_eight_bits_tied_or_not() -> None:
    for tied in (False, True):
        model = decoder(tied=tied)
        to_int4(model)
        bits = {node.inputs[1].name: node.attributes["bits"].value for node in model.graph if node.domain}
        wide = [name for name, number in bits.items() if number == 8 and "v_proj" not in name]
        assert wide == ["model.embed_tokens.weight_Q8" if tied else "lm_head.weight_Q8"]
        assert set(bits.values()) == {4, 8}


def test_a_token_of_large_values_takes_no_precision_from_the_others(tmp_path: Path) -> None:
    """Each token is quantized by itself, in effect; one whose values are all the same is exact."""
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 64] x) => (float[n, 32] y) { y = MatMul (x, w) }"""
    model = graph(text, [ir.tensor(weight, name="w")])
    to_int8(model)
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    x[0] *= 10000
    x[1] = 0
    x[2] = 3
    got = run(model, {"x": x}, tmp_path)["y"]
    assert not got[1].any()
    decoded = values(model, "w_int8").astype(np.float32) * values(model, "w_scales")
    np.testing.assert_allclose(got[2], 3 * decoded.sum(0), rtol=1e-4, atol=1e-4)
    assert np.abs(got - x @ weight)[3:].max() < 0.02 * np.abs(x @ weight)[3:].max()


def test_int4_says_what_it_is_not_for() -> None:
    model = decoder()
    to_int4(model)
    assert model.opset_imports["com.microsoft"] == 1
    assert "TensorRT" in model.metadata_props["convert.not_for"]
    assert {node.op_type for node in model.graph if node.domain} == {"MatMulNBits"}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("to", [to_int8, to_int4])
def test_keep_leaves_layers_as_they_are(to, tied: bool, tmp_path: Path) -> None:
    model = decoder("BFLOAT16", tied=tied)
    to(model, keep=[re.compile("lm_head"), re.compile("down_proj")])
    names = [found.name for found in linears.linears(model)]
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert names == ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight", head]
    assert model.graph.initializers[head].dtype == ir.DataType.BFLOAT16
    assert np.isfinite(run(model, inputs(model), tmp_path)["logits"]).all()


@pytest.mark.parametrize("to", [to_int8, to_int4])
def test_nothing_stays_in_the_stored_type(to) -> None:
    model = decoder("BFLOAT16")
    to(model)
    assert ir.DataType.BFLOAT16 not in {value.dtype for value in model.graph.initializers.values()}


@pytest.mark.parametrize("storage", ["FLOAT", "BFLOAT16"])
@pytest.mark.parametrize(
    "to", [to_int8, lambda m: to_int4(m, Int4(16)), lambda m: to_int4(m, Int4(16, False, embed=4, lm_head=4))]
)
def test_a_tied_table_is_stored_once(to, storage: str, tmp_path: Path) -> None:
    """The same logits as those of a head of its own with equal weights, and a table less."""
    tied, apart = decoder(storage, tied=True), decoder(storage)
    table = tied.graph.initializers["model.embed_tokens.weight"].const_value
    for name, value in apart.graph.initializers.items():
        same = tied.graph.initializers.get(name, tied.graph.initializers["model.embed_tokens.weight"])
        value.const_value = ir.tensor(same.const_value.numpy(), name=name)
    to(tied)
    to(apart)
    wanted, got = (run(model, inputs(model), tmp_path)["logits"] for model in (apart, tied))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    names = [name for name in tied.graph.initializers if "embed" in name or "head" in name]
    assert len(names) in (2, 3)
    assert all(name.startswith("model.embed_tokens.weight_") for name in names)
    assert values(tied, names[0]).nbytes in (table.size, table.size // 2)


@pytest.mark.parametrize("ids", [np.array([3, 8]), np.array([[3], [0]])])
@pytest.mark.parametrize(
    "to", [to_int8, lambda m: to_int4(m, Int4(16)), lambda m: to_int4(m, Int4(16, False, embed=4, lm_head=4))]
)
def test_rows_of_a_table_in_eight_bits(to, ids: np.ndarray, tmp_path: Path) -> None:
    """Standard operators; rows that blocks do not divide are cut where they were filled up."""
    axes = "n" if ids.ndim == 1 else "batch, sequence"
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    embed (int64[{axes}] ids) => (float[{axes}, 40] inputs_embeds) {{
        rows = Gather (w, ids)
        inputs_embeds = Cast <to = 1> (rows)
    }}"""
    table = np.random.default_rng(0).standard_normal((9, 40)).astype(ir.DataType.BFLOAT16.numpy())
    model = graph(text, [ir.tensor(table, name="w")])
    model.graph.initializers["w"].name = "embed_tokens.weight"
    to(model)
    assert dict(model.opset_imports) == {"": 20}
    assert all("weight_" in name for name in model.graph.initializers)
    got = run(model, {"ids": ids}, tmp_path)["inputs_embeds"]
    wanted = table[ids].astype(np.float32)
    bits = 4 if any(name.endswith("_Q4") for name in model.graph.initializers) else 8
    assert 0 < np.abs(got - wanted).max() < np.abs(wanted).max() / (200 if bits == 8 else 10)


def test_a_weight_is_quantized_once_when_written_in_order(monkeypatch, tmp_path: Path) -> None:
    asked: list[str] = []
    original = int8.quantize

    def counted(layer: linears.Linear) -> tuple[np.ndarray, ...]:
        asked.append(layer.name)
        return original(layer)

    def encode(layer: linears.Linear, layout: Layout) -> tuple[np.ndarray, ...]:
        asked.append(layer.name)
        return blocks.rounded(layer, layout)

    monkeypatch.setattr(int8, "quantize", counted)
    for to in (to_int8, functools.partial(to_int4, encode=encode)):
        asked.clear()
        model = decoder()
        to(model)
        assert not asked  # nothing before it is written
        for value in model.graph.initializers.values():
            value.const_value.numpy()
        assert len(asked) == len(set(asked)) == 16


@pytest.mark.parametrize("to", [to_int8, lambda m, keep: to_int4(m, Int4(16, False), keep)])
def test_weights_in_pieces_give_the_same_bytes(to, monkeypatch) -> None:
    whole, pieces = layer(70, 33), layer(70, 33)
    to(whole, EVERYTHING)
    to(pieces, EVERYTHING)
    wanted = {name: values(whole, name) for name in whole.graph.initializers}
    for module in (linears, blocks):
        monkeypatch.setattr(module, "CHUNK", 70 * 4)
    for name, array in wanted.items():
        np.testing.assert_array_equal(values(pieces, name), array, err_msg=name)


@pytest.mark.parametrize("to", [to_int8, lambda m, keep: to_int4(m, Int4(16), keep)])
def test_a_weight_is_read_after_the_graph_has_changed(to) -> None:
    """A flattened kernel is read through operators that are gone by then."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 12] x) => (float[n, 5] y) {
        shape = Constant <value_ints = [5, 12]> ()
        flat = Reshape (w, shape)
        turned = Transpose <perm = [1, 0]> (flat)
        y = MatMul (x, turned)
    }"""
    kernel = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    model = graph(text, [ir.tensor(kernel, name="w")])
    (found,) = linears.linears(model)
    to(model, EVERYTHING)
    assert "w" not in model.graph.initializers
    np.testing.assert_array_equal(found.matrix(), kernel.reshape(5, 12).T)
    plain = graph(
        text.replace("shape = Constant", "s = Constant").replace("flat = Reshape (w, shape)", "flat = Identity (w)"),
        [ir.tensor(kernel.reshape(5, 12), name="w")],
    )
    to(plain, EVERYTHING)
    for name in model.graph.initializers:
        np.testing.assert_array_equal(values(model, name), values(plain, name))


def test_the_matrices_that_matter_most_have_eight_bits() -> None:
    """v_proj unasked; the first and the last down_proj, and others, as they are asked for."""

    def wide(asked: Int4) -> set[str]:
        model = decoder()
        to_int4(model, asked)
        return {name.removesuffix("_Q8") for name in model.graph.initializers if name.endswith("_Q8")}

    values_ = {f"model.layers.{number}.self_attn.v_proj.weight" for number in (0, 1)}
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    downs = {f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1)}
    assert wide(Int4()) == values_ | ends
    assert wide(Int4(edge_down=8, v_proj=4)) == downs | ends
    assert wide(Int4(embed=4, lm_head=4, v_proj=4)) == set()


def test_a_block_of_eight_bits_is_never_filled_up() -> None:
    assert Int4().layout(8, 576).block_size == 64
    assert Int4().layout(8, 512).block_size == 128
    assert Int4(block_size=256).layout(8, 512).block_size == 256
    assert Int4(method="plain").layout(8, 512).block_size == 32


@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_of_gptq_are_written_as_they_are(symmetric: bool) -> None:
    """What a reader computes with is what GPTQ's own reader computes with."""
    rng = np.random.default_rng(0)
    zeros = np.full((33, 3), 8, np.uint8) if symmetric else rng.integers(1, 16, (33, 3), np.uint8)
    scales = rng.random((33, 3)).astype(np.float16)
    given = Quantized(rng.integers(0, 16, (33, 96), np.uint8), scales, zeros)
    model = layer(96, 33)
    (found,) = linears.linears(model)
    solved = blocks.Solved({"w": given}.get, blocks.Search())
    layout = Layout(4, 32, symmetric)
    parts = solved(found, layout)
    assert [part.shape for part in parts] == layout.shapes(33, 96)
    decoded = nbits.decode(Encoded(*parts), layout, 96)
    np.testing.assert_array_equal(decoded, given.dequantized())
    assert solved.search.counts == {"by GPTQ": 1}
    solved(found, Layout(8, 32))
    assert solved.search.counts == {"by GPTQ": 1, "searched": 1}
