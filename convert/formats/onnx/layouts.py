"""Where the graphs lie in the folder, and what files, axes and outputs are called, for those who read it.

    hub        onnx/model.onnx, onnx/model_quantized.onnx, onnx/model_q4.onnx, each with its weights beside it in
               model_q4.onnx_data, model_q4.onnx_data_1, ...: as transformers.js opens a repository of the hub
    optimum    the same names beside config.json; a precision asked for alone is model.onnx: ORTModelForCausalLM's
    flat       beside config.json, int8 is model_int8.onnx; weights may be the checkpoint's own files

transformers.js takes the name of a file from the dtype (its src/utils/dtypes.js), makes the empty cache by an axis
called batch_size (its src/models/modeling_utils.js) and reads an image's rows from image_features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

FOLDER = "onnx"  # of the hub's layout
PIECE_BYTES = 2_000_000_000  # a browser reads a file into one array, which ends below 2 GiB

_SUFFIXES = {
    "fp32": "",
    "fp16": "_fp16",
    "bf16": "_bf16",  # no dtype of transformers.js: for ONNX Runtime and OpenVINO
    "int8": "_quantized",
    "int4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
}
_AXES = {
    "batch": "batch_size",
    "sequence": "sequence_length",
    "past": "past_sequence_length",
    "total": "total_sequence_length",
    "encoder_sequence": "encoder_sequence_length",
    "encoder_past": "encoder_past_sequence_length",
}
_OUTPUTS = {("vision_encoder", "image_embeds"): "image_features"}  # of a model that writes; CLIP's keep their name
IMAGES = ("vision_encoder",)  # the graphs whose outputs are called so; CLIP's keep their own word


DTYPES = {
    **{"_quantized": "q8", "_int8": "int8", "_q4": "q4", "_q4f16": "q4f16", "_bnb4": "bnb4", "_fp16": "fp16"},
    "": "fp32",
}
"""What the name of a graph's file ends with -> the dtype by which transformers.js opens it."""


def dtype(graph: str) -> str:
    """The dtype by which transformers.js opens the file called `graph`, a path or a name."""
    stem = graph.removesuffix(".onnx")
    return next(word for suffix, word in DTYPES.items() if stem.endswith(suffix))


@dataclass(frozen=True)
class Names:
    """What the files of one graph are called."""

    stem: str  # decoder_model_merged
    suffix: str = ""  # _fp16
    piece_bytes: int | None = None  # the most in one file of weights, where there is a limit

    @property
    def graph(self) -> str:
        return f"{self.stem}{self.suffix}.onnx"

    def data(self, piece: int = 0) -> str:
        """A file of its weights: model.onnx_data, model.onnx_data_1, ..."""
        return f"{self.graph}_data" + (f"_{piece}" if piece else "")


@dataclass(frozen=True)
class Layout:
    """How an export's files are named; axes and outputs by the names that tracing gives them."""

    name: str
    folder: str  # of the graphs, in the output's
    suffixes: Mapping[str, str]  # precision -> what its files end with
    alone: bool  # whether a precision asked for alone has bare names
    shared: bool  # whether graphs read the checkpoint's own files where they can
    piece_bytes: int | None = None  # the most in one file of weights
    axes: Mapping[str, str] | None = None
    outputs: Mapping[tuple[str, str], str] | None = None  # by graph and output

    def suffix(self, precision: str, precisions: int) -> str:
        """What the files of a precision end with, of so many that are made."""
        return "" if self.alone and precisions == 1 else self.suffixes[precision]


HUB = Layout("hub", FOLDER, _SUFFIXES, False, False, PIECE_BYTES, _AXES, _OUTPUTS)
OPTIMUM = Layout("optimum", "", _SUFFIXES, True, False, PIECE_BYTES, _AXES, _OUTPUTS)
FLAT = Layout("flat", "", _SUFFIXES | {"int8": "_int8"}, True, True)
GENAI = Layout("genai", "", dict.fromkeys(_SUFFIXES, ""), True, False, None, _AXES, _OUTPUTS)
LAYOUTS = {layout.name: layout for layout in (HUB, OPTIMUM, FLAT)}


def rename(model: ir.Model, graph: str, layout: Layout) -> None:
    """Give the inputs and outputs of the graph called so the names of the layout."""
    import onnx_ir as ir

    axes = layout.axes or {}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, axes) for size in value.shape])
    for output in model.graph.outputs if model.graph.name in IMAGES else ():
        output.name = (layout.outputs or {}).get((graph, str(output.name)), output.name)


def _renamed(size: int | ir.SymbolicDim, axes: Mapping[str, str]) -> int | ir.SymbolicDim | str:
    return size if isinstance(size, int) else axes.get(str(size.value), size)
