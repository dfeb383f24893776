"""ONNX graphs of standard operators, in any number of precisions, or the folder that onnxruntime-genai generates from.

The weights of an unchanged precision are the checkpoint's own bytes: the folder then serves transformers as well.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from convert.bundle import Artifact, Bundle, Role
from convert.calibration import mix
from convert.calibration.options import Calibration
from convert.errors import InputError, Problem
from convert.formats.onnx.image_files import image_files, split
from convert.formats.onnx.layouts import LAYOUTS
from convert.model.memory_needs import LIBRARIES, cores_for
from convert.needs import MB, Needs
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.onnx.export import ExportSettings
    from convert.formats.onnx.solving import Asked


PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4", "q4f16")
BLOCKS = {"int4", "q4f16"}
OTHER_WORDS = {
    "q4": "int4",
    "q8": "int8",
    "quantized": "int8",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
}
"""What other tools call a precision."""


def _precisions(value: object) -> object:
    """One precision or a list of different ones; one message where a union's members would each have theirs."""
    words = value if isinstance(value, list | tuple) else [value]
    for word in words:
        if word not in PRECISIONS:
            near = OTHER_WORDS.get(str(word)) or next(iter(difflib.get_close_matches(str(word), PRECISIONS, 1)), "")
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"{word!r} is not one of {', '.join(PRECISIONS)}{hint}")
    if not words or len(set(words)) < len(words):
        raise ValueError(f"{value!r} names {'no precision' if not words else 'a precision twice'}")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError(f"{number} is not a power of two: 16, 32, 64, 128 or 256")
    return number


WEBGPU = (
    "onnx int8: for processors and WASM. On WebGPU decoders of dynamic int8 write nonsense and embedding models give "
    "wrong vectors, without an error (huggingface/transformers.js, issues 1317, 1512 and 1728): take q4f16, int4 or "
    "fp16 there, and for embeddings fp32 until they are compared"
)
INT4_ONLY = (
    "block_size",
    "symmetric",
    "method",
    "embed",
    "lm_head",
    "edge_down",
    "v_proj",
    "calibration",
    "scale",
    "effort",
)
_ONE = {"enum": list(PRECISIONS), "type": "string"}


class ONNXOptions(Options):
    """Which graphs to make."""

    flavor: Literal["portable", "genai"] = Field(
        "portable", description="portable: standard operators; genai: onnxruntime-genai's folder for generate()"
    )
    precision: Annotated[
        str | tuple[str, ...],
        BeforeValidator(_precisions),
        WithJsonSchema({"anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1, "uniqueItems": True}]}),
    ] = Field(
        "fp32",
        description="fp32, fp16, bf16, int8 (dynamic), int4 (MatMulNBits), q4f16 (the same, and float16 between "
        "them: for browsers' GPUs), or a list of them",
    )
    layout: Literal["hub", "optimum", "flat"] = Field(
        "hub",
        description="hub: graphs in onnx/ with their weights in pieces under 2 GB, as transformers.js opens them by a "
        "dtype; optimum: the same files beside config.json, for ORTModelForCausalLM; flat: beside config.json, for "
        "graphs that share the checkpoint's weights",
    )
    weights: Literal["shared", "own"] | None = Field(
        None,
        description="shared: where no stored value changes, the graphs read the checkpoint's own files, which are "
        "hard-linked into the folder; own: every graph has its weights in files of its own. When left out, shared in "
        "layout flat, own in the others: a browser reads only those",
    )
    keep_fp32: Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...] | None, BeforeValidator(_listed)] = Field(
        None,
        description="regular expressions; layers whose weight's name they are found in keep float32 arithmetic "
        "(fp16, bf16) or their stored weights (int8, int4). When left out, what each precision needs; [] for none",
    )
    block_size: Annotated[int, AfterValidator(_power_of_two)] = Field(
        32, ge=16, le=256, description="weights that share a scale in int4: 16, 32, 64, 128 or 256"
    )
    symmetric: bool = Field(
        True, description="int4 without zero points; false to have them: a fortieth larger, and a little less drift"
    )
    method: Literal["search", "plain"] = Field(
        "search",
        description="of int4, search: scales of less error, weighed by importance where the stage it takes from has "
        "some; plain: as ONNX Runtime's quantizer rounds, byte for byte",
    )
    embed: Literal[4, 8] = Field(8, description="bits of the table that tokens are looked up in, in int4")
    lm_head: Literal[4, 8] = Field(8, description="bits of the layer that gives the logits, in int4")
    edge_down: Literal[4, 8] = Field(4, description="bits of the first and the last down_proj, in int4")
    v_proj: Literal[4, 8] = Field(8, description="bits of v_proj, small where heads share their keys, in int4")
    calibration: Calibration | None = Field(
        None,
        description="of int4: have GPTQ find the integers, measured on this; {} for a mix of our own. From a "
        "calibration stage with Gram matrices it does so unasked",
    )
    scale: bool = Field(False, description="with GPTQ: AWQ's factors too, folded into the norms")
    effort: Literal["normal", "high"] = Field(
        "normal", description="with GPTQ: high for more turns of descent, and a little less drift"
    )
    images: Annotated[tuple[RecipePath, ...], BeforeValidator(_listed)] = Field(
        (),
        description="of an ONNX file as the source: images, or folders of them, that int8 is calibrated on; every "
        "fourth is kept out, and what the graphs give of those is compared with the source",
    )
    pooling: bool = Field(
        True,
        description="of an embedding model with sentence-transformers' files: the vector of a text, pooled and "
        "normalized inside the graph, is an output too: sentence_embedding",
    )
    opset: Literal[20] = Field(20, description="version of the standard operators")

    @property
    def shares(self) -> bool:
        """Whether graphs read the checkpoint's own files where they can."""
        return LAYOUTS[self.layout].shared if self.weights is None else self.weights == "shared"

    @property
    def precisions(self) -> tuple[str, ...]:
        return (self.precision,) if isinstance(self.precision, str) else self.precision


def _int4_only(options: ONNXOptions) -> list[Problem]:
    """ONNXOptions of int4 where there is none: they would do nothing, and be missed later."""
    if BLOCKS & set(options.precisions):
        return []
    return [
        Problem(
            name, "is an option of int4, and `precision` has no int4", "", "leave it out, or add int4 to `precision`"
        )
        for name in INT4_ONLY
        if name in options.model_fields_set
    ]


def _keeps_nothing(options: ONNXOptions, source: Bundle) -> list[Problem]:
    """Patterns that no weight has: a layer that was to be kept would not be."""
    from convert.formats.onnx import export

    prepared = export.prepare(source)
    names = [*prepared.ledger.of, *(name for part in prepared.parts.values() for name in part)]
    remedy = f"names are like {names[0]}" if names else ""
    return [
        Problem("keep_fp32", f"{pattern!r} matches no weight's name", "", remedy)
        for pattern in options.keep_fp32 or ()
        if not any(re.search(pattern, name) for name in names)
    ]


def _solve(options: ONNXOptions, source: Bundle) -> Asked | None:
    """What GPTQ is asked for; None where nothing is calibrated."""
    from convert.formats.onnx.solving import Asked
    from convert.model.statistics import has_grams

    if not BLOCKS & set(options.precisions) or options.method == "plain":
        return None
    if options.calibration is None and not has_grams(source):
        return None
    calibration = options.calibration or Calibration.model_validate({})
    return Asked(_settings(options).int4, calibration, options.scale, options.effort)


def _unsolved(options: ONNXOptions, source: Bundle) -> list[Problem]:
    """Options of GPTQ where nothing is calibrated, and what keeps the model from being."""
    from convert.formats.onnx import solving

    asked = _solve(options, source)
    if asked is not None:
        return solving.check(asked, source, named=options.calibration is not None)
    remedy = "say `calibration: {}`, or leave it out"
    remedy = "leave it out, or `method: plain`" if options.method == "plain" else remedy
    return [
        Problem(name, "is an option of GPTQ, which needs a calibration", "", remedy)
        for name in ("calibration", "scale", "effort")
        if name in options.model_fields_set
    ]


def _settings(options: ONNXOptions) -> ExportSettings:
    from convert.formats.onnx.blocks import Int4
    from convert.formats.onnx.export import ExportSettings

    bits = options.embed, options.lm_head, options.edge_down, options.v_proj
    int4 = Int4(options.block_size, options.symmetric, options.method, *bits)
    layout, pooling = LAYOUTS[options.layout], options.pooling
    return ExportSettings(options.precisions, options.shares, options.keep_fp32, int4, layout=layout, pooling=pooling)


def _graph(inputs: Inputs) -> Bundle | None:
    """The one input, where that is a graph that somebody else made and no checkpoint."""
    given = list(inputs.values())
    is_graph = len(given) == 1 and any(artifact.format == "onnx" for artifact in given[0].of(Role.WEIGHTS))
    return given[0] if is_graph else None


def _there(options: ONNXOptions) -> list[Path]:
    return [path for path in options.images if path.exists()]


_NO_IMAGES = Problem(
    "images", "is an option of an ONNX file as the source", "model: {path: net.onnx}", "leave it out for a checkpoint"
)


class ONNXStage(Stage[ONNXOptions]):
    """ONNX graphs of standard operators, in any number of precisions, or onnxruntime-genai's folder."""

    NAME = "onnx"
    VERSION = 2
    TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    NEEDS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes"), "onnx"
    )
    Options = ONNXOptions

    def check(self, options: ONNXOptions, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being exported, by its headers and configs."""
        if (graph := _graph(inputs)) is not None:
            from convert.formats.onnx import graph_source

            return graph_source.check(options, graph)
        if options.images:
            return [_NO_IMAGES]
        try:
            source = checkpoint("onnx", inputs)
        except InputError as error:
            return [error.problem]
        if options.flavor == "genai":
            from convert.formats.onnx import genai

            return genai.check(options, source) or _int4_only(options) or _unsolved(options, source)
        from convert.formats.onnx import export

        return (
            _int4_only(options)
            or export.check(source, _settings(options))
            or _keeps_nothing(options, source)
            or _unsolved(options, source)
        )

    def forecast(self, options: ONNXOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with sizes that are close."""
        if (graph := _graph(inputs)) is not None:
            from convert.formats.onnx import graph_source

            return graph_source.forecast(options, graph, LAYOUTS[options.layout])
        source = checkpoint("onnx", inputs)
        if options.flavor == "genai":
            from convert.formats.onnx import genai

            return genai.forecast(source, _settings(options))
        from convert.formats.onnx import sizes

        return sizes.forecast(source, _settings(options))

    def reads(self, options: ONNXOptions) -> list[Path]:
        """The files calibrated on, and the screenshots they name; of a graph, all its images."""
        return [*image_files(_there(options)), *(options.calibration.reads if options.calibration else [])]

    def versions(self, options: ONNXOptions) -> Mapping[str, str]:
        """What the default mix says, where the model reads that."""
        if options.calibration is None and "q4f16" in options.precisions:
            return {mix.NAME: mix.sha256()}
        return options.calibration.versions if options.calibration else {}

    def calibrates(self, options: ONNXOptions) -> list[Path]:
        """The same files, or those of the mix: the integers are fitted to them."""
        if options.calibration is None:
            return list(split(_there(options)).calibrate)
        return self.reads(options) if options.calibration.files else mix.files()

    def notes(self, options: ONNXOptions) -> list[str]:
        """What a user should know of the files before they are made."""
        if options.flavor == "genai":
            from convert.formats.onnx import genai

            return genai.notes(options)
        said = []
        if BLOCKS & set(options.precisions):
            said.append(
                "onnx int4: its MatMulNBits is an operator of com.microsoft: for ONNX Runtime, not for TensorRT"
            )
        said += [WEBGPU] if "int8" in options.precisions else []
        if options.shares and set(options.precisions) & {"fp32", "bf16", "fp16"}:
            said.append(
                "onnx: shared weights are hard links of the checkpoint's files. onnx.load refuses files with two names "
                "(ONNX Runtime, OpenVINO and TensorRT read them, a browser does not); a copy of the folder has none; "
                "`weights: own` never does"
            )
        return said

    def needs(self, options: ONNXOptions, inputs: Inputs, made: Bundle) -> Needs:
        """torch and the traced graphs: one weight is in memory at a time; what GPTQ takes, where it is asked for.

        To find what float16 has no room for, the graph is run: it is on the disk once more, and in memory.
        """
        from convert.formats.onnx import solving

        source = only(inputs)
        run = sum(file.size for file in made.of(Role.WEIGHTS) if file.type == "q4f16") * 5 // 4  # with float32 scales
        solve = _solve(options, source)
        plain = Needs(LIBRARIES + 300 * MB, cores_for(source))
        needs = plain if solve is None else solving.needs(solve, source, made)
        memory = max(needs.memory_bytes, LIBRARIES + 300 * MB + run)
        return replace(needs, memory_bytes=memory, scratch_bytes=max(needs.scratch_bytes, run))

    def explain(self, options: ONNXOptions, inputs: Inputs) -> Iterator[str]:
        """Lines about every file, for `convert plan -v`."""
        bundle = self.forecast(options, inputs)
        files: list[Artifact] = [*bundle.of(Role.WEIGHTS), *bundle.of(Role.PROJECTOR)]
        for artifact in files:
            where = "shared with the checkpoint" if artifact.kind == "onnx-part/shared" else artifact.kind
            yield f"{artifact.path.name}: about {artifact.size:,} bytes, {where}"
        if options.flavor == "portable" and _graph(inputs) is None:
            from convert.formats.onnx import export

            prepared = export.prepare(checkpoint("onnx", inputs))
            yield from (f"left out: {name}, {why}" for name, why in prepared.ledger.left_out.items())
            yield from (f"note: {note}" for note in prepared.notes)

    def run(self, options: ONNXOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Write the graphs and what belongs beside them into `out`."""
        if (graph := _graph(inputs)) is not None:
            from convert.formats.onnx import graph_source

            return graph_source.run(options, graph, LAYOUTS[options.layout], out, progress)
        source = checkpoint("onnx", inputs)
        from convert.formats.onnx import export, genai
        from convert.formats.onnx.known import known, range_finder

        settings, make = _settings(options), genai.export if options.flavor == "genai" else export.export
        if not BLOCKS & set(options.precisions):
            return make(source, settings, out, progress)
        if "q4f16" in options.precisions:
            settings = replace(settings, beyond=range_finder(source, options.calibration, out, progress))
        with known(settings.int4, _solve(options, source), source, out, progress) as found:
            settings = replace(settings, encode=found.encode, changed=found.changed)
            made = make(source, settings, out, progress)
        if found.words:
            progress.note(f"matrices: {found.words}")
        return made


STAGE = ONNXStage()
