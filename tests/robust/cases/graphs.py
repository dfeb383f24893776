"""ONNX graphs: weights that lie elsewhere, types that nobody has, depths."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tests.robust.cases.base import KINDS, Case, Place, cases, make_special

INSPECT = ("inspect", "x.onnx")
EXISTING = "name: r\nmodel: {path: Tiny}\nstages:\n  theirs: {use: existing, path: theirs/model.onnx}\n"


@functools.cache
def _good() -> bytes:
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 8])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [384, 8], bytes(384 * 8 * 4), raw=True)
    nodes = [helper.make_node("Gather", ["w", "input_ids"], ["logits"])]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", [ids], [logits], [weight])).SerializeToString())


def _changed(change: Callable[[Any], object]) -> bytes:
    import onnx

    model = onnx.load_model_from_string(_good())
    change(model)
    return bytes(model.SerializeToString())


def _external(**words: str) -> bytes:
    """The weight lies in another file."""

    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in words.items():
            tensor.external_data.add(key=key, value=value)

    return _changed(change)


def _weight(**words: Any) -> bytes:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        for name, value in words.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            else:
                setattr(tensor, name, value)

    return _changed(change)


def _nested(depth: int) -> bytes:
    """A graph within a graph, so deep."""
    inner = b""
    for _ in range(depth):
        attribute = _message(1, b"then_branch") + _message(6, inner) + b"\xa0\x01\x05"
        node = _message(4, b"If") + _message(5, attribute)
        inner = _message(1, node)
    return b"\x08\x0a" + _message(7, inner)


def _message(number: int, content: bytes) -> bytes:
    size = len(content)
    out = bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size]) + content


def _value(name: str) -> Callable[[Any], object]:
    return lambda model: setattr(model.graph.input[0], "name", name)


def _elem(kind: int) -> Callable[[Any], object]:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", kind)


def _loop(model: Any) -> None:
    model.graph.node[0].input[0] = "logits"


def _many(model: Any) -> None:
    for number in range(200_000):
        model.graph.node.add(op_type="Identity", input=["w"], output=[f"o{number}"])


def _library(model: Any) -> None:
    model.graph.node[0].domain = "evil"
    model.functions.add(name="Gather", domain="evil")


GRAPHS = {
    "nothing": lambda: b"",
    "garbage": lambda: b"\xff" * 4000,
    "cut short": lambda: _good()[:200],
    "a length of 2**60": lambda: b"\x08\x0a\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x0f",
    "graphs within graphs, 90": lambda: _nested(90),
    "graphs within graphs, 2,000": lambda: _nested(2000),
    "weights in ../": lambda: _external(location="../secret.txt", length="4"),
    "weights in an absolute path": lambda: _external(location="/etc/passwd", length="4"),
    "weights in a path of Windows": lambda: _external(location="..\\secret.txt", length="4"),
    "weights in no file": lambda: _external(length="4"),
    "weights in a file that is not there": lambda: _external(location="gone", length="4"),
    "weights at a word": lambda: _external(location="beside", offset="far", length="4"),
    "weights of a negative length": lambda: _external(location="beside", length="-4"),
    "weights of 10**30 bytes": lambda: _external(location="beside", length="1" + "0" * 30),
    "weights beyond the end": lambda: _external(location="beside", offset="999999", length="4"),
    "weights in a pipe": lambda: _external(location="pipe", length="4"),
    "weights in a device": lambda: _external(location="device", length="4"),
    "weights in a link to a secret": lambda: _external(location="link", length="4"),
    "weights of an unknown type": lambda: _weight(data_type=999),
    "weights of no type": lambda: _weight(data_type=0),
    "a negative dimension": lambda: _weight(dims=[-1, 8]),
    "dimensions that overflow": lambda: _weight(dims=[1 << 40, 1 << 40]),
    "more values than bytes": lambda: _weight(dims=[1 << 30, 8]),
    "a name that clears the screen": lambda: _weight(name="\x1b[2J\n"),
    "an input of control characters": lambda: _changed(_value("\x1b[31m\nerror: x")),
    "an input of an unknown type": lambda: _changed(_elem(999)),
    "a node that reads what it makes": lambda: _changed(_loop),
    "200,000 nodes": lambda: _changed(_many),
    "operators of its own": lambda: _changed(_library),
    "an opset of 2**40": lambda: _changed(lambda m: setattr(m.opset_import[0], "version", 1 << 40)),
    "no opset": lambda: _changed(lambda m: m.ClearField("opset_import")),
}


def _beside(place: Place, folder: str) -> None:
    from tests.hostile import unpacked

    home = place.root / folder
    home.mkdir(exist_ok=True)
    place.write(f"{folder}/beside", bytes(16))
    make_special(home / "pipe", "pipe")
    make_special(home / "device", "device")
    (home / "link").symlink_to(place.secret)
    unpacked(home / "link")


def _inspected(raw: Callable[[], bytes]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        _beside(place, ".")
        place.write("x.onnx", raw())

    return make


def _judged(raw: Callable[[], bytes]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        _beside(place, "theirs")
        for path in place.model.glob("*.json"):
            place.write(f"theirs/{path.name}", path.read_bytes())
        place.write("theirs/model.onnx", raw())
        place.recipe(EXISTING)

    return make


def _genai(config: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        _judged(_good)(place)
        place.write("theirs/genai_config.json", config)
        place.recipe(EXISTING.replace("theirs/model.onnx", "theirs"))

    return make


LIBRARY = '{"model": {"decoder": {"filename": "model.onnx", "session_options": {"%s": "x.so"}}}}'
CONFIGS = {
    "a graph elsewhere": '{"model": {"decoder": {"filename": "../x.onnx"}}}',
    "a graph that is absolute": '{"model": {"decoder": {"filename": "/etc/passwd"}}}',
    "a library": LIBRARY % "custom_ops_library",
    "a library, in capitals": LIBRARY % "Custom_Ops_Library",
    "nested 10,000 deep": '{"model":' * 10_000 + "1" + "}" * 10_000,
    "a list": "[]",
    "numbers": '{"model": {"decoder": 7}}',
}
CASES = [
    *cases("ONNX, inspected", {n: _inspected(raw) for n, raw in GRAPHS.items()}, command=INSPECT, harmless=True),
    *cases("ONNX, judged", {n: _judged(raw) for n, raw in list(GRAPHS.items())[::2]}, harmless=True),
    *cases("genai folder", {n: _genai(text) for n, text in CONFIGS.items() if "capitals" not in n}),
    Case("genai folder", "a library, in capitals", _genai(CONFIGS["a library, in capitals"]), harmless=True),  # unknown
    *(
        Case("ONNX, no file", kind, lambda place, kind=kind: make_special(place.root / "x.onnx", kind), INSPECT)
        for kind in KINDS
    ),
]
