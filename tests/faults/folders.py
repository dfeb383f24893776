"""Damage to GPTQ, AWQ and FP8 folders, and to ONNX graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.kinds import SUITE, Damaged, Honest

LAYER = "model.language_model.layers.1."
SOURCE_LAYER = "model.layers.1."  # of folders that keep the checkpoint's names
DECODER, EMBEDDER, TOWER = "decoder_model_merged.onnx", "embed_tokens.onnx", "vision_encoder.onnx"


def copied(h: Honest, out: Path, base: str) -> Path:
    return Path(shutil.copytree(h.outputs[base], out / "damaged"))


def weights(name: str, base: str, which: str, change: Callable[[Any], Any], place: str, fast: bool = False) -> None:
    """One tensor of a folder's safetensors; `change` takes and gives a torch tensor, None drops it."""

    def make(h: Honest, out: Path) -> Damaged:
        from safetensors.torch import load_file, save_file

        folder = copied(h, out, base)
        tensors = load_file(folder / "model.safetensors")
        changed = change(tensors.pop(which).clone())
        tensors |= {} if changed is None else {which: changed.contiguous()}
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return Damaged(folder)

    SUITE.add(name, make, place, fast=fast)


def config(name: str, base: str, change: dict[str, Any], place: str) -> None:
    """Words of a folder's config.json."""

    def make(h: Honest, out: Path) -> Damaged:
        folder = copied(h, out, base)
        words = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(words))
        return Damaged(folder)

    SUITE.add(name, make, place)


def shuffled(values: Any) -> Any:
    return values.flip(0)


def other_order(values: Any) -> Any:
    """Eight 4-bit numbers of each int32 as GPTQ has them, not as AWQ does."""
    import torch

    raw = values.numpy().view(np.uint32)
    order = (0, 4, 1, 5, 2, 6, 3, 7)
    made = np.zeros_like(raw)
    for place, at in enumerate(order):
        made |= ((raw >> np.uint32(4 * at)) & np.uint32(15)) << np.uint32(4 * place)
    return torch.from_numpy(made.view(np.int32))


def off_by_one(values: Any) -> Any:
    """Every packed zero point one more, without a carry into its neighbour: 7 becomes 8."""
    return values + 0x11111111


def nan_in_front(values: Any) -> Any:
    values[0] = float("nan")
    return values


def graph(name: str, file: str, change: Callable[[Any], None], place: str, fast: bool = False) -> None:
    """A graph of the int4 folder, changed in place as an onnx.ModelProto."""

    def make(h: Honest, out: Path) -> Damaged:
        import onnx

        folder = copied(h, out, "int4")
        model = onnx.load(folder / file)
        change(model)
        (folder / f"{file}_data").unlink(missing_ok=True)
        onnx.save(model, folder / file)
        return Damaged(folder)

    SUITE.add(name, make, place, fast=fast)


def initializer(ending: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    """Another value for the initializer whose name ends so."""

    def edit(model: Any) -> None:
        from onnx import numpy_helper

        tensor = next(t for t in model.graph.initializer if t.name.endswith(ending))
        values = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def added_zero_points(ending: str) -> Callable[[Any], None]:
    """Zero points of 9 for weights whose zero point is 8."""

    def edit(model: Any) -> None:
        from onnx import numpy_helper

        tensor = next(t for t in model.graph.initializer if t.name.endswith(ending))
        node = next(n for n in model.graph.node if tensor.name in n.input)
        outputs, blocks, _ = tensor.dims
        zeros = np.full((outputs, -(-blocks // 2)), 0x99, np.uint8)
        name = tensor.name.removesuffix("_Q4") + "_zero_points"
        model.graph.initializer.append(numpy_helper.from_array(zeros, name))
        node.input.append(name)

    return edit


def exchanged_past(model: Any) -> None:
    """Layers 0 and 1 read each other's cache."""
    names = {"past_key_values.0.key": "past_key_values.1.key", "past_key_values.1.key": "past_key_values.0.key"}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def halves(packed: Any) -> Any:
    """The two values of each byte in the other order."""
    return packed >> 4 | packed << 4


weights("GPTQ g_idx shuffled", "gptq", f"{LAYER}mlp.down_proj.g_idx", shuffled, "layers.1.mlp.down_proj")
weights("GPTQ zero points off by one", "gptq", f"{LAYER}mlp.up_proj.qzeros", off_by_one, "layers.1.mlp.up_proj")
weights("GPTQ scales doubled", "gptq", f"{LAYER}self_attn.q_proj.scales", lambda t: t * 2, "layers.1.self_attn.q_proj")
weights("GPTQ matrix zeroed", "gptq", f"{LAYER}mlp.gate_proj.scales", lambda t: t * 0, "layers.1.mlp.gate_proj")
weights("GPTQ bias zeroed", "gptq", f"{LAYER}self_attn.k_proj.bias", lambda t: t * 0, "layers.1.self_attn.k_proj.bias")
weights("AWQ order wrong", "awq", f"{LAYER}self_attn.o_proj.qweight", other_order, "layers.1.self_attn.o_proj")
weights("AWQ zero points off by one", "awq", f"{LAYER}mlp.up_proj.qzeros", off_by_one, "layers.1.mlp.up_proj")
weights("AWQ scales negated", "awq", f"{LAYER}mlp.down_proj.scales", lambda t: -t, "layers.1.mlp.down_proj")
weights(
    "AWQ norm without its factors", "awq", f"{LAYER}post_attention_layernorm.weight", lambda t: t * 3, "layers.1.mlp."
)
weights("FP8 scale inverted", "fp8", f"{SOURCE_LAYER}mlp.up_proj.weight_scale", lambda t: 1 / t, "layers.1.mlp.up_proj")
weights("FP8 head zeroed", "fp8", "lm_head.weight", lambda t: t * 0, "lm_head.weight")
weights(
    "FP8 tower matrix negated",
    "fp8",
    "visual.blocks.1.attn.proj.weight",
    lambda t: -t,
    "visual.blocks.1.attn.proj",
)
weights("FP8 norm dropped", "fp8", f"{SOURCE_LAYER}input_layernorm.weight", lambda t: None, "layers.1.input_layernorm")
weights("FP8 one NaN", "fp8", f"{SOURCE_LAYER}input_layernorm.weight", nan_in_front, "layers.1.input_layernorm")
weights("W4A16 scales doubled", "w4a16", f"{SOURCE_LAYER}mlp.up_proj.weight_scale", lambda t: t * 2, "layers.1.mlp.up")
weights(
    "W4A16 words of another matrix",
    "w4a16",
    f"{SOURCE_LAYER}mlp.up_proj.weight_packed",
    lambda t: t.flip(0),
    "layers.1.mlp",
)
weights(
    "NVFP4 global scale inverted",
    "nvfp4",
    f"{SOURCE_LAYER}mlp.down_proj.weight_global_scale",
    lambda t: 1 / t,
    "layers.1.mlp.down_proj",
)
weights(
    "NVFP4 halves of bytes exchanged", "nvfp4", f"{SOURCE_LAYER}mlp.gate_proj.weight_packed", halves, "layers.1.mlp"
)
config("FP8 epsilon wrong", "fp8", {"rms_norm_eps": 0.1}, "rms_norm_eps")
graph(
    "int4 zero points off by one",
    DECODER,
    added_zero_points("layers.1.mlp.up_proj.weight_Q4"),
    "layers.1.mlp.up_proj",
    True,
)
graph(
    "int4 scales doubled",
    DECODER,
    initializer("layers.2.mlp.gate_proj.weight_scales", lambda a: a * 2),
    "layers.2.mlp.gate_proj",
)
graph("int4 head zeroed", DECODER, initializer("lm_head.weight_scales", lambda a: a * 0), "lm_head.weight")
graph(
    "ONNX norm doubled",
    DECODER,
    initializer("layers.0.input_layernorm.weight", lambda a: a * 2),
    "layers.0.input_layernorm",
)
graph(
    "ONNX bias zeroed",
    DECODER,
    initializer("layers.3.self_attn.v_proj.bias", lambda a: a * 0),
    "layers.3.self_attn.v_proj.bias",
)
graph(
    "ONNX rows of the embedding exchanged",
    EMBEDDER,
    initializer("embed_tokens.weight_Q8", lambda a: a[::-1].copy()),
    "embed_tokens",
)
graph(
    "ONNX tower matrix negated",
    TOWER,
    initializer("blocks.0.attn.proj.weight_scales", lambda a: -a),
    "visual.blocks.0.attn.proj",
)
graph("past in the wrong order", DECODER, exchanged_past, "cache")
