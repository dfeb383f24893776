"""The folder that onnxruntime-genai's `generate()` reads, made by its own builder, checked and completed.

The builder rewrites the tokenizer and the chat template through transformers; here the source's own files travel
instead, and genai_config.json is held against what they say. It runs in a process of its own: it prints, and it keeps
the whole model in memory.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Protocol

from convert import child
from convert.bundle import Artifact, Bundle, Role
from convert.distribution import install_command
from convert.errors import ConvertError, InputError, Problem, StageError
from convert.files import CHUNK_BYTES
from convert.formats.onnx import export
from convert.formats.onnx.genai_search import search_settings
from convert.formats.onnx.origin import origin
from convert.json_types import JsonDict
from convert.progress import Progress
from convert.source.checkpoint import open_bundle, read_config
from convert.source.companions import ROLES, Companions, collect, read_companions

PRECISIONS = ("fp32", "int4")  # what its runtime computes on a CPU: an fp16 folder builds and does not generate
BUILDER = "onnxruntime_genai.models.builder"
NEEDS = {"onnxruntime_genai": "genai", "onnxruntime": "onnx", "onnx": "onnx", "torch": "onnx", "transformers": "onnx"}
TOOLS = ("onnxruntime-genai", "onnxruntime", "onnx", "torch", "transformers")
GRAPH, DATA, CONFIG = "model.onnx", "model.onnx.data", "genai_config.json"
NOT_ITS = (
    "keep_fp32",
    "layout",
    "weights",
    "opset",
    "method",
    "embed",
    "lm_head",
    "edge_down",
    "v_proj",
    "calibration",
)
"""Options of the portable flavor that the builder has no word for."""
CARRIED = frozenset(ROLES.values()) - {Role.CARD}
GRAPH_BYTES = 64 << 10
NOISE = re.compile(r"it/s|\?it|matmul_nbits_quantizer|^Extra options:|^Valid precision")
READING_LAYER = re.compile(r"Reading layer \d+")
SUPPORTED = re.compile(r'config\.architectures\[0\] == "(\w+)"')  # the builder's own list


class Asked(Protocol):
    """What of ONNXOptions the builder is asked with."""

    @property
    def precision(self) -> str | tuple[str, ...]: ...
    @property
    def block_size(self) -> int: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def model_fields_set(self) -> set[str]: ...


def check(options: Asked, source: Bundle) -> list[Problem]:
    """What keeps the builder from making this folder: packages, the precision, words it has not, the architecture."""
    missing = [module for module in NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        got = f"flavor: genai needs {', '.join(missing)}, not installed"
        return [Problem("onnx", got, "", install_command(*(NEEDS[module] for module in missing)))]
    problems = _option_problems(options)
    try:
        architecture = _architecture(source)
    except ConvertError as error:
        return [*problems, *(p for p in error.problems if isinstance(p, Problem))]
    known = _architectures()
    if known and architecture not in known:
        got = f"onnxruntime-genai {_version()} builds no {architecture}"
        near = difflib.get_close_matches(architecture, known, 3, 0) or known[:3]
        wanted = f"one of the {len(known)} classes that it builds, such as {', '.join(near)}"
        problems.append(Problem("onnx", got, wanted, "use `flavor: portable`"))
    else:
        problems += export.misfits(source)  # the builder would make up what lacks
    return problems


def forecast(options: Asked, source: Bundle) -> Bundle:
    """The bundle that `run` will return, with sizes that are close."""
    precision = _precision(options)
    size = _weight_bytes(source, precision, options.block_size)
    made = _weights(Path(), precision, (GRAPH_BYTES, size, GRAPH_BYTES))
    return source.with_(weights=made, projector=(), **_carried_to(source, Path()))


def notes(options: Asked) -> list[str]:
    """What to know before the run."""
    del options
    return [
        "genai: the builder keeps the whole model in memory as float32; images are not part of its folder",
    ]


def run(options: Asked, source: Bundle, out: Path, progress: Progress) -> Bundle:
    """The folder, written into `out`. Raises StageError with the builder's last words where it makes none."""
    precision = _precision(options)
    with tempfile.TemporaryDirectory(prefix=".genai-", dir=out) as name:
        work = Path(name)
        folder = work / "source"
        _link(source, folder)
        _build(options, precision, folder, work, progress)
        built = work / "built"
        companions = read_companions(source)
        _correct_config(built / CONFIG, companions, progress)
        _state_origin(built / GRAPH, source, precision, progress.key)
        for line in _merge_companions(source, companions, built):
            progress.note(line)
        for path in sorted(built.iterdir()):
            path.rename(out / path.name)
    if "vision_config" in companions.config:
        progress.warn("the genai folder holds the text decoder only: it takes no images")
    made = tuple(_hashed(artifact) for artifact in _weights(out, precision, (0, 0, 0)))
    return source.with_(weights=made, projector=(), **_carried_from(out))


# ---- options


def _precision(options: Asked) -> str:
    asked = options.precision
    return str(asked if isinstance(asked, str) else next(iter(asked)))


def _option_problems(options: Asked) -> list[Problem]:
    problems = []
    asked = [options.precision] if isinstance(options.precision, str) else list(options.precision)
    if len(asked) > 1:
        remedy = "make a stage for each: generate() wants one model in a folder"
        problems.append(Problem("precision", f"{', '.join(asked)} with flavor: genai", "one", remedy))
    for precision in asked:
        if precision not in PRECISIONS:
            got = f"{precision} with flavor: genai"
            problems.append(Problem("precision", got, " or ".join(PRECISIONS), "flavor: portable has the others"))
    foreign = [name for name in NOT_ITS if name in options.model_fields_set]
    return problems + [Problem(name, "the genai builder has no such option", "", "leave it out") for name in foreign]


def _arguments(options: Asked, precision: str, folder: Path, work: Path) -> list[str]:
    extra = {"hf_token": "false", "hf_remote": "false"}
    if precision == "int4":
        extra |= {
            "block_size": str(options.block_size),
            "is_symmetric": str(options.symmetric).lower(),
        }
    words = [f"{name}={value}" for name, value in extra.items()]
    return [
        *("-i", str(folder), "-o", str(work / "built"), "-p", precision, "-e", "cpu", "-c", str(work / "cache")),
        *("--extra_options", *words),
    ]


# ---- the builder


def _architecture(source: Bundle) -> str:
    config = next((a.path for a in source.of(Role.CONFIG) if a.path.name == "config.json"), None)
    if config is None:
        raise InputError(source.model.name, "has no config.json", "a Hugging Face checkpoint")
    named = read_config(config.parent).get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise InputError(str(config), "architectures names no model class", "one")
    return str(named[0])


def _architectures() -> list[str]:
    """The model classes that the installed builder knows, by its own text: importing it would import torch."""
    spec = importlib.util.find_spec("onnxruntime_genai")
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / "models" / "builder.py"
    return sorted(set(SUPPORTED.findall(path.read_text(encoding="utf-8")))) if path.is_file() else []


def _version() -> str:
    return importlib.metadata.version("onnxruntime-genai")


def _link(source: Bundle, folder: Path) -> None:
    """Links in `folder` to the files of the bundle and nothing else: no Python file, no second set of weights."""
    home = next(a.path for a in source.of(Role.CONFIG) if a.path.name == "config.json").parent
    wanted = [a.path for role, a in source.artifacts() if role in CARRIED or role is Role.WEIGHTS]
    for shards in {a.path.parent for a in source.of(Role.WEIGHTS)}:
        wanted += shards.glob("*.safetensors.index.json")
    for path in wanted:
        link = folder / (path.relative_to(home) if path.is_relative_to(home) else Path(path.name))
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


def _build(options: Asked, precision: str, folder: Path, work: Path, progress: Progress) -> None:
    layers = _layers(folder)
    progress.start(f"building the {precision} genai folder", layers, "layers")

    def printed(line: str) -> None:
        if READING_LAYER.match(line):
            progress.advance(1)
        elif not NOISE.search(line):
            progress.note(line.replace(f"{work}/", ""))

    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(work / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "GIT_CEILING_DIRECTORIES": str(Path.cwd().anchor),  # it would write the commit of the folder it runs in
    }
    command = [BUILDER, *_arguments(options, precision, folder, work)]
    ended = child.run(command, progress, on_line=printed, environment=quiet, folder=work)
    written = [name for name in (GRAPH, CONFIG) if (work / "built" / name).is_file()]
    if ended.code or len(written) < 2:
        words = ended.failure or " / ".join(line for line in ended.last[-3:] if not NOISE.search(line))
        remedy = "it needs memory for the whole model as float32" if ended.code == -9 else "the log has all it said"
        raise StageError("onnx", f"onnxruntime-genai's builder {ended.how}: {words[-600:]}", "a genai folder", remedy)


def _layers(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    inner = config.get("text_config")
    count = (inner if isinstance(inner, dict) else config).get("num_hidden_layers", config.get("num_hidden_layers"))
    return count if isinstance(count, int) else 0


# ---- what it wrote


def _correct_config(path: Path, companions: Companions, progress: Progress) -> None:
    """Hold genai_config.json against the source; what differs is set right, and said.

    Raises StageError where the builder understood the model otherwise: its vocabulary is part of the graph.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    model, text = config["model"], companions.text_config
    if model["vocab_size"] != text.get("vocab_size"):
        got = f"{CONFIG} has vocab_size {model['vocab_size']}"
        raise StageError("onnx", got, f"{text.get('vocab_size')}, as in config.json")
    ends = list(companions.end_ids)
    wanted = {"context_length": (text.get("max_position_embeddings", model["context_length"]), "the source's")}
    stated = model.get("eos_token_id")
    if ends and set(stated if isinstance(stated, list) else [stated]) != set(ends):
        wanted["eos_token_id"] = (ends, "the source's")
    if "vision_config" in companions.config:
        wanted["pad_token_id"] = _pad(model, companions, progress)
    search = search_settings(companions.generation, wanted["context_length"][0])
    changed = _set(model, wanted, progress)
    changed |= _set(config["search"], {name: (value, "the source's") for name, value in search.items()}, progress)
    if changed:
        path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")


def _set(section: JsonDict, wanted: Mapping[str, tuple[object, str]], progress: Progress) -> bool:
    """Put what is wanted, and why, into a section; whether anything was otherwise."""
    differing = {name: why for name, why in wanted.items() if section.get(name) != why[0]}
    for name, (value, why) in differing.items():
        progress.note(f"{CONFIG}: {name} {value} instead of {section.get(name)}: {why}")
        section[name] = value
    return bool(differing)


def _pad(model: JsonDict, companions: Companions, progress: Progress) -> tuple[int | None, str]:
    """What to pad a vision model with, and why: of those onnxruntime-genai 0.18.0 masks every pad token of a prompt.

    The model's own is often its end of text, which texts hold: logits after it would be another model's.
    """
    pad = _harmless_pad(companions, model["vocab_size"])
    if pad is None:
        pad = model.get("pad_token_id")
        progress.warn(f"{CONFIG}: onnxruntime-genai will not read token {pad} where it stands in a prompt: it pads")
    return pad, "it is masked wherever it stands, so it must be in no text"


def _harmless_pad(companions: Companions, vocab: int) -> int | None:
    """A token id that no text has: the last without a token, else the unknown token's; None where there is neither."""
    used = set(companions.token_ids.values())
    if used:
        for number in range(vocab - 1, -1, -1):
            if number not in used:
                return number
    unknown = companions.special_ids.get("unk")
    return None if unknown in companions.end_ids else unknown


def _state_origin(path: Path, source: Bundle, precision: str, key: str) -> None:
    """Say in the graph what it is; and not which commit the builder's folder was at, which it puts in its version."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    graph.producer_version = _version()
    graph.doc_string = ""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, origin(source, precision, key))
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _merge_companions(source: Bundle, companions: Companions, built: Path) -> Iterator[str]:
    """Put the source's own files over the builder's; a line for each of the builder's, and what became of it."""
    ours = {path.relative_to(_home(source)).as_posix(): path for path in _carried(source)}
    has_template = bool(companions.chat_templates) and "chat_template" in companions.tokenizer_config
    for path in sorted(built.iterdir()):
        if path.name in (GRAPH, DATA, CONFIG):
            continue
        if path.name in ours:
            same = path.read_bytes() == ours[path.name].read_bytes()
            yield f"{path.name}: the source's" + ("" if same else ", not what transformers made of it for the builder")
        elif path.name == "chat_template.jinja" and has_template:
            path.unlink()
            yield f"{path.name}: left out, tokenizer_config.json has the template"
        else:
            yield f"{path.name}: the builder's, the source has none"
    for name, path in ours.items():
        (built / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, built / name)


def _home(source: Bundle) -> Path:
    return next(a.path for a in source.of(Role.CONFIG) if a.path.name == "config.json").parent


def _carried(source: Bundle) -> list[Path]:
    home = _home(source)
    return [a.path for role, a in source.artifacts() if role in CARRIED and a.path.is_relative_to(home)]


# ---- the bundle


def _weights(folder: Path, precision: str, sizes: Sequence[int]) -> tuple[Artifact, ...]:
    kinds = {GRAPH: f"onnx-genai/{precision}", DATA: f"onnx-part/{precision}", CONFIG: f"onnx-part/{precision}"}
    return tuple(Artifact(kind, folder / name, size) for (name, kind), size in zip(kinds.items(), sizes, strict=True))


def _weight_bytes(source: Bundle, precision: str, block_size: int) -> int:
    """About the bytes of model.onnx.data: tables and vectors in float32, matrices as the precision says."""
    quarter = 0.5 + 4 / block_size  # a weight's four bits, and its share of a float32 scale
    total = 0.0
    for name, tensor in open_bundle(source).tensors.items():
        if "visual." in name or "vision_tower." in name:
            continue
        matrix = len(tensor.shape) == 2 and "embed_tokens" not in name
        total += prod(tensor.shape) * (quarter if matrix and precision == "int4" else 4)
    return int(total)


def _carried_to(source: Bundle, folder: Path) -> dict[str, tuple[Artifact, ...]]:
    home = _home(source)
    return {
        role.value: tuple(replace(a, path=folder / a.path.relative_to(home), sha256="") for a in source.of(role))
        for role in sorted(CARRIED)
        if source.of(role) and all(a.path.is_relative_to(home) for a in source.of(role))
    }


def _carried_from(folder: Path) -> dict[str, tuple[Artifact, ...]]:
    found = collect(folder)
    kind = {".json": "json", ".model": "binary"}
    return {
        role.value: tuple(_hashed(Artifact(kind.get(p.suffix, "text"), p, 0)) for p in found.get(role, ()))
        for role in sorted(CARRIED)
    }


def _hashed(artifact: Artifact) -> Artifact:
    """The artifact of a file another program wrote, with its size and hash; the file is on the disk then."""
    hasher = hashlib.sha256()
    with open(artifact.path, "rb+", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
        os.fsync(file.fileno())
    return replace(artifact, size=artifact.path.stat().st_size, sha256=hasher.hexdigest())
