"""float16 and bfloat16: what is half and what is not, how many Casts that takes, and that nothing overflows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from convert.errors import InputError
from convert.formats.onnx.attention import scale_queries
from convert.formats.onnx.half import to_half
from convert.formats.onnx.linears import head, linears, split_gemms
from tests.fixtures_onnx_graphs import counts, decoder, graph, inputs, reference, run

HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
STORAGE = ("FLOAT", "FLOAT16", "BFLOAT16")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("storage", STORAGE)
def test_float16_is_close_to_float32(storage: str, tied: bool, tmp_path: Path) -> None:
    plain = decoder(storage, tied=tied)
    wanted = run(plain, inputs(plain), tmp_path)
    half = decoder(storage, tied=tied)
    to_half(half, HALF)
    got = run(half, inputs(half), tmp_path)
    for name, array in wanted.items():
        assert got[name].dtype == (np.float32 if name == "logits" else np.float16)
        np.testing.assert_allclose(got[name], array, atol=0.01, err_msg=name)  # measured: 0.004 of logits of 1


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_arithmetic_in_16_bits_is_close(dtype: ir.DataType) -> None:
    """ONNX Runtime multiplies float16 in float32 on a CPU; the reference rounds every product."""
    plain, half = decoder("BFLOAT16"), decoder("BFLOAT16")
    to_half(half, dtype)
    wanted, got = reference(plain), reference(half)
    worst = np.abs(got["logits"] - wanted["logits"]).max()
    assert 1e-5 < worst < (0.01 if dtype == HALF else 0.08)  # measured: 0.004 and 0.03


def test_what_is_half_and_what_is_not() -> None:
    model = decoder("BFLOAT16")
    to_half(model, HALF)
    types = {value.name: value.dtype for value in ir.convenience.create_value_mapping(model.graph).values()}
    for value in [*model.graph.inputs, *model.graph.outputs]:
        assert (value.dtype == HALF) == value.name.startswith(("past_key_values.", "present.")), value.name
    weights = model.graph.initializers
    assert all(weights[f.name].dtype == HALF for f in linears(model))
    assert weights["model.embed_tokens.weight"].dtype == HALF
    assert {weights[n].dtype for n in weights if "norm" in n or "bias" in n} == {ir.DataType.FLOAT}
    for name in ("l0.context", "l0.joined", "l0.k5", "l0.v5", "l0.scores", "l0.gate", "present.0.key"):
        assert types[name] == HALF, name
    for node in model.graph:
        if node.op_type in ("Softmax", "Cos", "Sin", "Sigmoid", "ReduceMean", "Sqrt", "Add", "Mul", "Div"):
            assert all(v.dtype != HALF for v in node.inputs if v is not None), node
    assert weights["frequencies"].dtype == ir.DataType.FLOAT  # positions times frequencies stay float32


def test_the_casts_of_a_layer_are_those_that_types_need() -> None:
    one, two = decoder("BFLOAT16", layers=1), decoder("BFLOAT16", layers=2)
    for model in (one, two):
        to_half(model, HALF)
    # in:  input of q, k and v; keys; queries; softmax; input of gate and up
    # out: q (for its bias), k (to be turned), scores, attended, gate, up; and the weight of down_proj
    assert counts(two)["Cast"] - counts(one)["Cast"] == 5 + 7
    # and elsewhere: attention_mask and position_ids, the embedding, the last norm, the logits
    assert counts(one)["Cast"] == 5 + 7 + 5
    to_half(bare := decoder("BFLOAT16", layers=1), HALF, [])
    assert counts(bare)["Cast"] == counts(one)["Cast"] + 1  # down_proj's input and output instead of its weight


def test_no_cast_undoes_another_and_none_is_there_twice() -> None:
    model = decoder("FLOAT16")
    to_half(model, HALF)
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert len({(node.inputs[0], node.attributes["to"].value) for node in casts}) == len(casts)
    made = [node.inputs[0].producer() for node in casts]
    widened = [node for node in made if node is not None and node.op_type == "Cast"]
    assert all(node.inputs[0].name == "position_ids" for node in widened)


def test_the_cache_is_concatenated_in_half() -> None:
    model = decoder("BFLOAT16")
    to_half(model, HALF)
    for n in range(2):
        for key in ("key", "value"):
            node = next(o for o in model.graph.outputs if o.name == f"present.{n}.{key}").producer()
            assert node.op_type == "Concat"
            assert node.inputs[0].name == f"past_key_values.{n}.{key}"
            assert {v.dtype for v in node.inputs} == {HALF}


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_product_that_float16_cannot_hold_stays_float32() -> None:
    """gate and up give thousands, their product a million: more than 65504 in what enters down_proj."""
    plain = decoder("BFLOAT16", boost=500)
    wanted = reference(plain, also=("l0.product",))
    assert np.abs(wanted["l0.product"]).max() > 1e6
    bare, kept = decoder("BFLOAT16", boost=500), decoder("BFLOAT16", boost=500)
    to_half(bare, HALF, [])
    to_half(kept, HALF)
    assert not np.isfinite(reference(bare)["logits"]).all()
    np.testing.assert_allclose(reference(kept)["logits"], wanted["logits"], atol=0.03)
    brain = decoder("BFLOAT16", boost=500)
    to_half(brain, BRAIN)
    assert np.isfinite(reference(brain)["logits"]).all()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_in_bfloat16_are_multiplied_in_float32(tied: bool) -> None:
    model = decoder("BFLOAT16", tied=tied)
    to_half(model, BRAIN)
    node = next(output for output in model.graph.outputs if output.name == "logits").producer()
    assert node.op_type == "MatMul"
    others = [found.node for found in linears(model) if found.node is not node]
    assert {found.inputs[1].dtype for found in others} == {BRAIN}


def test_keep_names_parameters_and_the_tied_head() -> None:
    model = decoder("BFLOAT16", tied=True)
    to_half(model, HALF, [re.compile(r"lm_head"), re.compile(r"layers\.0\..*o_proj")])
    inside = {n.inputs[0].dtype for n in model.graph if n.op_type == "MatMul" and n.outputs[0].name == "logits"}
    assert inside <= {ir.DataType.FLOAT, None}
    types = {f.name: f.node.inputs[1].dtype for f in linears(model)}
    assert types["model.layers.0.self_attn.o_proj.weight"] == ir.DataType.FLOAT
    assert types["model.layers.1.self_attn.o_proj.weight"] == HALF
    assert types["model.embed_tokens.weight"] == ir.DataType.FLOAT
    assert model.graph.initializers["model.embed_tokens.weight"].dtype == HALF


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_weights_of_that_type_already_are_left_where_they_lie(dtype: ir.DataType) -> None:
    model = decoder(dtype.name)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    to_half(model, dtype)
    after = {name: value.const_value for name, value in model.graph.initializers.items() if name in before}
    assert all(before[name] is tensor for name, tensor in after.items())
    assert len(after) == len(before)


def test_weights_are_converted_when_they_are_read() -> None:
    model = decoder("FLOAT")
    whole = model.graph.initializers["lm_head.weight"].const_value.numpy().copy()
    to_half(model, HALF)
    tensor = model.graph.initializers["lm_head.weight"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    np.testing.assert_array_equal(tensor.numpy(), whole.astype(np.float16))


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_a_graph_that_is_an_embedding_alone(dtype: ir.DataType, tmp_path: Path) -> None:
    """What it gives stays float32, and keeps its name; the table is never widened."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    embed (int64[n] ids) => (float[n, 4] inputs_embeds) {
        rows = Gather (w, ids)
        inputs_embeds = Cast <to = 1> (rows)
    }"""
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(BRAIN.numpy())
    model = graph(text, [ir.tensor(table, name="w")])
    model.graph.initializers["w"].name = "embed_tokens.weight"
    to_half(model, dtype)
    assert [node.op_type for node in model.graph] == ["Gather", "Cast"]
    assert [(o.name, o.dtype) for o in model.graph.outputs] == [("inputs_embeds", ir.DataType.FLOAT)]
    assert model.graph.initializers["embed_tokens.weight"].dtype == dtype
    got = run(model, {"ids": np.array([3, 8])}, tmp_path)["inputs_embeds"]
    np.testing.assert_array_equal(got, table[[3, 8]].astype(dtype.numpy()).astype(np.float32))


def test_a_table_of_sines_is_no_weight() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    turn (int64[n] position_ids, float[n, 4] x) => (float[n, 4] y) {
        sines = Gather (sin_cached, position_ids)
        y = Mul (x, sines)
    }"""
    model = graph(text, [ir.tensor(np.ones((9, 4), np.float32), name="sin_cached")])
    to_half(model, HALF)
    assert not counts(model)["Cast"]
    assert model.graph.initializers["sin_cached"].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("order", ["scale, raw", "raw, scale"])
def test_the_head_is_found_behind_what_scales_and_caps_the_logits(order: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    head (float[n, 4] x) => (float[n, 5] logits) {{
        scale = Constant <value_float = 0.5> ()
        raw = MatMul (x, w)
        scaled = Mul ({order})
        capped = Tanh (scaled)
        logits = Mul ({order.replace("raw", "capped")})
    }}"""
    model = graph(text, [ir.tensor(np.ones((4, 5), np.float32), name="w")])
    assert head(model) is next(node for node in model.graph if node.op_type == "MatMul")


@pytest.mark.parametrize("value", [70000.0, np.inf, np.nan])
def test_a_weight_that_float16_cannot_hold_is_named(value: float) -> None:
    model = decoder("BFLOAT16")
    weight = model.graph.initializers["lm_head.weight"].const_value.numpy().copy()
    weight[3, 4] = value
    model.graph.initializers["lm_head.weight"].const_value = ir.tensor(weight, name="lm_head.weight")
    to_half(model, HALF)
    with pytest.raises(InputError, match=r"^lm_head.weight: holds .*65504.*bf16") as caught:
        model.graph.initializers["lm_head.weight"].const_value.numpy()
    if value == 70000.0:
        assert "70144" in str(caught.value)  # as bfloat16 stores it


def test_bfloat16_runs_on_openvino_and_onnx_runtime_says_what_it_lacks(tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino", reason="the openvino extra is not installed")
    plain = decoder("BFLOAT16")
    wanted = run(plain, inputs(plain), tmp_path)["logits"]
    model = decoder("BFLOAT16")
    to_half(model, BRAIN)
    feeds = inputs(model)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*MatMul"):
        run(model, feeds, tmp_path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    graph = ov.Core().compile_model(tmp_path / "graph.onnx", "CPU", options)
    brain = {k: v for k, v in feeds.items() if v.dtype == BRAIN.numpy()}
    tensors = {k: ov.Tensor(v.view(np.uint16), v.shape, ov.Type.bf16) for k, v in brain.items()}
    got = graph({**feeds, **tensors})["logits"]
    assert np.abs(got - wanted).max() < 0.1  # measured: 0.056


def test_scaled_queries_give_the_same_scores(tmp_path: Path) -> None:
    model = decoder("FLOAT")
    feeds = inputs(model)
    wanted = run(model, feeds, tmp_path)
    muls = counts(model)["Mul"]
    scale_queries(model)
    got = run(model, feeds, tmp_path)
    assert counts(model)["Mul"] == muls - 2  # one a layer: the keys'
    np.testing.assert_allclose(got["logits"], wanted["logits"], atol=2e-6)


def test_scores_that_are_scaled_afterwards_are_scaled_before(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    attention (float[2, n, 8] query, float[2, 8, m] key) => (float[2, n, m] weights) {
        scale = Constant <value_float = 0.35355339> ()
        scores = MatMul (query, key)
        scaled = Mul (scores, scale)
        weights = Softmax (scaled)
    }"""
    draw = np.random.default_rng(0)
    feeds = {
        name: draw.standard_normal((2, *shape)).astype(np.float32)
        for name, shape in [("query", (3, 8)), ("key", (8, 5))]
    }
    model = ir.from_onnx_text(text)
    wanted = run(model, feeds, tmp_path)["weights"]
    scale_queries(model)
    order = [node.op_type for node in model.graph if node.op_type != "Constant"]
    assert order == ["Mul", "MatMul", "Softmax"]
    np.testing.assert_allclose(run(model, feeds, tmp_path)["weights"], wanted, atol=1e-6)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_is_a_linear_layer(transposed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((5, 8) if transposed else (8, 5)).astype(np.float32)
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 8] x) => (float[n, 5] y) {{ y = Gemm <transB = {transposed}> (x, w, b) }}"""
    model = graph(text, [ir.tensor(weight, name="w"), ir.tensor(weight.reshape(-1)[:5], name="b")])
    feeds = {"x": draw.standard_normal((3, 8)).astype(np.float32)}
    wanted = run(model, feeds, tmp_path)["y"]
    split_gemms(model)
    (found,) = linears(model)
    assert (found.name, found.inputs, found.outputs) == ("w", 8, 5)
    assert counts(model)["Add"] == 1
    np.testing.assert_allclose(run(model, feeds, tmp_path)["y"], wanted, atol=1e-6)
    np.testing.assert_array_equal(found.matrix(), weight.T if transposed else weight)


def test_a_weight_of_many_axes_is_flattened_in_the_graph() -> None:
    """A convolution over patches that do not overlap is a multiplication by its flattened kernel."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 12] x) => (float[n, 5] y) {
        shape = Constant <value_ints = [5, 12]> ()
        flat = Reshape (w, shape)
        turned = Transpose <perm = [1, 0]> (flat)
        y = MatMul (x, turned)
    }"""
    kernel = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    model = graph(text, [ir.tensor(kernel, name="w")])
    (found,) = linears(model)
    np.testing.assert_array_equal(found.matrix(), kernel.reshape(5, 12).T)
    to_half(model, HALF)
    assert model.graph.initializers["w"].dtype == HALF
    assert counts(model)["Cast"] == 2
