"""A decoder as a bound ONNX graph, made by hand: what the precision passes are tested on without tracing a model.

decoder(storage="BFLOAT16")    an onnx_ir.Model: float32 arithmetic, weights in their stored type and a Cast to float32
run(model, ...)                logits and cache from ONNX Runtime
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

HEADER = """
<ir_version: 10, opset_import: ["" : 20]>
decoder (int64[batch, sequence] input_ids, int64[batch, total] attention_mask,
         int64[batch, sequence] position_ids{past})
    => (float[batch, sequence, {vocab}] logits{present}) {{
    sequence = Shape <start = 1, end = 2> (input_ids)
    total = Shape <start = 1, end = 2> (attention_mask)
    past = Sub (total, sequence)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    minus = Constant <value_ints = [-1]> ()
    scalar = Constant <value_int = 1> ()
    nought = Constant <value_int = 0> ()
    end = Squeeze (total)
    ids = Range (nought, end, scalar)
    rows = Slice (ids, past, total, zero)
    rows1 = Unsqueeze (rows, minus)
    causal = LessOrEqual (ids, rows1)
    seen0 = Cast <to = 9> (attention_mask)
    axes12 = Constant <value_ints = [1, 2]> ()
    seen = Unsqueeze (seen0, axes12)
    allowed = And (causal, seen)
    lowest = Constant <value_float = -1e30> ()
    nothing = Constant <value_float = 0.0> ()
    bias = Where (allowed, nothing, lowest)
    position = Cast <to = 1> (position_ids)
    position1 = Unsqueeze (position, minus)
    angle = MatMul (position1, frequencies)
    angles = Concat <axis = -1> (angle, angle)
    cosine = Cos (angles)
    cosine1 = Unsqueeze (cosine, one)
    sine = Sin (angles)
    sine1 = Unsqueeze (sine, one)
    eps = Constant <value_float = 1e-6> ()
    scale = Constant <value_float = {scale}> ()
    axis3 = Constant <value_ints = [3]> ()
    half = Constant <value_ints = [{half}]> ()
    head = Constant <value_ints = [{width}]> ()
    split_q = Constant <value_ints = [0, 0, {heads}, {width}]> ()
    split_k = Constant <value_ints = [0, 0, {kv}, {width}]> ()
    repeat = Constant <value_ints = [1, 1, {groups}, 1, 1]> ()
    join_k = Constant <value_ints = [0, {heads}, -1, {width}]> ()
    join = Constant <value_ints = [0, 0, {hidden}]> ()
    {gather}
"""
NORM = """
    {o}.square = Mul ({x}, {x})
    {o}.mean = ReduceMean ({o}.square, minus)
    {o}.safe = Add ({o}.mean, eps)
    {o}.root = Sqrt ({o}.safe)
    {o}.unit = Div ({x}, {o}.root)
    {o} = Mul ({w}, {o}.unit)
"""
ROPE = """
    {o}.low = Slice ({x}, zero, half, axis3)
    {o}.high = Slice ({x}, half, head, axis3)
    {o}.minus = Neg ({o}.high)
    {o}.turned = Concat <axis = -1> ({o}.minus, {o}.low)
    {o}.a = Mul ({x}, cosine1)
    {o}.b = Mul ({o}.turned, sine1)
    {o} = Add ({o}.a, {o}.b)
"""
CACHE = """
    present.{n}.{k} = Concat <axis = 2> (past_key_values.{n}.{k}, {x})
    {o}.more = Unsqueeze (present.{n}.{k}, two)
    {o}.many = Tile ({o}.more, repeat)
    {o} = Reshape ({o}.many, join_k)
"""
DOT = "_dot_"  # ONNX's text form has no names with a dot before a digit
SHAPE = {"hidden": 64, "heads": 4, "kv": 2, "ffn": 96, "vocab": 80, "layers": 2}


def decoder(storage: str = "FLOAT", *, tied: bool = False, seed: int = 0, boost: float = 1.0, **sizes: int) -> ir.Model:
    """Two layers of a Qwen2 with random weights; `boost` multiplies gate and up, whose product enters down_proj."""
    s = SHAPE | sizes
    s |= {"width": s["hidden"] // s["heads"], "groups": s["heads"] // s["kv"]}
    weights = _weights(s, storage, tied, seed, boost)
    for tensor in weights:
        tensor.name = tensor.name.replace(".", DOT)
    text = re.sub(r"\.(?=[a-z])|(?<=[a-z])\.", DOT, _Text(s, storage, tied).whole())
    made = graph(text, [*weights, _frequencies(s["width"])])
    for value in ir.convenience.create_value_mapping(made.graph).values():
        value.name = value.name.replace(DOT, ".")
    return made


def graph(text: str, weights: list[ir.Tensor]) -> ir.Model:
    """A graph in ONNX's text form, with its initializers."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(map(ir.to_proto, weights))
    return ir.from_proto(proto)


def _weights(s: Mapping[str, int], storage: str, tied: bool, seed: int, boost: float) -> list[ir.Tensor]:
    draw = np.random.default_rng(seed)
    dtype = ir.DataType[storage]
    shapes = {"model.embed_tokens.weight": (s["vocab"], s["hidden"]), "model.norm.weight": (s["hidden"],)}
    if not tied:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    kv = s["kv"] * s["width"]
    for n in range(s["layers"]):
        own = {"self_attn.q_proj": (s["hidden"], s["hidden"]), "self_attn.k_proj": (kv, s["hidden"])}
        own |= {"self_attn.v_proj": (kv, s["hidden"]), "self_attn.o_proj": (s["hidden"], s["hidden"])}
        own |= {"mlp.gate_proj": (s["ffn"], s["hidden"]), "mlp.up_proj": (s["ffn"], s["hidden"])}
        own |= {"mlp.down_proj": (s["hidden"], s["ffn"])}
        own |= {"input_layernorm": (s["hidden"],), "post_attention_layernorm": (s["hidden"],)}
        shapes |= {f"model.layers.{n}.{name}.weight": shape for name, shape in own.items()}
        shapes[f"model.layers.{n}.self_attn.q_proj.bias"] = (s["hidden"],)
    made = []
    for name, shape in shapes.items():
        array = draw.standard_normal(shape) / (np.sqrt(shape[-1]) if len(shape) > 1 else 10)
        array = 1 + array if "norm" in name else array * boost if "gate" in name or "up_proj" in name else array
        made.append(ir.tensor(array.astype(dtype.numpy()), name=name))
    return made


def _frequencies(width: int) -> ir.Tensor:
    return ir.tensor((0.1 ** np.arange(width // 2)).astype(np.float32)[None], name="frequencies")


class _Text:
    """The graph in ONNX's text form."""

    def __init__(self, s: Mapping[str, int], storage: str, tied: bool) -> None:
        self.s, self.wide, self.tied = s, storage == "FLOAT", tied

    def whole(self) -> str:
        s = self.s
        names = [(n, k) for n in range(s["layers"]) for k in ("key", "value")]
        past = "".join(f", float[batch, {s['kv']}, past, {s['width']}] past_key_values.{n}.{k}" for n, k in names)
        present = "".join(f", float[batch, {s['kv']}, total, {s['width']}] present.{n}.{k}" for n, k in names)
        gather = "x0 = Gather (model.embed_tokens.weight, input_ids)"
        if not self.wide:
            gather = gather.replace("x0", "x0.stored") + "\n    x0 = Cast <to = 1> (x0.stored)"
        scale = s["width"] ** -0.25
        text = HEADER.format(past=past, present=present, gather=gather, scale=scale, half=s["width"] // 2, **s)
        for n in range(s["layers"]):
            text += self.layer(n, f"x{n}", f"x{n + 1}")
        text += self.norm("x.last", f"x{s['layers']}", "model.norm.weight")
        text += self.linear("logits", "x.last", "model.embed_tokens.weight" if self.tied else "lm_head.weight", "head.")
        return text + "}"

    def layer(self, n: int, x: str, o: str) -> str:
        w, t = f"model.layers.{n}.", f"l{n}."
        text = self.norm(f"{t}in", x, f"{w}input_layernorm.weight")
        for k in "qkv":
            text += self.linear(f"{t}{k}0", f"{t}in", f"{w}self_attn.{k}_proj.weight")
        text += self.wider(f"{t}bias", f"{w}self_attn.q_proj.bias")
        text += f"    {t}q1 = Add ({t}q0, {t}bias)\n"
        for k, first, split in (("q", "q1", "split_q"), ("k", "k0", "split_k"), ("v", "v0", "split_k")):
            text += f"    {t}{k}2 = Reshape ({t}{first}, {split})\n"
            text += f"    {t}{k}3 = Transpose <perm = [0, 2, 1, 3]> ({t}{k}2)\n"
        text += ROPE.format(o=f"{t}q4", x=f"{t}q3") + ROPE.format(o=f"{t}k4", x=f"{t}k3")
        text += CACHE.format(o=f"{t}k5", x=f"{t}k4", n=n, k="key")
        text += CACHE.format(o=f"{t}v5", x=f"{t}v3", n=n, k="value")
        text += f"""
    {t}k6 = Transpose <perm = [0, 1, 3, 2]> ({t}k5)
    {t}q7 = Mul ({t}q4, scale)
    {t}k7 = Mul ({t}k6, scale)
    {t}scores = MatMul ({t}q7, {t}k7)
    {t}masked = Add ({t}scores, bias)
    {t}soft = Softmax <axis = -1> ({t}masked)
    {t}context = MatMul ({t}soft, {t}v5)
    {t}moved = Transpose <perm = [0, 2, 1, 3]> ({t}context)
    {t}joined = Reshape ({t}moved, join)
"""
        text += self.linear(f"{t}attended", f"{t}joined", f"{w}self_attn.o_proj.weight")
        text += f"    {t}x = Add ({x}, {t}attended)\n" + self.norm(
            f"{t}post", f"{t}x", f"{w}post_attention_layernorm.weight"
        )
        text += self.linear(f"{t}gate", f"{t}post", f"{w}mlp.gate_proj.weight")
        text += self.linear(f"{t}up", f"{t}post", f"{w}mlp.up_proj.weight")
        text += f"    {t}sigmoid = Sigmoid ({t}gate)\n    {t}silu = Mul ({t}gate, {t}sigmoid)\n"
        text += f"    {t}product = Mul ({t}silu, {t}up)\n"
        text += self.linear(f"{t}down", f"{t}product", f"{w}mlp.down_proj.weight")
        return text + f"    {o} = Add ({t}x, {t}down)\n"

    def linear(self, o: str, x: str, weight: str, mark: str = "") -> str:
        wider = self.wider(f"{weight}.{mark}wide", weight)
        source = weight if self.wide else f"{weight}.{mark}wide"
        turned = f"{weight}.{mark}turned"
        return f"{wider}    {turned} = Transpose <perm = [1, 0]> ({source})\n    {o} = MatMul ({x}, {turned})\n"

    def norm(self, o: str, x: str, weight: str) -> str:
        name = weight if self.wide else f"{weight}.wide"
        return ("" if self.wide else self.wider(name, weight)) + NORM.format(o=o, x=x, w=name)

    def wider(self, o: str, weight: str) -> str:
        if self.wide:
            return f"    {o} = Identity ({weight})\n" if o.endswith(".bias") else ""
        return f"    {o} = Cast <to = 1> ({weight})\n"


def inputs(model: ir.Model, *, batch: int = 2, sequence: int = 7, past: int = 3, seed: int = 1) -> dict[str, Any]:
    """Random tokens, one padded, and a random cache in the type that the graph takes."""
    draw = np.random.default_rng(seed)
    feeds: dict[str, Any] = {
        "input_ids": draw.integers(0, SHAPE["vocab"], (batch, sequence)),
        "attention_mask": np.ones((batch, past + sequence), np.int64),
        "position_ids": np.tile(np.arange(past, past + sequence), (batch, 1)),
    }
    feeds["attention_mask"][0, 0] = 0
    for value in model.graph.inputs[3:]:
        shape = (batch, value.shape[1], past, value.shape[3])
        feeds[value.name] = draw.standard_normal(shape).astype(np.float16).astype(value.dtype.numpy())
    return feeds


def run(model: ir.Model, feeds: Mapping[str, Any], folder: Path, level: int | None = None) -> dict[str, np.ndarray]:
    """The outputs that ONNX Runtime gives, from a file that the checker has passed."""
    import onnxruntime as ort

    path = folder / "graph.onnx"
    ir.save(model, path, external_data="graph.onnx_data")
    onnx.checker.check_model(str(path), full_check=all(n.domain == "" for n in model.graph))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel(level)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def counts(model: ir.Model) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in model.graph)


def reference(model: ir.Model, also: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The logits, and what else is named, that ONNX's own evaluator gives: it rounds every result to its type."""
    from onnx.reference import ReferenceEvaluator

    proto = ir.to_proto(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    wanted = ["logits", *also]
    return dict(zip(wanted, ReferenceEvaluator(proto).run(wanted, inputs(model)), strict=True))
