"""Binding: every parameter has its checkpoint tensor, every tensor is used or named, and nothing is widened early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

from convert.errors import ConvertError, InputError
from convert.formats.onnx import bind, export, joined
from tests import tiny
from tests.fixtures_gguf import edit_config, edit_weights, packed_matrix, source_inputs
from tests.onnx.graphs import bound, ledger_of, traced


def problems(folder: Path) -> str:
    return "\n".join(map(str, export.check(source_inputs(folder)["source"], export.ExportSettings(("fp32",)))))


# ---- weights in the graph


def test_every_weight_is_the_checkpoints_and_is_cast_where_it_is_used() -> None:
    folder, graph = traced()
    model, ledger = bound(folder, graph), ledger_of(folder)
    assert not ledger.problems
    for name, stored in ledger.of.items():
        tensor = model.graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert (tensor.offset, tensor.length, tensor.dtype) == (
            stored.start,
            stored.stop - stored.start,
            ir.DataType.BFLOAT16,
        )
        readers = {node.op_type for node in model.graph.initializers[name].consumers()}
        assert readers == ({"Gather"} if name == "model.embed_tokens.weight" else {"Cast"})


def test_an_embedding_is_cast_after_its_rows_were_taken() -> None:
    folder, graph = traced()
    model = bound(folder, graph)
    (gather,) = (node for node in model.graph if node.op_type == "Gather")
    (cast,) = gather.outputs[0].consumers()
    assert cast.op_type == "Cast"
    assert gather.outputs[0].dtype == ir.DataType.BFLOAT16
    assert cast.outputs[0].dtype == ir.DataType.FLOAT


def test_a_tied_head_reads_the_tensor_its_embedding_reads() -> None:
    folder, graph = traced(tied_qwen2)
    model = bound(folder, graph)
    (name,) = [name for name in model.graph.initializers if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert sorted(node.op_type for node in model.graph.initializers[name].consumers()) == ["Cast", "Gather"]


def tied_qwen2(folder: Path) -> Path:
    return tiny.tiny_qwen2(folder, tied=True)


def test_widened_weights_are_float32_and_need_no_cast() -> None:
    folder, graph = traced()
    model, ledger = bound(folder, graph, widen=True), ledger_of(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = model.graph.initializers[name].const_value
    bits = np.fromfile(folder / "model.safetensors", np.uint8)[ledger.of[name].start : ledger.of[name].stop]
    wanted = (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(128, 64)
    assert tensor.dtype == ir.DataType.FLOAT
    assert np.array_equal(tensor.numpy(), wanted)
    assert not any(node.op_type == "Cast" and node.name.startswith("cast_") for node in model.graph)


def test_a_weight_is_mapped_only_while_its_values_are_in_use(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "m")
    tensor = bound(folder, traced()[1]).graph.initializers["model.norm.weight"].const_value
    values = tensor.numpy()
    assert values.tobytes() == tensor.tobytes()
    assert str(folder) in Path("/proc/self/maps").read_text()
    del values
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_float32_weights_are_read_in_place_without_a_cast(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "m", dtype="float32")
    model = bound(folder, traced()[1])
    assert {v.const_value.dtype for n, v in model.graph.initializers.items() if n.startswith("model.layers")} == {
        ir.DataType.FLOAT
    }
    assert not any(node.name.startswith("cast_") for node in model.graph)


# ---- names


@pytest.mark.parametrize("names", ["hub", "transformers"])
def test_both_spellings_of_qwen2_5_vl_are_known(names: str, tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2_5_vl(tmp_path / "m")
    if names == "transformers":

        def respell(tensors: dict[str, Any]) -> dict[str, Any]:
            return {
                n.replace("visual.", "model.visual.", 1)
                if n.startswith("visual.")
                else n.replace("model.", "model.language_model.", 1)
                if n.startswith("model.")
                else n: v
                for n, v in tensors.items()
            }

        edit_weights(folder, respell)
    ledger = ledger_of(folder)
    assert not ledger.problems
    assert "model.visual.blocks.0.attn.qkv.weight" in ledger.of
    assert "model.language_model.layers.0.mlp.up_proj.weight" in ledger.of


def test_computed_buffers_in_a_checkpoint_are_left_out(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "m")
    edit_weights(
        folder, lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": t["model.norm.weight"][:8].clone()}
    )
    ledger = ledger_of(folder)
    assert not ledger.problems
    assert list(ledger.left_out) == ["model.layers.0.self_attn.rotary_emb.inv_freq"]


# ---- what does not fit


def drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {n: v for n, v in tensors.items() if n != name}


CASES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing": (drop("model.layers.1.mlp.up_proj.weight"), "lacks model.layers.1.mlp.up_proj.weight"),
    "unknown": (
        lambda t: t | {"model.extra.weight": t["model.norm.weight"].clone()},
        "unknown tensors: model.extra.weight",
    ),
    "misshapen": (
        lambda t: t | {"model.norm.weight": t["model.norm.weight"][:32]},
        r"model.norm.weight \[32\] where it says \[64\]",
    ),
    "no floats": (
        lambda t: t | {"model.norm.weight": t["model.norm.weight"].int()},
        "holds model.norm.weight of I32, wanted one of F32, F16, BF16",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_that_does_not_fit_is_a_problem_of_the_plan(case: str, tmp_path: Path) -> None:
    import re

    change, message = CASES[case]
    folder = tiny.tiny_qwen2(tmp_path / "m")
    edit_weights(folder, change)
    assert re.search(message, problems(folder))


def test_an_experts_matrix_is_made_of_the_tensors_it_is_stored_in(tmp_path: Path) -> None:
    """Qwen3-MoE has gate and up of every expert apart; the graph multiplies by both at once."""
    folder = tiny.tiny_qwen3_moe(tmp_path / "m")
    ledger = ledger_of(folder)
    assert not ledger.problems
    layer = "model.layers.1.mlp.experts"
    made = ledger.of[f"{layer}.gate_up_proj.3"]
    assert isinstance(made, joined.Joined)
    assert [one.name for one in made.sources] == [f"{layer}.3.gate_proj.weight", f"{layer}.3.up_proj.weight"]
    apart = [ledger_of(folder).of[f"{layer}.down_proj.{number}"] for number in (3, 4)]
    values = [bind.values_of(one) for one in (made, *apart)]
    tensors = load_file(folder / "model.safetensors")
    gate, up = (tensors[one.name].astype(np.float32) for one in made.sources)
    assert np.array_equal(values[0].astype(np.float32), np.concatenate([gate, up]))
    assert np.array_equal(values[1].astype(np.float32), tensors[f"{layer}.3.down_proj.weight"].astype(np.float32))
    assert f"{layer}.gate_up_proj" not in ledger.of
    assert ledger.entries(f"{layer}.gate_up_proj")[3] == f"{layer}.gate_up_proj.3"


def test_experts_of_whom_one_lacks_are_a_problem_of_the_plan(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen3_moe(tmp_path / "m")
    edit_weights(folder, drop("model.layers.1.mlp.experts.3.up_proj.weight"))
    assert "model.layers.1.mlp.experts" in problems(folder)


def test_quantized_checkpoints_and_other_kinds_of_model_are_refused(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "m")
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert problems(folder) == ""  # the weights decide, and they are plain
    packed = tiny.tiny_qwen2(tmp_path / "packed")
    edit_config(packed, quantization_config={"quant_method": "gptq", "bits": 4})
    edit_weights(packed, packed_matrix)
    assert "quantization_config says GPTQ" in problems(packed)
    edit_config(folder, quantization_config=None, model_type="siglip")
    assert "model type 'siglip' is not exported to ONNX, wanted a decoder of text" in problems(folder)
    edit_config(folder, model_type="nobody_knows")
    assert "transformers cannot read it" in problems(folder)


def test_a_stored_head_that_differs_from_the_embedding_it_is_tied_to(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "m", tied=True)
    edit_weights(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    ledger = ledger_of(folder)
    assert not ledger.problems
    bind.prove_tied(ledger)
    edit_weights(folder, lambda t: t | {"lm_head.weight": t["lm_head.weight"] + 1})
    with pytest.raises(InputError, match=r"ties \S+ to \S+, but their values differ"):
        bind.prove_tied(ledger_of(folder))


def test_a_tensor_that_is_in_no_graph_is_an_error() -> None:
    folder, graph = traced()
    ledger = ledger_of(folder)
    bind.check_used(ledger, bind.used([graph]).__contains__)
    with pytest.raises(ConvertError, match=r"has unknown tensors: model\.norm\.weight"):
        bind.check_used(ledger, (bind.used([graph]) - {"model.norm.weight"}).__contains__)
