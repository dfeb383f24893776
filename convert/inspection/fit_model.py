"""The GGUF files that could be made of a model, or the one it is, for `convert fit`: by configs and headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert import registry
from convert.bundle import Bundle, Role
from convert.errors import InputError, PlanError
from convert.estimate.model_file import ModelFile
from convert.formats.base import SOURCE
from convert.formats.gguf.conversion import Conversion, ConversionSettings, prepare
from convert.formats.gguf.memory import planned_file, stored_file
from convert.formats.gguf.preview import plain_types
from convert.formats.gguf.shard_names import shard_names
from convert.inspection.checkpoint import companions_of
from convert.inspection.checkpoint_ref import hub_name, is_checkpoint, options_for
from convert.progress import Progress
from convert.recipe import load_recipe
from convert.source import hub
from convert.source.stage import SourceOptions, gguf_file, locate
from quantize.mixes import MIXES

RECIPES = (".yaml", ".yml")
AWAITED = "imatrix.gguf"
TOKEN_BYTES = 40  # of a vocabulary in a file, about: its text, type, and its part of the merges
WANTED = "a checkpoint's folder, a hub model (org/name[@revision]), a GGUF file or a recipe"


@dataclass(frozen=True)
class Candidate:
    """A file that could run."""

    type: str
    model: ModelFile
    needs_imatrix: bool = False


@dataclass(frozen=True)
class FitModel:
    """A model, and the files that it could be run from, from large to small."""

    name: str
    candidates: Sequence[Candidate]
    projector: ModelFile | None
    notes: Sequence[str] = ()
    is_stored: bool = False  # it is one file, which is there


def read_model(what: Path, *, mmproj: Path | None, images: bool, progress: Progress) -> FitModel:
    """The model that a person names. Of a hub model that is not here only configs and headers are fetched.

    Raises ConvertError for what is none, or of no family that GGUF files are made of.
    """
    options = _options(what)
    if path := gguf_file(options):
        return _stored(path, mmproj, images)
    if mmproj is not None:
        raise InputError(str(mmproj), "is given beside a checkpoint", "no --mmproj: it is forecast with the model")
    folder = _folder(options, progress)
    bundle, notes = _bundle(options, folder)
    return _forecast(bundle, images, notes)


def _options(what: Path) -> SourceOptions:
    if what.suffix in RECIPES:
        options = load_recipe(what).stages[SOURCE].options
        assert isinstance(options, SourceOptions)
        return options
    if what.suffix == ".gguf":
        return SourceOptions.model_validate({"path": what})
    if not is_checkpoint(what):
        raise InputError(str(what), "is no model", WANTED, "check the path")
    named, revision = hub_name(str(what))
    if what.exists() or hub.cached(named, revision) is not None:
        return options_for(what)
    return SourceOptions.model_validate({"hub": named, "revision": revision, "stream": True})


def _folder(options: SourceOptions, progress: Progress) -> Path:
    """Where its configs and headers are; those of a hub model that is not in the cache are fetched."""
    if options.hub is not None and not options.stream and hub.cached(options.hub, _revision(options)) is None:
        options = options.model_copy(update={"stream": True})
    folder = locate(options, download=options.stream, progress=progress)
    if folder is None or not folder.is_dir():
        raise InputError(str(options.path), "is no folder", WANTED, "check the path")
    return folder.absolute()


def _revision(options: SourceOptions) -> str:
    return options.revision or hub.DEFAULT_REVISION


def _bundle(options: SourceOptions, folder: Path) -> tuple[Bundle, list[str]]:
    """The checkpoint as stages are given it; by its config alone where there are no weights in the folder."""
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")) and not options.adapters:
        return companions_of(folder), ["there are no weights in the folder: sizes are by config.json"]
    if options.hub is not None and not options.stream and folder.parent.name != "snapshots":
        options = options.model_copy(update={"stream": True})
    stage = registry.load(SOURCE)
    if problems := stage.check(options, {}):
        raise PlanError(*problems)
    return stage.forecast(options, {}), []


def _forecast(bundle: Bundle, images: bool, notes: list[str]) -> FitModel:
    has_tokenizer = bool(bundle.of(Role.TOKENIZER))
    plain = tuple(dict.fromkeys(plain_types()))
    weighted = tuple(name for name in MIXES if name not in plain)
    settings = ConversionSettings(plain, None if images else False, vocabulary=has_tokenizer)
    conversion = prepare(bundle, settings)
    found = list(_candidates(conversion, plain, has_tokenizer))
    if weighted:
        other = prepare(bundle, replace(settings, types=weighted, awaited=AWAITED))
        found += [replace(c, needs_imatrix=True) for c in _candidates(other, weighted, has_tokenizer)]
    if not has_tokenizer:
        notes = [*notes, f"there is no tokenizer: {TOKEN_BYTES} bytes a token are counted for it in the file"]
    projector = planned_file(*conversion.projector.plans) if conversion.projector else None
    if images and projector is None:
        raise InputError("--images", f"{bundle.model.name} has no vision tower", "a model that sees", "leave it out")
    return FitModel(bundle.model.name, sorted(found, key=lambda c: (-c.model.size, c.type != "BF16")), projector, notes)


def _candidates(conversion: Conversion, types: Sequence[str], has_tokenizer: bool) -> Iterator[Candidate]:
    """One for each type, but for such as become what another is in a model of these shapes."""
    names = set[str]()
    contents = set[tuple[int, ...]]()
    for name, plans in zip(types, conversion.text.volumes, strict=True):
        kind, model = MIXES[name].name, planned_file(*plans)
        content = tuple(weight.nbytes for weight in model.weights)
        if kind in names or (kind.endswith("L") and content in contents):
            continue
        names.add(kind)
        contents.add(content)
        rows = (model.shape("token_embd.weight") or (0,))[0]
        yield Candidate(kind, model if has_tokenizer else replace(model, size=model.size + rows * TOKEN_BYTES))


def _stored(path: Path, mmproj: Path | None, images: bool) -> FitModel:
    """A GGUF file, which is there; its projector is a file of its own."""
    if not path.is_file():
        raise InputError(str(path), "is no file", "a GGUF file", "check the path")
    if images and mmproj is None:
        raise InputError("--images", "the projector of a GGUF file is not known", "--mmproj FILE beside it")
    paths = [path.parent / name for name in shard_names(path.name)]
    if missing := [shard.name for shard in paths if not shard.is_file()]:
        raise InputError(str(path), f"is one of {len(paths)} files, of which {missing[0]} is not there", "all of them")
    model = stored_file(paths)
    kind = _file_type(model.fields)
    projector = stored_file([mmproj]) if mmproj is not None else None
    return FitModel(path.stem, (Candidate(kind, model),), projector, is_stored=True)


def _file_type(fields: Mapping[str, object]) -> str:
    """The name of the type that the file says it is of."""
    number = fields.get("general.file_type")
    return next((mix.name for mix in MIXES.values() if mix.file_type == number), "as it is")
