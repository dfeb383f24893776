"""The graphs of an onnx stage -> engines, engine.json, and the graphs again, so that the engines can be rebuilt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError
from convert.files import write_text
from convert.formats.tensorrt import flavours
from convert.formats.tensorrt.build import build
from convert.formats.tensorrt.choice import (
    SIDECAR,
    BuildSettings,
    Graphs,
    bundle_of,
    check,
    choose,
    companions_of,
    engine_name,
    kind_of,
    made_for,
    sources,
)
from convert.formats.tensorrt.flavours import Flavour
from convert.formats.tensorrt.graphs import Tensor, read_graph
from convert.formats.tensorrt.profiles import Made, of_graph, shapes
from convert.formats.tensorrt.worker import Job
from convert.json_types import JsonDict, JsonObject
from convert.progress import Progress

SCHEMA_VERSION = 1
GRAPHS, TIMING_CACHE = "onnx", "timing.cache"
SHORT_LIST = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")


@dataclass(frozen=True)
class _Site:
    """Everything that the engines of one stage have in common."""

    flavour: Flavour
    graphs: Graphs
    settings: BuildSettings
    made: Made
    out: Path


def build_all(inputs: Mapping[str, Bundle], settings: BuildSettings, out: Path, progress: Progress) -> Bundle:
    """The engines, engine.json, the graphs they are from and the companions, in `out`.

    Raises ConvertError with every problem before anything is built, StageError where a build fails.
    """
    from convert.formats.onnx import write
    from convert.formats.onnx.export import copy, inner_name

    flavour = flavours.find()
    if (problems := check(inputs, settings)) or flavour is None:
        raise ConvertError(*problems)
    bundle, graphs = bundle_of(inputs), choose(inputs, settings)
    (out / GRAPHS).mkdir()
    linked = write.share(sources(graphs), out / GRAPHS, progress)
    progress.note(f"{flavour.name} {flavour.version}")
    progress.start(f"building {', '.join(engine_name(graphs, a) for _, a in graphs.all)}", len(graphs.all), "engines")
    made: dict[Role, list[Artifact]] = {Role.WEIGHTS: [], Role.PROJECTOR: []}
    entries, site = [], _Site(flavour, graphs, settings, made_for(bundle), out)
    for role, graph in graphs.all:
        engine, entry = _engine(site, graph, progress)
        progress.advance(1)
        made[role].append(replace(engine, kind=kind_of(role, graph == graphs.main, graphs.precision)))
        entries.append(entry)
    part = f"tensorrt-part/{graphs.precision}"
    sidecar = _sidecar(flavour, graphs, settings, entries, {a.path.name: a.sha256 for a in graphs.data})
    made[Role.WEIGHTS].append(write_text(out / SIDECAR, sidecar, part))
    if (cache := out / TIMING_CACHE).is_file():
        made[Role.WEIGHTS].append(Artifact(part, cache, cache.stat().st_size))
    made[Role.WEIGHTS] += [replace(a, kind=f"onnx-source/{graphs.precision}") for a in linked.values()]
    companions = {
        str(role): tuple(copy(a.path, out / inner_name(a.path), a.kind) for a in files)
        for role, files in companions_of(bundle).items()
    }
    return bundle.with_(**{str(role): tuple(files) for role, files in made.items()}, **companions)


def _engine(site: _Site, graph: Artifact, progress: Progress) -> tuple[Artifact, JsonDict]:
    """One engine, and what engine.json says of it."""
    graphs, settings, out = site.graphs, site.settings, site.out
    header = read_graph(out / GRAPHS / graph.path.name)
    profiles = of_graph(header, settings.profiles, site.made)
    ranges = [shapes(profile, header.inputs, header.path.name) for profile in profiles]
    new_cache = out / TIMING_CACHE if settings.timing_cache else None
    known = new_cache if new_cache and new_cache.is_file() else settings.timing_cache
    name = engine_name(graphs, graph)
    job = Job(
        site.flavour.module,
        str(header.path),
        str(out / name),
        tuple(ranges),
        settings.capabilities,
        settings.flags,
        settings.workspace,
        str(known) if isinstance(known, Path) else None,
        str(new_cache) if new_cache else None,
    )
    built = build(header, job, progress)
    entry = {
        "file": name,
        "onnx": f"{GRAPHS}/{graph.path.name}",
        "onnx_sha256": graph.sha256,
        "data": list(header.data),
        "profiles": [{"name": profile.name, "shapes": sizes} for profile, sizes in zip(profiles, ranges, strict=True)],
        "inputs": [_tensor(tensor) for tensor in built.inputs],
        "outputs": [_tensor(tensor) for tensor in built.outputs],
    }
    return built.artifact, entry


def _tensor(tensor: Tensor) -> JsonDict:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _sidecar(
    flavour: Flavour,
    graphs: Graphs,
    settings: BuildSettings,
    engines: Sequence[JsonObject],
    data: Mapping[str, str],
) -> str:
    """engine.json: what a machine has to be to run the engines, and what they were built from."""
    said = {
        "schema_version": SCHEMA_VERSION,
        "flavour": flavour.name,
        "version": flavour.version,
        "compute_capabilities": list(flavour.targets(settings.capabilities)) or [flavours.present_capability()],
        "precision": graphs.precision,
        "options": {
            "tf32": settings.tf32,
            "weight_streaming": settings.weight_streaming,
            "refittable": settings.refittable or settings.strip_weights,
            **({"strip_weights": True} if settings.strip_weights else {}),
            "version_compatible": settings.version_compatible,
            "workspace_bytes": settings.workspace,
        },
        "engines": engines,
        "data_sha256": data,
    }
    text = json.dumps(said, indent=2, ensure_ascii=False)
    return SHORT_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"  # shapes on one line
