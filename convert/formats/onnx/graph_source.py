"""A graph that somebody else made as the source: as it is, in 16 bits, or in 8 bits by what images make of it.

Images are given by the recipe. Every fourth calibrates nothing: on those the graphs are compared with the source, by
the class that is first and the cosine of what they give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, InputError, Problem
from convert.files import HashedFile
from convert.formats.onnx.image_files import split
from convert.formats.onnx.layouts import Layout, Names
from convert.formats.onnx.pixels import Preprocessing, preprocessing
from convert.progress import Progress
from convert.source.companions import ROLES
from convert.source.onnx_graph import read_graph
from convert.source.untrusted import read_object

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxruntime import InferenceSession

    from convert.formats.onnx.stage import ONNXOptions

PRECISIONS = ("fp32", "fp16", "int8")
TYPES = {"int8": "int8-qdq"}  # what an output is called: static, unlike the int8 that is made of checkpoints
FEWEST = 8  # images
REPORT = "agreement.json"
STEM = "model"
COMPANIONS = (Role.PREPROCESSOR, Role.CONFIG)


def is_graph(source: Bundle) -> bool:
    """Whether a bundle is a graph and no checkpoint."""
    return any(artifact.format == "onnx" for artifact in source.of(Role.WEIGHTS))


def check(options: ONNXOptions, source: Bundle) -> list[Problem]:
    """What keeps the graph from being made into these precisions, by its header and the names of the images."""
    problems = []
    for word in options.precisions:
        if word not in PRECISIONS:
            remedy = "leave it out; MatMulNBits and bfloat16 are made of checkpoints"
            problems.append(
                Problem("onnx", f"{word} is not made of a graph", f"one of {', '.join(PRECISIONS)}", remedy)
            )
    if options.flavor == "genai":
        problems.append(Problem("onnx", "flavor: genai is made of a checkpoint", "portable", "leave `flavor` out"))
    try:
        read_graph(_main(source))
        images = split(options.images)
    except InputError as error:
        return [*problems, error.problem]
    if "int8" in options.precisions and len(images.calibrate) < FEWEST:
        got = f"int8 of a graph is calibrated on images, and there are {len(images.calibrate)} to calibrate on"
        remedy = "name a folder of pictures like those that it will see: `images: calibration/`"
        problems.append(Problem("onnx", got, f"at least {FEWEST + FEWEST // 3} images", remedy))
    return problems


def forecast(options: ONNXOptions, source: Bundle, layout: Layout) -> Bundle:
    """The bundle that `run` will return."""
    size = sum(artifact.size for artifact in source.of(Role.WEIGHTS))
    share = {"fp32": 1.0, "fp16": 0.5, "int8": 0.26}
    made = [
        Artifact(
            f"onnx/{TYPES.get(word, word)}",
            Path(layout.folder, _names(layout, options, word).graph),
            int(size * share[word]),
        )
        for word in options.precisions
        if word in share
    ]
    return _bundle(source, made, [], [])


def run(options: ONNXOptions, source: Bundle, layout: Layout, out: Path, progress: Progress) -> Bundle:
    """The graph in every precision, and what was found on the images that calibrated nothing."""
    import onnx_ir as ir

    from convert.formats.onnx import write

    problems = check(options, source)
    if problems:
        raise ConvertError(*problems)
    images, made = split(options.images), list[Artifact]()
    home = out / layout.folder
    home.mkdir(exist_ok=True)
    how = _preprocessing(source) if options.images else None
    for word in options.precisions:
        if word == "int8" and how is not None:
            from convert.formats.onnx.graph_static import quantized

            model = quantized(_main(source), images.calibrate, how, options.symmetric, progress)
        else:
            model = ir.load(_main(source)) if word == "fp32" else _halved(_main(source), options)
        _label(model, source, word, progress.key)
        names = _names(layout, options, word)
        progress.start(f"writing {names.graph}", 1)
        graph, data = write.write(model, home, names, {}, progress)
        kind = TYPES.get(word, word)
        made += [replace(graph, kind=f"onnx/{kind}"), *(replace(file, kind=f"onnx-part/{kind}") for file in data)]
    report = []
    if how is not None and images.measure:
        graphs = {word: home / _names(layout, options, word).graph for word in options.precisions}
        found = _measured({"source": _main(source), **graphs}, images.measure, how, progress)
        report.append(_written(found, len(images.measure), out))
    return _bundle(source, made, list(_copies(source, out)), report)


def _main(source: Bundle) -> Path:
    return next(artifact.path for artifact in source.of(Role.WEIGHTS) if artifact.format == "onnx")


def _names(layout: Layout, options: ONNXOptions, word: str) -> Names:
    return Names(STEM, layout.suffix(word, len(options.precisions)), layout.piece_bytes)


def _bundle(
    source: Bundle, made: Sequence[Artifact], copies: Sequence[tuple[Role, Artifact]], report: list[Artifact]
) -> Bundle:
    roles: dict[str, tuple[Artifact, ...]] = {"weights": tuple(made), "report": tuple(report)}
    for role, artifact in copies:
        roles[role.value] = (*roles.get(role.value, ()), artifact)
    return source.with_(**roles)


def _copies(source: Bundle, out: Path) -> Iterator[tuple[Role, Artifact]]:
    from convert.formats.onnx.export import copy, inner_name

    for role, artifact in source.artifacts():
        if role in set(ROLES.values()):
            yield role, copy(artifact.path, out / inner_name(artifact.path), artifact.kind)


def _halved(path: Path, options: ONNXOptions) -> ir.Model:
    import re

    import onnx_ir as ir

    from convert.formats.onnx.half import to_half

    model = ir.load(path)
    keep = None if options.keep_fp32 is None else [re.compile(pattern) for pattern in options.keep_fp32]
    to_half(model, ir.DataType.FLOAT16, keep)
    return model


def _label(model: ir.Model, source: Bundle, word: str, key: str) -> None:
    from convert.distribution import RELEASE
    from convert.formats.onnx.origin import origin

    model.producer_name, model.producer_version = "convert", RELEASE
    model.metadata_props.update(origin(source, word, key))


# ---- what images make of it


def _preprocessing(source: Bundle) -> Preprocessing:
    """What becomes of an image before this graph reads it. Raises InputError for a graph that reads something else."""
    path = _main(source)
    ports = _open(path).get_inputs()
    if len(ports) != 1 or ports[0].type != "tensor(float)":
        got = ", ".join(f"{port.name} {port.type}" for port in ports)
        remedy = "graphs with other inputs are made in fp16, without `images`"
        raise InputError(str(path), f"takes {got}", "one input of float32: images", remedy)
    files = {artifact.path.name: artifact.path for artifact in source.of(Role.PREPROCESSOR)}
    said = read_object(files["preprocessor_config.json"]) if "preprocessor_config.json" in files else {}
    return preprocessing(ports[0].shape, said)


def _open(path: Path) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        said = " ".join(str(error).split())[:300]
        raise InputError(str(path), f"ONNX Runtime cannot load it ({said})", "a graph that runs") from error


def _measured(
    graphs: Mapping[str, Path], images: Sequence[Path], how: Preprocessing, progress: Progress
) -> dict[str, dict[str, float]]:
    """What the graphs give beside what the one called source gives; the progress says it too."""
    sessions = {word: _open(graph) for word, graph in graphs.items()}
    progress.start("comparing with the source", len(images), "images")
    given: dict[str, list[np.ndarray]] = {word: [] for word in sessions}
    for image in images:
        pixels = how(image)
        for word, session in sessions.items():
            first = session.run(None, {session.get_inputs()[0].name: pixels})[0]
            given[word].append(np.asarray(first, np.float64).reshape(-1))
        progress.advance(1)
    wanted = np.stack(given.pop("source"))
    found = {word: agreement(wanted, np.stack(rows)) for word, rows in given.items()}
    for word, numbers in found.items():
        progress.note(
            f"{word}: the same first class on {numbers['top1']:.1%} of {len(images)} images that calibrated nothing, "
            f"mean cosine {numbers['cosine']:.6f}, least {numbers['cosine_min']:.6f}"
        )
    return found


def _written(found: Mapping[str, Mapping[str, float]], images: int, out: Path) -> Artifact:
    with HashedFile(out / REPORT) as file:
        file.write(json.dumps({"images": images, "outputs": found}, indent=2, sort_keys=True).encode() + b"\n")
    return file.artifact("agreement")  # not `json`, which is a validation's report


def agreement(wanted: np.ndarray, got: np.ndarray) -> dict[str, float]:
    """Of outputs (image, value): the share with the same largest value, and the cosines."""
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    cosines = (wanted * got).sum(1) / np.where(lengths > 0, lengths, 1)
    same = wanted.argmax(1) == got.argmax(1)
    return {"top1": float(same.mean()), "cosine": float(cosines.mean()), "cosine_min": float(cosines.min())}
