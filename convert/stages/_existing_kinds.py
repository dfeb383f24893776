"""What a file or folder that somebody else made is, told by what is in it, and the files that belong to it.

Nothing here reads a weight, and nothing a file says of itself is believed before it was checked: sizes against the
file, names against the folder. What no runtime of ours runs is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.bundle import Artifact, Role
from convert.checkpoint import weight_files
from convert.companions import ROLES, collect
from convert.errors import InputError
from convert.gguf.reader import GGUFHeader, read_gguf_header
from convert.gguf.split import shard_names
from convert.gguf.writer import MAGIC
from convert.safetensors import Entry, read_header
from convert.stages._existing_graphs import read_graph
from convert.untrusted import HUB_REPO_PREFIX, inside, listed, read_object, refuse_pointer, shown

WANTED = (
    "a GGUF file, an ONNX graph, or the folder of a GPTQ, AWQ or FP8 checkpoint, of ONNX graphs, or of "
    "onnxruntime-genai"
)
BESIDE = tuple(dict.fromkeys(role for role in ROLES.values() if role is not Role.CARD))
CONFIG, GENAI = "config.json", "genai_config.json"
NEEDED = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of them
NO_MODEL = {  # general.type of a GGUF file that is none
    "mmproj": "a projector; name it as `projector`, and the language model as `path`",
    "adapter": "an adapter; merge it into the model first",
    "imatrix": "an importance matrix",
}
# llama.h, enum llama_ftype: what general.file_type stands for, beyond the types that are encoded here
FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4"},
}


@dataclass(frozen=True)
class Found:
    """An output as the stages of this project hand them on. `words` say what it was taken for."""

    weights: tuple[Artifact, ...]
    words: str
    projector: tuple[Artifact, ...] = ()
    companions: Mapping[Role, tuple[Artifact, ...]] | None = None  # of a folder that has its own

    @property
    def paths(self) -> list[Path]:
        """Every file of it."""
        beside = [a for files in (self.companions or {}).values() for a in files]
        return list(dict.fromkeys(a.path for a in (*self.weights, *self.projector, *beside)))


def find(path: Path, projector: Path | None) -> Found:
    """What lies at `path`. Raises InputError for what is broken, and for what cannot be run."""
    if path.is_dir():
        if projector is not None:
            remedy = "a folder has its own eyes: leave `projector` out"
            raise InputError(str(projector), "is given beside a folder", "a projector beside a GGUF file", remedy)
        return _folder(path)
    if not path.is_file():
        got = "is neither a file nor a folder" if path.exists() else "is not there"
        raise InputError(str(path), got, WANTED, "check the path")
    start = _start(path)
    refuse_pointer(path, start)
    if start.startswith(MAGIC):
        return _gguf(path, projector)
    if projector is not None:
        raise InputError(str(projector), f"is given beside {path.name}, which is no GGUF file", "a GGUF file")
    if start[8:9] == b"{" and start[6:8] == b"\0\0":
        raise InputError(str(path), "is the weights of a checkpoint", WANTED, f"name its folder, {path.parent}")
    if start[:2] in (b"PK", b"\x80\x02"):
        raise InputError(str(path), "is a pickle", WANTED, "use it as a recipe's model instead")
    return _with_companions(path.parent, _graph(path, ""), f"an ONNX graph, {path.name}")


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None


def _folder(folder: Path) -> Found:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(str(folder), f"cannot be listed ({error.strerror})") from None
    if GENAI in names:
        return _genai(folder)
    if any(name.endswith(".engine") for name in names):
        got = "holds TensorRT engines: machine code for one kind of GPU, which no stranger's is run here"
        raise InputError(str(folder), got, WANTED, "build them from the graphs with `use: tensorrt`")
    quantized = _quantization(folder) if CONFIG in names else None
    if quantized is not None:
        return _checkpoint(folder, quantized)
    graphs = [name for name in names if name.endswith(".onnx")]
    if graphs:
        return _graphs(folder, graphs)
    if files := [name for name in names if (folder / name).is_file() and _start(folder / name).startswith(MAGIC)]:
        raise InputError(str(folder), f"holds GGUF files: {listed(files)}", "one of them", "name the file itself")
    if CONFIG in names:
        got = "holds a checkpoint that is not quantized: config.json has no quantization_config"
        raise InputError(str(folder), got, WANTED, "use it as a recipe's model instead")
    raise InputError(str(folder), f"holds nothing that is known, but {listed(names) or 'no file'}", WANTED)


def artifact(kind: str, path: Path) -> Artifact:
    """The file as it lies there; its hash is worked out when the step runs."""
    return Artifact(kind, path, path.stat().st_size)


def _with_companions(folder: Path, found: Found, words: str) -> Found:
    """With the tokenizer and its like, which this format takes from its own folder."""
    snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(HUB_REPO_PREFIX)
    home = folder.parent.parent.parent if snapshot else None  # in the hub's cache links lead to its blobs
    roles = {role: tuple(artifact("text", path) for path in paths) for role, paths in collect(folder, home).items()}
    names = [a.path.name for files in roles.values() for a in files]
    if CONFIG not in names or not set(NEEDED) & set(names):
        remedy = "copy them from the model's folder"
        raise InputError(str(folder), "lacks what belongs beside it", f"{CONFIG} and the tokenizer's files", remedy)
    beside: dict[Role, tuple[Artifact, ...]] = {role: roles.get(role, ()) for role in BESIDE}
    return Found(found.weights, words, found.projector, beside)


# ---- GGUF


def _gguf(path: Path, projector: Path | None) -> Found:
    header = read_gguf_header(path)
    fields = _fields(header)
    kind = str(fields.get("general.type", ""))
    if kind in NO_MODEL or fields.get("general.architecture") == "clip":
        raise InputError(str(path), f"is {NO_MODEL.get(kind, NO_MODEL['mmproj'])}", "a language model in GGUF")
    files, headers = _shards(path, header)
    if not any(h.tensors for h in headers):
        raise InputError(str(path), "holds no tensors", "a language model in GGUF", "is it a vocabulary alone?")
    type_ = _gguf_type(headers)
    weights = tuple(artifact(f"gguf/{type_}", file) for file in files)
    eyes = () if projector is None else (_projector(projector),)
    of = f"{len(files)} GGUF files" if len(files) > 1 else "a GGUF file"
    architecture = shown(fields.get("general.architecture", "unnamed"), 40)
    return Found(weights, f"{of} of the architecture {architecture}, {type_}", eyes)


def _fields(header: GGUFHeader) -> dict[str, Any]:
    return {field.key: field.value for field in header.fields}


def _shards(first: Path, header: GGUFHeader) -> tuple[list[Path], list[GGUFHeader]]:
    """Every file of the model and its header; llama.cpp is given the first and finds the others by their names."""
    fields = _fields(header)
    count, number = fields.get("split.count", 0), fields.get("split.no", 0)
    if count in (0, 1):
        return [first], [header]
    names = shard_names(first.name)
    if number or len(names) != count:
        wanted = "the first of them, under the name its maker gave it" if number == 0 else "the first of them"
        remedy = f"name {names[0]}" if number and len(names) > 1 else "download all of them under their own names"
        raise InputError(str(first), f"is number {shown(number)} of {shown(count)} files (split.no)", wanted, remedy)
    paths = [inside(first.parent, name, first) for name in names]
    headers = [header, *map(read_gguf_header, paths[1:])]
    for place, (path, each) in enumerate(zip(paths, headers, strict=True)):
        said = _fields(each)
        if (said.get("split.no"), said.get("split.count")) != (place, count):
            got = f"says it is number {shown(said.get('split.no'))} of {shown(said.get('split.count'))}"
            raise InputError(str(path), got, f"number {place} of {count}", "download it again")
    tensors, claimed = sum(len(h.tensors) for h in headers), fields.get("split.tensors.count")
    if claimed != tensors:
        raise InputError(str(first), f"claims {shown(claimed)} tensors in all", f"{tensors}, as its files have")
    return paths, headers


def _gguf_type(headers: list[GGUFHeader]) -> str:
    """What the file says it is where its tensors bear that out, else the type that most of its bytes have."""
    size: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            size[tensor.type.name] += tensor.nbytes
    claimed = _fields(headers[0]).get("general.file_type")
    name = FILE_TYPES.get(claimed, "") if isinstance(claimed, int) else ""
    main = size.most_common(1)[0][0]
    family = name.partition("_")[0]  # Q4 of Q4_K_M
    return name if name and any(kind.startswith(family) for kind in size) else main


def _projector(path: Path) -> Artifact:
    if not path.is_file():
        raise InputError(str(path), "is not there", "a projector in GGUF (mmproj)", "check the path")
    header = read_gguf_header(path)
    if _fields(header).get("general.architecture") != "clip":
        got = f"is of the architecture {shown(_fields(header).get('general.architecture'), 40)}"
        raise InputError(str(path), got, "'clip', as projectors are", "name the language model as `path`")
    if not header.tensors:
        raise InputError(str(path), "holds no tensors", "a projector in GGUF (mmproj)")
    return artifact(f"gguf/{_gguf_type([header])}", path)


# ---- quantized checkpoints


@dataclass(frozen=True)
class Method:
    """A way to quantize that a runtime of ours runs."""

    format: str
    type: Callable[[Mapping[str, Any]], str]  # of quantization_config; empty for what is not run
    proof: Callable[[Entry], bool]  # whether a tensor is of this kind: one has to be


def _bits(words: Mapping[str, Any]) -> str:
    bits = words.get("bits", words.get("w_bit"))
    return f"Int{bits}" if bits in (2, 3, 4, 8) else ""


METHODS: Mapping[object, Method] = {
    "gptq": Method("gptq", _bits, lambda entry: entry.name.endswith(".qweight")),
    "awq": Method("awq", _bits, lambda entry: entry.name.endswith(".qweight")),
    "compressed-tensors": Method(
        "fp8",
        lambda words: "F8_E4M3" if words.get("format") == "float-quantized" else "",
        lambda entry: entry.dtype == "F8_E4M3",
    ),
}
RUN = "gptq or awq in 2, 3, 4 or 8 bits, or compressed-tensors in the format float-quantized: those are run here"


def _quantization(folder: Path) -> Mapping[str, Any] | None:
    """config.json's quantization_config; None where there is none."""
    words = read_object(inside(folder, CONFIG)).get("quantization_config")
    if words is not None and not isinstance(words, dict):
        raise InputError(str(folder / CONFIG), f"quantization_config is {shown(words, 40)}", "a JSON object")
    return words


def _checkpoint(folder: Path, words: Mapping[str, Any]) -> Found:
    said = words.get("quant_method")
    method = METHODS.get(said) if isinstance(said, str) else None
    type_ = method.type(words) if method else ""
    if method is None or not type_:
        details = "".join(f", {key} {shown(words[key], 40)}" for key in ("bits", "w_bit", "format") if key in words)
        raise InputError(str(folder), f"is quantized by {shown(said, 40)}{details}", RUN)
    files, _ = weight_files(folder)
    if not any(method.proof(entry) for file in files for entry in read_header(file).entries):
        got = f"has no tensor that is quantized, and config.json says {said}"
        raise InputError(str(folder), got, "weights that are quantized", "download it again")
    kinds = [f"{method.format}/{type_}", *([f"{method.format}-part/{type_}"] * (len(files) - 1))]
    weights = tuple(artifact(kind, file) for kind, file in zip(kinds, files, strict=True))
    return _with_companions(folder, Found(weights, ""), f"a checkpoint quantized by {said}, {type_}")


# ---- ONNX


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
            got = "takes embeddings, and beside it is no graph that makes them of tokens"
            raise InputError(
                str(path), got, f"embed_tokens*.onnx beside a graph called {' or '.join(MAIN_STEMS)}*.onnx"
            )
        parts += [embedder, *read_graph(embedder).data]
    eyes: list[Artifact] = []
    if (vision := sibling(path, "vision_encoder")) is not None:
        own = (file for file in read_graph(vision).data if file not in parts)  # a file that both read counts once
        eyes = [artifact(f"onnx/{kind}", vision), *(artifact(f"onnx-part/{kind}", file) for file in own)]
    weights = [artifact(f"onnx/{kind}", path), *(artifact(f"onnx-part/{kind}", file) for file in dict.fromkeys(parts))]
    return Found(tuple(weights), "", tuple(eyes))


def _graphs(folder: Path, names: list[str]) -> Found:
    """Every graph in the folder that gives logits, each with the graphs of its precision."""
    from validate.runtimes._graph_session import MAIN_STEMS

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
    return _with_companions(folder, merged, f"ONNX graphs: {', '.join(sorted(stems))}")


def _genai(folder: Path) -> Found:
    where = folder / GENAI
    config = read_object(inside(folder, GENAI))
    _refuse_libraries(where, config)
    decoder = config.get("model", {}).get("decoder", {}) if isinstance(config.get("model"), dict) else {}
    name = decoder.get("filename", "model.onnx") if isinstance(decoder, dict) else None
    if not isinstance(name, str):
        raise InputError(str(where), f"model.decoder.filename is {shown(name)}", "the name of a graph beside it")
    main = read_graph(inside(folder, name, where))
    parts = (*main.data, where)
    weights = (
        artifact(f"onnx-genai/{main.type}", main.path),
        *(artifact(f"onnx-part/{main.type}", file) for file in parts),
    )
    return _with_companions(folder, Found(weights, ""), f"a folder of onnxruntime-genai, {main.type}")


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
