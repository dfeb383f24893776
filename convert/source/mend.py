"""What is odd in a checkpoint and can be read all the same: told in the plan, and put right in the source's output.

So every library that is given the model's folder reads what this project reads: texts without a byte-order mark, a
config that says what the weights are, tensors by the names that the model's class has for them. A checkpoint with
nothing odd in it stays where it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.bundle import Artifact, Bundle, Role
from convert.errors import InputError, Problem
from convert.files import HashedFile, open_regular, write_text
from convert.json_types import JsonObject
from convert.progress import Progress
from convert.source import checkpoint, quantized, unpack
from convert.source.card import base_models
from convert.source.checkpoint import CLASSES, CONFIG_NAME, MAX_CONFIG_BYTES, PICKLES, SAFETENSORS, model_entries
from convert.source.companions import TOKENIZER_BYTES
from convert.source.model_types import gives_scores
from convert.source.names import kept_name, name_notes
from convert.source.remote import remote_of
from convert.source.rewrite import write_config
from convert.source.safetensors import Entry, Header, MappedFile, read_header, write
from convert.source.untrusted import decoded, inside, is_plain, listed, read_bytes, read_object

TEXTS = (".json", ".jinja", ".txt")
GENERATION_NAME = "generation_config.json"
BYTES = np.dtype("u1")


def notes(folder: Path) -> list[str]:
    """What is odd in the checkpoint in `folder` and what is done about it, a line each."""
    try:
        config = read_object(inside(folder, CONFIG_NAME), MAX_CONFIG_BYTES)
        types = checkpoint.stored_types(folder)
    except InputError:
        return []
    stale = [quantized.stale_note(config, types)] if quantized.is_stale(config, types) else []
    mended = checkpoint.mended(folder, config)
    read = [unpack.note(mended[quantized.KEY])] if unpack.reads(mended.get(quantized.KEY)) else []
    named = [] if mended.get(CLASSES) == config.get(CLASSES) else [_class_note(mended)]
    lost = [f"{p.where}: {p.got}; left out, as no text can have such a token: {p.remedy}" for p in lost_ids(folder)]
    return [*stale, *read, *named, *lost, *name_notes(types, gives_scores(config))]


def lost_ids(folder: Path) -> list[Problem]:
    """Special tokens whose ids are past the rows of the embedding, by the file that names them."""
    problems = []
    try:
        config = checkpoint.read_config(folder)
        inner = config.get("text_config")
        text = {**config, **inner} if isinstance(inner, dict) else config
        size = text.get("vocab_size")
        files = {CONFIG_NAME: text}
        if (folder / GENERATION_NAME).is_file():
            files[GENERATION_NAME] = read_object(inside(folder, GENERATION_NAME))
    except InputError:
        return []
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        return []
    for name, words in files.items():
        for key, value in words.items():
            past = [n for n in (value if isinstance(value, list) else [value]) if type(n) is int and n >= size]
            if past and key.endswith("_token_id"):
                ids = ", ".join(map(str, past[:4]))
                got = f"{key} is {ids}, and the vocabulary has {size} tokens, 0 to {size - 1}"
                problems.append(Problem(str(folder / name), got, f"ids below {size}", f"correct {key} in {name}"))
    return problems


def _class_note(config: JsonObject) -> str:
    return f"config.json names no class: by its model_type, {config['model_type']}, it is {config[CLASSES][0]}"


def refusal(folder: Path, card: JsonObject) -> Problem | None:
    """Why weights that are quantized cannot be read; None for all that can, or whose headers say what is wrong."""
    words = checkpoint.stored_config(folder).get(quantized.KEY)
    if words is None or quantized.method(words) in quantized.CARRIED:
        return None
    found = quantized.problem(words, str(folder / CONFIG_NAME), base_models(card))
    if not unpack.reads(words):
        return found
    if checkpoint.layout(folder) is PICKLES:
        return replace(found, got=found.got.replace(quantized.NOT_READ, "pickles of such weights are not read here"))
    try:
        checkpoint.open_tensors(folder)
    except InputError as error:
        return replace(error.problem, remedy=found.remedy) if error.problem.wanted == quantized.WANTED else None
    return None


def mend(bundle: Bundle, folder: Path, out: Path, progress: Progress) -> Bundle:
    """The bundle of the checkpoint in `folder` with all that is odd in it put right in `out`."""
    weights = bundle.of(Role.WEIGHTS)
    headers = [read_header(a.path) for a in weights if a.path.is_relative_to(folder) and remote_of(a.path) is None]
    scores = gives_scores(checkpoint.read_config(folder))
    odd = [header for header in headers if any(kept_name(e.name, scores) != e.name for e in header.entries)]
    texts = [(role, a) for role, a in bundle.artifacts() if role not in (Role.WEIGHTS, Role.CARD)]
    other_config = read_object(inside(folder, CONFIG_NAME), MAX_CONFIG_BYTES) != checkpoint.stored_config(folder)
    for note in notes(folder):
        progress.warn(note)
    index = folder / SAFETENSORS.index
    odd_index = bool(headers) and index.is_file() and _is_odd(index)
    if not odd and not other_config and not odd_index and not any(_is_odd(a.path) for _, a in texts):
        return bundle
    made: dict[Role, tuple[Artifact, ...]] = {}
    for role, artifact in texts:
        made[role] = (*made.get(role, ()), _text(artifact, folder, out))
    if odd:
        made[Role.WEIGHTS] = tuple(_renamed(weights, odd, out, progress, scores))
    if odd or odd_index:
        _write_index(made.get(Role.WEIGHTS, weights), out, scores)
    if files := [a.path.name for _, a in texts if _is_odd(a.path)]:
        progress.note(f"read as UTF-8 without a byte-order mark from here on: {listed(files)}")
    return replace(bundle, roles={**bundle.roles, **made})


def with_config(bundle: Bundle, folder: Path, out: Path, config: JsonObject) -> Bundle:
    """The bundle with another config.json in `out`, and beside it all small files of the checkpoint in `folder`."""
    made: dict[Role, tuple[Artifact, ...]] = {}
    for role, artifact in bundle.artifacts():
        if role in (Role.WEIGHTS, Role.CARD):
            continue
        if artifact.path.name == CONFIG_NAME and role is Role.CONFIG:
            new = write_config(config, out)
        else:
            new = artifact if artifact.path.is_relative_to(out) else _text(artifact, folder, out)
        made[role] = (*made.get(role, ()), new)
    return replace(bundle, roles={**bundle.roles, **made})


def _is_odd(path: Path) -> bool:
    if path.suffix not in TEXTS:
        return False
    with open_regular(path) as file:
        return not is_plain(file.read(4))


def _text(artifact: Artifact, folder: Path, out: Path) -> Artifact:
    """The small file in `out`, as every reader takes it."""
    inner = artifact.path.relative_to(folder) if artifact.path.is_relative_to(folder) else Path(artifact.path.name)
    target = out / inner
    target.parent.mkdir(parents=True, exist_ok=True)
    if inner == Path(CONFIG_NAME):
        return write_text(target, json.dumps(checkpoint.stored_config(folder), indent=2) + "\n", artifact.kind)
    raw = read_bytes(artifact.path, TOKENIZER_BYTES)
    with HashedFile(target) as file:
        file.write(decoded(str(artifact.path), raw).encode() if _is_odd(artifact.path) else raw)
    return file.artifact(artifact.kind)


def _renamed(
    weights: Iterable[Artifact], odd: Iterable[Header], out: Path, progress: Progress, scores: bool
) -> Iterator[Artifact]:
    """The files of the weights, those with odd names written anew."""
    headers = {header.path: header for header in odd}
    entries = {path: list(model_entries(header, scores)) for path, header in headers.items()}
    total = sum(e.stop - e.start for found in entries.values() for e in found)
    progress.start("writing the weights under their own names", total)
    for artifact in weights:
        if artifact.path not in headers:
            yield artifact
            continue
        header, kept = headers[artifact.path], entries[artifact.path]
        specs = {entry.name: (entry.dtype, entry.shape) for entry in kept}
        yield write(out / artifact.path.name, specs, _data(header, kept, progress), header.metadata)


def _data(header: Header, kept: Iterable[Entry], progress: Progress) -> Iterator[memoryview]:
    """The bytes of these tensors of a file."""
    mapped = MappedFile(header)
    for entry in kept:
        size = entry.stop - entry.start
        yield mapped.view(replace(entry, shape=(size,)), BYTES).data
        mapped.release(entry)
        progress.advance(size)


def _write_index(weights: Iterable[Artifact], out: Path, scores: bool) -> None:
    """The index of weights in several files, some of which have other names in them now."""
    files = [artifact.path for artifact in weights]
    if len(files) == 1:
        return
    weight_map = {entry.name: path.name for path in files for entry in model_entries(read_header(path), scores)}
    size = sum(path.stat().st_size for path in files)
    write_text(
        out / SAFETENSORS.index, json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=2)
    )
