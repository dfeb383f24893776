"""ONNX graphs that somebody else made: one, a folder of them, or the folder that onnxruntime-genai generates from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from convert.bundle import Artifact
from convert.errors import InputError
from convert.formats.base import Found
from convert.formats.existing import artifact, names_in, with_companions
from convert.formats.onnx.layouts import FOLDER
from convert.json_types import JsonObject
from convert.source.onnx_graph import read_graph
from convert.source.untrusted import inside, listed, read_object, shown

GENAI = "genai_config.json"


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The graphs at `path` that give logits and what goes with them; None for a folder without one.

    Protobuf has no magic number: every file that no other format knows is tried. Raises InputError.
    """
    del projector
    if not path.is_dir():
        from validate.runtimes._graph_session import home_of

        return with_companions(home_of(path), _graph(path, ""), f"an ONNX graph, {path.name}")
    names = names_in(path)
    if GENAI in names:
        return _genai(path)
    if graphs := [name for name in names if name.endswith(".onnx")]:
        return _graphs(path, graphs)
    if FOLDER in names and (path / FOLDER).is_dir():  # a repository of the hub
        inner = [name for name in names_in(path / FOLDER) if name.endswith(".onnx")]
        return _graphs(path / FOLDER, inner) if inner else None
    return None


def _graph(path: Path, type_: str) -> Found:
    """The graph that gives logits and those that go with it, called `type_` where that is not empty."""
    from validate.runtimes._graph_session import MAIN_STEMS, sibling

    main = read_graph(path)
    if "logits" not in main.outputs:
        got = f"gives {listed(main.outputs)}"
        raise InputError(str(path), got, "a graph that gives logits", "name the graph of the language model")
    known = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
    unknown = [name for name in main.inputs if name not in known and not name.startswith("past_key_values.")]
    if unknown:
        wanted = f"{', '.join(known)} and past_key_values.*"
        raise InputError(str(path), f"takes {listed(unknown)}", wanted, "export it with a cache and without branches")
    kind = type_ or main.type
    parts = list(main.data)
    if "inputs_embeds" in main.inputs:
        embedder = sibling(path, "embed_tokens")
        if embedder is None:
            got = "takes embeddings, and there is no embed_tokens graph beside it"
            raise InputError(
                str(path), got, f"embed_tokens*.onnx beside a graph called {' or '.join(MAIN_STEMS)}*.onnx"
            )
        parts += [embedder, *read_graph(embedder).data]
    projector: list[Artifact] = []
    if (vision := sibling(path, "vision_encoder")) is not None:
        own = (file for file in read_graph(vision).data if file not in parts)  # a file that both read counts once
        projector = [artifact(f"onnx/{kind}", vision), *(artifact(f"onnx-part/{kind}", file) for file in own)]
    weights = [artifact(f"onnx/{kind}", path), *(artifact(f"onnx-part/{kind}", file) for file in dict.fromkeys(parts))]
    return Found(tuple(weights), "", tuple(projector))


def _graphs(folder: Path, names: list[str]) -> Found:
    """Every graph in the folder that gives logits, each with the graphs of its precision."""
    from validate.runtimes._graph_session import MAIN_STEMS, home_of

    stems = {name: stem for name in names for stem in MAIN_STEMS if name.startswith(stem)}
    if not stems:
        wanted = f"a graph called {' or '.join(f'{stem}*.onnx' for stem in MAIN_STEMS)}"
        raise InputError(str(folder), f"holds the graphs {listed(names)}", wanted, "name the graph's file itself")
    types = {name: read_graph(folder / name).type for name in stems}
    often = Counter(types.values())
    founds = []
    for name, stem in stems.items():
        suffix = name.removeprefix(stem).removesuffix(".onnx").strip("_-.")
        alone = often[types[name]] == 1 or not suffix
        founds.append(_graph(folder / name, types[name] if alone else f"{types[name]}-{suffix}"))
    merged = Found(tuple(a for f in founds for a in f.weights), "", tuple(a for f in founds for a in f.projector))
    return with_companions(home_of(folder / next(iter(stems))), merged, f"ONNX graphs: {', '.join(sorted(stems))}")


def _genai(folder: Path) -> Found:
    where = folder / GENAI
    config = read_object(inside(folder, GENAI))
    _refuse_libraries(where, config)
    decoder = config.get("model", {}).get("decoder", {}) if isinstance(config.get("model"), dict) else {}
    name = decoder.get("filename", "model.onnx") if isinstance(decoder, dict) else None
    if not isinstance(name, str):
        raise InputError(str(where), f"model.decoder.filename is {shown(name)}", "the name of a graph beside it")
    main = read_graph(inside(folder, name, where))
    parts = [*main.data, where, *_genai_images(folder, config)]
    weights = (
        artifact(f"onnx-genai/{main.type}", main.path),
        *(artifact(f"onnx-part/{main.type}", file) for file in parts),
    )
    return with_companions(folder, Found(weights, ""), f"a folder of onnxruntime-genai, {main.type}")


def _genai_images(folder: Path, config: JsonObject) -> list[Path]:
    """The files of a folder that takes images: its embedding and vision graphs, and what its processor reads."""
    model = config["model"] if isinstance(config.get("model"), dict) else {}
    found: list[Path] = []
    for part in ("embedding", "vision"):
        said = model.get(part)
        name = said.get("filename") if isinstance(said, dict) else None
        if isinstance(name, str):
            graph = read_graph(inside(folder, name, folder / GENAI))
            found += [graph.path, *graph.data]
    vision = model.get("vision")
    processor = vision.get("config_filename") if isinstance(vision, dict) else None
    if isinstance(processor, str) and processor != "processor_config.json" and (folder / processor).is_file():
        found.append(inside(folder, processor, folder / GENAI))
    return list(dict.fromkeys(found))


def _refuse_libraries(where: Path, value: object) -> None:
    """Raise InputError where the file asks onnxruntime-genai to load native code, or files of other folders."""
    if isinstance(value, list):
        for inner in value:
            _refuse_libraries(where, inner)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if "library" in key:
            raise InputError(
                str(where), f"loads a library of its own ({shown(key)})", "none", "do not trust this model"
            )
        if key == "filename" and isinstance(inner, str):
            inside(where.parent, inner, where)
        _refuse_libraries(where, inner)
