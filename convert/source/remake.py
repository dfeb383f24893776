"""Checkpoints that are made of what is stored: by adapters, of a trainer's shards, of a GGUF file.

Planned from headers, written by the source stage as safetensors; everything after it takes that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from convert.bundle import Artifact, Bundle, Pending, Role
from convert.json_types import JsonObject
from convert.progress import Progress
from convert.source import checkpoint, companions, mend, rewrite
from convert.source.checkpoint import CONFIG_NAME, PICKLES, LazyTensor
from convert.source.names import kept_name


@dataclass(frozen=True)
class Remade:
    """A checkpoint that will be; its tensors are computed when they are asked for."""

    tensors: Mapping[str, LazyTensor]
    config: JsonObject
    notes: tuple[str, ...] = ()
    companions: Mapping[Role, tuple[Path, ...]] = field(default_factory=dict)  # that take the place of the folder's
    reads: tuple[Path, ...] = ()  # files it is made of, beside the folder's own

    def forecast(self, bundle: Bundle) -> Bundle:
        """The bundle as it will be: weights by their bare names, all else where it is."""
        roles = {role: tuple(map(artifact, paths)) for role, paths in self.companions.items()}
        weights = {Role.WEIGHTS: rewrite.forecast(self.tensors)}
        pending = Pending(self.config, self.tensors)
        return replace(bundle, roles={**bundle.roles, **roles, **weights}, pending=pending)

    def write(self, bundle: Bundle, folder: Path, out: Path, progress: Progress) -> Bundle:
        """The bundle with weights and config in `out`; what else is odd in `folder` is put right there too."""
        bundle = replace(self.forecast(bundle), pending=None)
        for note in self.notes:
            progress.note(note)
        mended = mend.mend(bundle.with_(weights=()), folder, out, progress)
        (out / CONFIG_NAME).unlink(missing_ok=True)
        others = tuple(a for a in mended.of(Role.CONFIG) if a.path.name != CONFIG_NAME)
        config = (rewrite.write_config(self.config, out), *others)
        return mended.with_(weights=rewrite.write_weights(self.tensors, out, progress), config=config)


def artifact(path: Path) -> Artifact:
    """A companion where it is."""
    kind = {".safetensors": "safetensors", ".json": "json"}.get(path.suffix, "text")
    return Artifact("binary" if path.suffix == ".model" else kind, path, path.stat().st_size)


def with_adapters(folder: Path, adapters: Sequence[tuple[Path, float]]) -> Remade:
    """The checkpoint in `folder` with adapters merged. Raises InputError for one that does not fit."""
    from convert.source.adapter import read_adapter
    from convert.source.merge import merged

    base = base_of(folder)
    found = merged(base.tensors, base.config, [read_adapter(path, scale) for path, scale in adapters])
    beside = companions.collect(adapters[-1][0])
    own: dict[Role, tuple[Path, ...]] = {
        role: beside[role] for role in (Role.TOKENIZER, Role.CHAT_TEMPLATE) if role in beside
    }
    if Role.TOKENIZER in own and not any(p.name in ("tokenizer.json", "tokenizer.model") for p in own[Role.TOKENIZER]):
        own = {}
    notes = (*found.notes, *((f"the tokenizer is that of the adapter {adapters[-1][0]}",) if own else ()))
    files = [path for home, _ in adapters for path in sorted(home.glob("adapter_*")) if path.is_file()]
    return Remade(found.tensors, found.config, notes, own, (*files, *(p for paths in own.values() for p in paths)))


def shards_of(folder: Path) -> list[Path]:
    """The files of a trainer's ranks, where `folder` has no other weights; else nothing."""
    return [path for reader, home in _trainer(folder) for path in reader.files_of(home)]


def _trainer(folder: Path) -> Iterator[tuple[ModuleType, Path]]:
    """Whose shards they are, and where."""
    from convert.source import distcp, zero

    if not folder.is_dir() or checkpoint.has_weights(folder):
        return
    for reader in (distcp, zero):
        if home := reader.home_of(folder):
            yield reader, home
            return


def gathered(folder: Path) -> Remade | None:
    """The checkpoint of a trainer's shards; None where `folder` has none, or other weights. Raises InputError."""
    for reader, home in _trainer(folder):
        tensors = reader.tensors_of(home)
        note = f"the weights are gathered from {len(reader.files_of(home))} files of a training in {home}"
        return Remade(tensors, checkpoint.read_config(folder), (note,))
    return None


def base_of(folder: Path) -> checkpoint.Checkpoint:
    """The checkpoint in `folder`, of safetensors, pickles or a trainer's shards, mapped where their format allows."""
    if found := gathered(folder):
        return checkpoint.Checkpoint(folder, found.config, found.tensors)
    if checkpoint.layout(folder) is not PICKLES:
        return checkpoint.open_checkpoint(folder)
    from convert.source.pickled import lazy_tensors

    files, _ = checkpoint.weight_files(folder, PICKLES)
    every = [tensor for path in files for tensor in lazy_tensors(path).values()]
    tensors = {kept: replace(tensor, name=kept) for tensor in every if (kept := kept_name(tensor.name))}
    return checkpoint.Checkpoint(folder, checkpoint.read_config(folder), tensors)
