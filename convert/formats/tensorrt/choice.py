"""What is to be built, and whether it can be: the graphs of an onnx stage, the options, the TensorRT there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from convert.bundle import MEASURED, Artifact, Bundle, Role
from convert.errors import InputError, Problem
from convert.formats.tensorrt import flavours
from convert.formats.tensorrt.flavours import Flavour
from convert.formats.tensorrt.graphs import read_graph
from convert.formats.tensorrt.profiles import Made, Profile, of_graph, shapes
from convert.formats.tensorrt.sizes import engine_bytes, engine_weights
from convert.json_types import JsonObject
from convert.source.companions import read_json

PRECISIONS = ("fp32", "fp16", "bf16", "int8-qdq")
REFUSED = {
    "int8": "its DynamicQuantizeLinear and MatMulInteger are operators that TensorRT's parser has not",
    "int4": "its MatMulNBits is an operator of com.microsoft, for ONNX Runtime",
    "q4f16": "its MatMulNBits is an operator of com.microsoft, for ONNX Runtime",
}
MAIN, SIDECAR = "model.engine", "engine.json"
PARTS = ("embed_tokens", "vision_encoder")  # graphs that are not the one with logits, by how their files start
PATCH_PIXELS = 14  # of a side, where the processor says no other
MERGED = 2  # patches of a side that make one image token, likewise


@dataclass(frozen=True)
class BuildSettings:
    """What was asked for."""

    precision: str | None = None
    profiles: tuple[Profile, ...] = ()
    capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    tf32: bool = False
    weight_streaming: bool = False
    refittable: bool = False
    version_compatible: bool = False
    timing_cache: bool | Path = False
    strip_weights: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of TensorRT's BuilderFlag."""
        asked = {
            "TF32": self.tf32,
            "WEIGHT_STREAMING": self.weight_streaming,
            "REFIT": self.refittable,
            "VERSION_COMPATIBLE": self.version_compatible,
            "STRIP_PLAN": self.strip_weights,
        }
        return tuple(flag for flag, wanted in asked.items() if wanted)


@dataclass(frozen=True)
class Graphs:
    """What an onnx stage made in one precision."""

    precision: str
    main: Artifact
    others: tuple[tuple[Role, Artifact], ...]  # graphs of the other parts
    data: tuple[Artifact, ...]  # files with weights

    @property
    def all(self) -> list[tuple[Role, Artifact]]:
        return [(Role.WEIGHTS, self.main), *self.others]


# ---- before anything runs


def check(inputs: Mapping[str, Bundle], settings: BuildSettings) -> list[Problem]:
    """Every problem there is: of this machine, of the options, of the graphs."""
    flavour = flavours.find()
    if flavour is None:
        got = f"needs TensorRT: of {' and '.join(flavours.MODULES)} none can be imported"
        return [Problem("tensorrt", got, "", flavours.INSTALL)]
    problems = [*_option_problems(flavour, settings)]
    try:
        graphs = choose(inputs, settings)
        problems += _graph_problems(bundle_of(inputs), graphs, settings)
    except InputError as error:
        problems.append(error.problem)
    return problems


def _option_problems(flavour: Flavour, settings: BuildSettings) -> Iterator[Problem]:
    """Options that this TensorRT has not: passed over, they would be missed on the machine that runs the engine."""
    name = f"{flavour.name} {flavour.version}"
    if flavour.is_rtx:
        for one, near in flavours.unknown_capabilities(flavour, settings.capabilities).items():
            hint = f"did you mean {near}?" if near else ""
            got = f"{name} builds nothing for {one!r}"
            yield Problem("compute_capabilities", got, f"one of {', '.join(flavour.capabilities)}", hint)
        if settings.timing_cache:
            remedy = "leave it out: kernels are compiled where the engine is loaded, and kept in its runtime cache"
            yield Problem("timing_cache", f"{name} times no kernels", "", remedy)
        if settings.version_compatible:
            remedy = "leave it out, and rebuild from onnx/ for another version"
            yield Problem("version_compatible", f"{name} has no lean runtime", "", remedy)
        refits = {"refittable": settings.refittable, "strip_weights": settings.strip_weights}
        for word in (word for word, asked in refits.items() if asked and not flavours.has_driver()):
            remedy = "leave it out, or build on a machine with one"
            yield Problem(word, f"{name} makes such engines with a CUDA device, and there is none", "", remedy)
        return
    if settings.capabilities:
        remedy = "leave it out, and build on such a machine"
        yield Problem("compute_capabilities", f"{name} builds for the GPU that is present", "", remedy)
    if not flavours.has_driver():
        remedy = "build on a machine with one, or install TensorRT for RTX in its place"
        yield Problem("tensorrt", f"{name} builds on a CUDA device, and there is none", "", remedy)


def choose(inputs: Mapping[str, Bundle], settings: BuildSettings) -> Graphs:
    """The graphs to build from. Raises InputError where the stage's input has none that TensorRT takes."""
    bundle, stage = bundle_of(inputs), next(iter(inputs))
    weights = bundle.of(Role.WEIGHTS)
    mains = {a.type: a for a in weights if a.format == "onnx"}
    if not mains:
        got = f"stage '{stage}' gives {', '.join(sorted({a.format for a in weights})) or 'no'} weights"
        if any(a.format == "onnx-genai" for a in weights):
            got = f"stage '{stage}' has flavor: genai, whose graphs are for ONNX Runtime"
        raise InputError("tensorrt", got, "the graphs of `use: onnx`, flavor: portable", "take it `from:` such a stage")
    usable = [precision for precision in mains if precision in PRECISIONS]
    precision = settings.precision or next(iter(usable or mains))
    if precision in REFUSED and precision in mains:
        wanted = f"one of {', '.join(PRECISIONS)}"
        raise InputError("tensorrt", f"stage '{stage}' gives {precision}: {REFUSED[precision]}", wanted)
    if precision not in mains:
        near = difflib.get_close_matches(precision, mains, 1)
        hint = f"did you mean {near[0]}?" if near else f"add it to the precisions of stage '{stage}'"
        raise InputError("precision", f"stage '{stage}' makes no {precision}", f"one of {', '.join(mains)}", hint)
    return _graphs(bundle, precision, mains[precision])


def _graphs(bundle: Bundle, precision: str, main: Artifact) -> Graphs:
    others, data = [], []
    for role in (Role.WEIGHTS, Role.PROJECTOR):
        for artifact in bundle.of(role):
            if artifact == main or artifact.type not in (precision, "shared"):
                continue
            if artifact.path.suffix == ".onnx":
                others.append((role, artifact))
            else:
                data.append(artifact)
    return Graphs(precision, main, tuple(others), tuple(data))


def _graph_problems(bundle: Bundle, graphs: Graphs, settings: BuildSettings) -> Iterator[Problem]:
    """What the headers of the graphs say, as far as they are built."""
    made = made_for(bundle)
    lengths = set()
    headers = [read_graph(artifact.path) for _, artifact in graphs.all if artifact.path.is_file()]
    for header in headers:
        lengths |= set(header.axes)
        if header.custom:
            found = ", ".join(f"{count} of {name}" for name, count in header.custom.items())
            yield Problem(header.path.name, f"has {found}", "standard operators, which TensorRT's parser knows")
        try:
            for profile in of_graph(header, settings.profiles, made):
                shapes(profile, header.inputs, header.path.name)
        except InputError as error:
            yield error.problem
    yield from profile_problems(settings, made)
    if "patches" not in lengths and headers:
        for profile in settings.profiles:
            if "sequence" not in profile.ranges:
                yield Problem("profiles", f"{profile.name} is for images, and the model takes none", "", "leave it out")


def profile_problems(settings: BuildSettings, made: Made) -> Iterator[Problem]:
    """Ranges past what the model was made for: memory for texts that it cannot read."""
    for profile in settings.profiles:
        for axis in ("sequence", "past"):
            largest = profile.ranges.get(axis, (0, 0, 0))[2]
            if made.positions is not None and largest > made.positions:
                got = f"{axis} of profile {profile.name} goes to {largest}"
                yield Problem("profiles", got, f"at most the model's {made.positions} positions")
        odd = [size for size in profile.ranges.get("patches", ()) if size % made.patches_at_once]
        if odd:
            got = f"patches of profile {profile.name} are {', '.join(map(str, odd))}"
            wanted = f"multiples of {made.patches_at_once}: so many make one image token"
            yield Problem("profiles", got, wanted)


def bundle_of(inputs: Mapping[str, Bundle]) -> Bundle:
    """The one input. Raises InputError for more."""
    if len(inputs) != 1:
        raise InputError("tensorrt", f"takes from {len(inputs)} stages: {', '.join(inputs)}", "one", "name one")
    return next(iter(inputs.values()))


def made_for(bundle: Bundle) -> Made:
    """What the model was made for. Its configs may not be there yet: then nothing is known."""
    config = _json(bundle, Role.CONFIG, "config.json")
    text = config.get("text_config")
    positions = {**config, **(text if isinstance(text, dict) else {})}.get("max_position_embeddings")
    processor = _json(bundle, Role.PREPROCESSOR, "preprocessor_config.json")
    pixels, side = processor.get("max_pixels"), processor.get("patch_size", PATCH_PIXELS)
    patches = pixels // side**2 if isinstance(pixels, int) and isinstance(side, int) and side else None
    merge = processor.get("merge_size", MERGED)
    at_once = merge**2 if isinstance(merge, int) and merge > 0 else MERGED**2
    return Made(positions if isinstance(positions, int) and positions > 0 else None, patches, at_once)


def _json(bundle: Bundle, role: Role, name: str) -> JsonObject:
    path = next((a.path for a in bundle.of(role) if a.path.name == name), None)
    return read_json(path) if path is not None and path.is_file() else {}


# ---- the plan


def forecast(inputs: Mapping[str, Bundle], settings: BuildSettings) -> Bundle:
    """The bundle with engines of about the size they will have; the graphs are linked, and take no new bytes."""
    from convert.formats.onnx.export import inner_name

    bundle, graphs = bundle_of(inputs), choose(inputs, settings)
    made: dict[Role, list[Artifact]] = {Role.WEIGHTS: [], Role.PROJECTOR: []}
    for role, artifact in graphs.all:
        main = artifact == graphs.main
        size = engine_bytes(artifact, graphs.data, graphs.precision, settings.profiles)
        if settings.strip_weights:
            size -= engine_weights(artifact, graphs.data, graphs.precision, settings.profiles)
        made[role].append(Artifact(kind_of(role, main, graphs.precision), Path(engine_name(graphs, artifact)), size))
    made[Role.WEIGHTS] += [
        Artifact(f"tensorrt-part/{graphs.precision}", Path(SIDECAR), 4096),
        *(replace(a, kind=f"onnx-source/{graphs.precision}") for a in sources(graphs)),
    ]
    companions = {
        str(role): tuple(replace(a, path=inner_name(a.path), sha256="") for a in files)
        for role, files in companions_of(bundle).items()
    }
    return bundle.with_(**{str(role): tuple(files) for role, files in made.items()}, **companions)


def explain(inputs: Mapping[str, Bundle], settings: BuildSettings) -> Iterator[str]:
    """Which TensorRT, for which GPUs, which engines from which graphs, for which sizes."""
    flavour, graphs = flavours.find(), choose(inputs, settings)
    if flavour is not None:
        targets = ", ".join(flavour.targets(settings.capabilities)) or "the GPU of this machine"
        yield f"{flavour.name} {flavour.version}, compute capabilities {targets}"
    for _, artifact in graphs.all:
        yield f"{engine_name(graphs, artifact)} from {artifact.path.name}"
        if artifact.path.is_file():
            for profile in of_graph(read_graph(artifact.path), settings.profiles, made_for(bundle_of(inputs))):
                ranges = ", ".join(f"{axis} {'..'.join(map(str, sizes))}" for axis, sizes in profile.ranges.items())
                yield f"  profile {profile.name}: {ranges}"


def engine_name(graphs: Graphs, graph: Artifact) -> str:
    """model.engine for the graph that gives logits; the others are called after their part."""
    if graph == graphs.main:
        return MAIN
    stem = graph.path.stem
    return f"{next((part for part in PARTS if stem.startswith(part)), stem)}.engine"


def kind_of(role: Role, main: bool, precision: str) -> str:
    """An engine's kind: its part of the model is the one that gives logits, the vision encoder, or neither."""
    return f"{'tensorrt' if main or role is Role.PROJECTOR else 'tensorrt-part'}/{precision}"


def sources(graphs: Graphs) -> list[Artifact]:
    """Every file that an engine can be rebuilt from."""
    return [*(artifact for _, artifact in graphs.all), *graphs.data]


def companions_of(bundle: Bundle) -> dict[Role, list[Artifact]]:
    """What travels beside the engines: all that lies in the folder of the graphs and is no graph."""
    found: dict[Role, list[Artifact]] = {}
    for role, artifact in bundle.artifacts():
        if role not in (Role.WEIGHTS, Role.PROJECTOR, Role.REPORT, *MEASURED):
            found.setdefault(role, []).append(artifact)
    return found
