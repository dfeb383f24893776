"""What of a job goes to a machine that shares no file system with this one: names and hashes, by the store.

The files that its recipe reads are sent to the store under their hashes. On the other machine they lie below a folder
as they do here below /: a key is made of names and content, so that it is the same there.

    {"store": "s3://…", "text": "…", "sha256": "…", "files": "<hash of a list>", "folders": ["/home/ana/models/a"]}
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from convert import registry
from convert.batch.jobs import Job
from convert.batch.versions import versions
from convert.errors import ConvertError
from convert.files import cache_folder
from convert.hashes import HashMemory
from convert.json_types import JsonDict, JsonObject
from convert.keys import sha256
from convert.options import named_paths
from convert.progress import Silent
from convert.recipe import Recipe, load_recipe, read_words, runs_code
from convert.source.hub import COMMIT
from convert.store.steps import StepStore, blob_name


def send(job: Job, store: StepStore) -> JsonDict:
    """What another machine is told of the job, after all that its recipe reads was sent to the store."""
    job.write()
    recipe = load_recipe(job.path)
    paths = list(_paths(recipe))
    memory = HashMemory(cache_folder() / "sent.json")
    digests = memory.of(list(_files(recipe, paths)), Silent())
    memory.save()
    listed: dict[str, list[object]] = {}
    for path, sha in digests.items():
        listed[str(path)] = [path.stat().st_size, sha]
        store.objects.put(path, blob_name(sha))
    text = json.dumps(listed, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        store.objects.put(Path(file.name), blob_name(name))
    told: JsonDict = {"name": recipe.name, "runs_code": runs_code(recipe)}
    told |= {"text": job.path.read_text(encoding="utf-8"), "sha256": job.sha256, "files": name}
    folders = sorted({str(path) for path in paths if path.is_dir()})
    return {**told, "list_bytes": len(text.encode()), "folders": folders, "job": _key(job, told)}


def _key(job: Job, told: JsonObject) -> str:
    """What the whole job is known by in the store; empty where its model may be another tomorrow."""
    if job.hub and not COMMIT.fullmatch(job.revision):
        return ""
    return sha256([told["sha256"], told["files"], versions()])


def _paths(recipe: Recipe) -> Iterator[Path]:
    """Every path that the recipe names, whole."""
    for spec in recipe.stages.values():
        yield from (path.absolute() for path in named_paths(spec.options))
    if recipe.release is not None:
        yield from (path.absolute() for path in named_paths(recipe.release))


def _files(recipe: Recipe, paths: Sequence[Path]) -> Iterator[Path]:
    """The files that its steps read; of a folder that a stage cannot read all on top: it fails there as here."""
    for spec in recipe.stages.values():
        try:
            yield from (path.absolute() for path in registry.load(spec.use).reads(spec.options))
        except (ConvertError, OSError):
            for path in named_paths(spec.options):
                yield from (f.absolute() for f in (path.iterdir() if path.is_dir() else [path]) if f.is_file())
    yield from (path for path in paths if path.is_file())


# ---- on the other machine


def receive(told: JsonObject, store: StepStore, place: Path) -> Recipe:
    """The recipe, as if it were read on the machine that sent it; its files lie below `place`."""
    root = place / "root"
    lists = place / "files.json"
    _bring(store, told["files"], told["list_bytes"], lists)
    listed = json.loads(lists.read_text(encoding="utf-8"))
    for folder in told["folders"]:
        _below(root, folder).mkdir(parents=True, exist_ok=True)
    for name, (size, sha) in listed.items():
        _bring(store, sha, size, _below(root, name))
    path = place / f"{told['name']}.yaml"
    path.write_text(told["text"], encoding="utf-8")
    path.write_text(_moved(path, {*listed, *told["folders"]}, root), encoding="utf-8")
    return replace(load_recipe(path), sha256=told["sha256"])


def hashes_known(told: JsonObject, place: Path, memory: HashMemory) -> None:
    """Let a plan know the hashes of what was brought: it was read for them a moment ago."""
    from convert.bundle import Artifact

    listed = json.loads((place / "files.json").read_text(encoding="utf-8"))
    memory.learn(Artifact("", _below(place / "root", name), size, sha) for name, (size, sha) in listed.items())
    memory.save()


def _bring(store: StepStore, sha: str, size: int, target: Path) -> None:
    target.unlink(missing_ok=True)
    if not store.bring_file(sha, size, target):
        raise ConvertError(f"{store.objects.url}/{blob_name(sha)}: is gone, or not what was sent; run the batch again")


def _below(root: Path, name: str) -> Path:
    return root / Path(name).relative_to(Path(name).anchor)


def _moved(path: Path, named: set[str], root: Path) -> str:
    """The recipe's text with every path where it lies now."""
    from ruamel.yaml import YAML

    words, _ = read_words(path)
    yaml, stream = YAML(), io.StringIO()
    yaml.width = 4096
    yaml.dump(_with_paths(words, named, root), stream)
    return stream.getvalue()


def _with_paths(node: object, named: set[str], root: Path) -> object:
    if isinstance(node, dict):
        return {key: _with_paths(value, named, root) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_paths(value, named, root) for value in node]
    return str(_below(root, node)) if isinstance(node, str) and node in named else node
