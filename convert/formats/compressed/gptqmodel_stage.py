"""What the gptq, awq and fp8 stages share: they differ in their options and in the scheme these make."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import Field

from convert.bundle import Artifact, Bundle, Role
from convert.calibration import mix
from convert.calibration.options import Calibration
from convert.errors import ConvertError, InputError, Problem, StageError, raise_all
from convert.json_types import JsonDict, JsonObject
from convert.model.memory_needs import LIBRARIES, cores_for, reference_needs
from convert.needs import GB, Needs
from convert.options import Options as BaseOptions
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.scheme import Scheme

CARRIED = (Role.TOKENIZER, Role.CHAT_TEMPLATE, Role.PREPROCESSOR, Role.GENERATION)
CONFIG_BYTES = 1024  # what quantization_config adds to config.json, about
LAST_WORDS = 400


class SchemeOptions(BaseOptions):
    """What all three ask."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the folder's name; the model's name when left out",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer; each stage makes it of its own options."""
        raise NotImplementedError


class CalibratedOptions(SchemeOptions):
    """What the two that calibrate ask besides."""

    calibration: Calibration = Field(
        default_factory=lambda: Calibration.model_validate({}),
        description="what to measure on, not what the outputs are tested on; a mix of our own when it names no file",
    )


O = TypeVar("O", bound=SchemeOptions)  # noqa: E741 - the options of one stage
C = TypeVar("C", bound=CalibratedOptions)


@dataclass(frozen=True)
class Job(Generic[O]):
    """A run of one of the stages; `work` is a folder that goes away with it."""

    options: O
    source: Bundle
    layout: Layout
    folder: Path  # what will be handed on
    work: Path
    progress: Progress

    @property
    def scheme(self) -> Scheme:
        return self.options.scheme

    @property
    def threads(self) -> int:
        from validate.runtimes._threads import useful_threads

        return self.options.threads or useful_threads(*(a.path for a in self.source.of(Role.WEIGHTS)))


def _check_files(where: str, calibration: Calibration) -> None:
    """Raise InputError for a file that is missing, or is not what it is named as."""
    from convert.calibration.rows import MAX_TEXT_BYTES, read_conversations
    from convert.source.companions import read_text
    from validate import vision

    for path in calibration.files.values():
        if not path.is_file():
            raise InputError(where, f"no file {path}", "", "paths are relative to the recipe")
    if calibration.text and not read_text(calibration.text, MAX_TEXT_BYTES).strip():
        raise InputError(str(calibration.text), "is empty", "a text")
    if calibration.chat and not read_conversations(calibration.chat):
        raise InputError(str(calibration.chat), "is empty", "conversations")
    if calibration.screens:
        try:
            vision.read_clicks(calibration.screens)
        except ValueError as error:
            raise InputError(where, str(error)) from None


def _check_fit(where: str, calibration: Calibration, layout: Layout) -> None:
    """Raise InputError for rows the model cannot take."""
    config = layout.checkpoint.config
    if calibration.screens and not layout.has_vision:
        raise InputError(where, "calibration: screens for a model that takes no images", "text or chat")
    text = config.get("text_config")
    longest = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    if isinstance(longest, int) and calibration.length > longest:
        raise InputError(where, f"length: {calibration.length}", f"at most the model's {longest} positions")


@contextlib.contextmanager
def job(options: O, inputs: Inputs, out: Path, progress: Progress) -> Iterator[Job[O]]:
    """A run, its folder empty."""
    source, scheme = checkpoint(options.scheme.method, inputs), options.scheme
    folder = out / scheme.folder_name(options.name or source.model.name)
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as name:
        yield Job(options, source, _layout(source, scheme), folder, Path(name), progress)


def _quantize(job: Job[C]) -> JsonDict:
    """Have the worker make the weights in the job's `work`; what it says of the calibration."""
    progress, layers, asked = job.progress, job.layout.decision.layers, job.options.calibration
    progress.start(f"quantizing {layers} layers", layers, "layer")
    result = _child(job, "convert.formats.compressed.worker", [str(_request(job))])
    words = {"samples": asked.samples, "length": asked.length, "seed": asked.seed}
    return words | {word: result[word] for word in ("rows", "tokens", "sha256")}


def _request(job: Job[C]) -> Path:
    """The file that tells the worker what to do."""
    from convert.model.reference import link_files

    linked = job.work / "source"
    linked.mkdir()
    link_files(job.source, linked, code=False)
    request = {
        "source": str(linked),
        "scheme": asdict(job.scheme),
        "calibration": asdict(job.options.calibration.description),
        "threads": job.threads,
    }
    path = job.work / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path


def finished(job: Job[O], weights: Sequence[Artifact], quantization: JsonObject) -> Bundle:
    """The bundle of the folder, companions in it, loaded again. Raises StageError when that does not go well."""
    from convert.formats.compressed import folder as files
    from convert.source.companions import read_companions

    source, layout, folder = job.source, job.layout, job.folder
    config = files.write_configs(folder, layout, quantization)
    companions = read_companions(source)
    carried = {role: tuple(_copied(a, source, folder) for a in source.of(role)) for role in CARRIED}
    for artifact in source.of(Role.CARD):
        if artifact.path.name.startswith(("LICENSE", "NOTICE")):
            shutil.copyfile(artifact.path, folder / artifact.path.name)
    present = [a.path.name for copies in carried.values() for a in copies]
    carried[Role.PREPROCESSOR] += files.write_processors(folder, present, companions.preprocessor)
    carried[Role.CHAT_TEMPLATE] += files.write_template(folder, present, companions.chat_templates)
    check_reload(job)
    roles = {role.value: artifacts for role, artifacts in carried.items()}
    return source.with_(weights=_kinds(job.scheme, weights), config=config, **roles)


def _copied(artifact: Artifact, source: Bundle, folder: Path) -> Artifact:
    """The artifact's copy in `folder`, as deep as it lies beside the source's config."""
    home = next(iter(source.of(Role.CONFIG))).path.parent
    inside = artifact.path.relative_to(home) if artifact.path.is_relative_to(home) else Path(artifact.path.name)
    path = folder / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact.path, path)
    return Artifact(artifact.kind, path, path.stat().st_size, artifact.sha256)


def _kinds(scheme: Scheme, files: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """The first file is the model, the others are parts of it."""
    first, *others = files
    kinds = [f"{scheme.method}/{scheme.type}", *(f"{scheme.method}-part/{scheme.type}" for _ in others)]
    return tuple(Artifact(kind, a.path, a.size, a.sha256) for kind, a in zip(kinds, [first, *others], strict=True))


def check_reload(job: Job[O]) -> None:
    """Raise StageError with everything that is wrong with the finished folder."""
    names = job.work / "modules.json"
    names.write_text(json.dumps(asdict(job.layout.decision)), encoding="utf-8")
    job.progress.start("loading the result in a fresh process", 1, "check")
    wrong = _child(job, "convert.formats.compressed.reload", [str(job.folder), str(names)])["wrong"]
    job.progress.advance(1)
    if wrong:
        raise StageError(f"{job.folder.name}, loaded again", "; ".join(wrong), "the model that was quantized")


def _child(job: Job, module: str, arguments: list[str]) -> JsonDict:
    """The result of one of our modules, run in a process of its own. Raises StageError with its last words."""
    from convert import child

    errors: list[str] = []

    def printed(line: str) -> None:
        if "Error" in line:
            errors.append(line[:LAST_WORDS])
            job.progress.note(line[:LAST_WORDS])

    environment = {
        "GPTQMODEL_CPU_WORKERS": str(max(2, job.threads)),  # it does not start with one
        "OMP_NUM_THREADS": str(job.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHDYNAMO_DISABLE": "1",  # a compiled kernel for every layer and shape takes a minute to save milliseconds
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(job.work),
    }
    command = [module, *arguments]
    ended = child.run(command, job.progress, on_line=printed, environment=environment, folder=job.work)
    if ended.code or ended.result is None:
        words = (ended.failure or "".join(errors[-1:]))[:LAST_WORDS] or " ".join(ended.last)[-LAST_WORDS:]
        how = ended.how if ended.code else "ended without a result"
        raise StageError(module.rpartition(".")[2], f"{how}: {words}")
    return ended.result


def _layout(source: Bundle, scheme: Scheme) -> Layout:
    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.fp8 import Fp8Layout
    from convert.source.checkpoint import open_bundle

    return (Fp8Layout if scheme.method == "fp8" else Layout)(open_bundle(source), scheme)


class CompressedStage(Stage[O]):
    """What the gptq, awq and fp8 stages share."""

    def check(self, options: O, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being quantized so, by headers and the calibration files alone."""
        from convert.formats.compressed.supports import misfits
        from convert.model.reference import check_memory

        where = options.scheme.method
        try:
            source = checkpoint(options.scheme.method, inputs)
            layout = _layout(source, options.scheme)
            raise_all(list(misfits(layout)))
            layout.check()
            if isinstance(options, CalibratedOptions):
                _check_files(where, options.calibration)
                _check_fit(where, options.calibration, layout)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(where, p) for p in error.problems]
        return check_memory(source, where)

    def forecast(self, options: O, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with the weights' sizes but for their headers."""
        source, scheme = checkpoint(options.scheme.method, inputs), options.scheme
        layout = _layout(source, scheme)
        home = Path(scheme.folder_name(options.name or source.model.name))
        weights = [
            Artifact("safetensors", home / f, sum(t.nbytes for t in parts)) for f, parts in layout.shards.items()
        ]
        config = next(a for a in source.of(Role.CONFIG) if a.path.name == "config.json")
        carried = {
            role.value: tuple(Artifact(a.kind, home / a.path.name, a.size) for a in source.of(role)) for role in CARRIED
        }
        made = Artifact("json", home / "config.json", config.size + CONFIG_BYTES)
        return source.with_(weights=_kinds(scheme, weights), config=made, **carried)

    def explain(self, options: O, inputs: Inputs) -> Iterator[str]:
        """How much is quantized and what is kept, for `convert plan -v`."""
        from convert.formats.compressed.supports import untested
        from quantize.gptq import exclusions

        layout = _layout(checkpoint(options.scheme.method, inputs), options.scheme)
        decision = layout.decision
        yield f"{len(decision.quantized)} matrices of {decision.layers} layers in {options.scheme.bits} bits"
        yield f"kept as they are: {len(decision.kept)} matrices ({', '.join(exclusions(layout.towers, layout.head))})"
        yield from (f"note: {note}" for note in untested(layout))

    def needs(self, options: O, inputs: Inputs, made: Bundle) -> Needs:
        """The finished folder loaded again, which is the most that a stage takes that runs nothing."""
        written = sum(a.size for a in made.of(Role.WEIGHTS))
        return Needs(LIBRARIES + 2 * written, cores_for(only(inputs)))


class CalibratedStage(CompressedStage[C]):
    """What the two that calibrate share: gptqmodel does the arithmetic."""

    TOOLS = ("gptqmodel", "torch", "transformers", "tokenizers", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {
        "gptqmodel": "gptq",
        "optimum": "gptq",
        "torch": "gptq",
        "transformers": "gptq",
    }

    def reads(self, options: C) -> list[Path]:
        """The files calibrated on, and the screenshots they name."""
        from validate import vision

        files = list(options.calibration.files.values())
        screens = options.calibration.screens
        if screens is not None and screens.is_file():
            with contextlib.suppress(ValueError, OSError):  # check() says what is wrong with it
                files += [task.image for task in vision.read_clicks(screens)]
        return [path for path in dict.fromkeys(files) if path.is_file()]

    def needs(self, options: C, inputs: Inputs, made: Bundle) -> Needs:
        """The source on transformers, and what the quantizer adds: the activations of a layer and its Hessians."""
        written = sum(a.size for a in made.of(Role.WEIGHTS))
        return reference_needs(only(inputs), GB, scratch_bytes=written)  # what the library saves, before it is laid out

    def versions(self, options: C) -> Mapping[str, str]:
        """What the default mix says, where the model reads that."""
        return options.calibration.versions

    def explain(self, options: C, inputs: Inputs) -> Iterator[str]:
        """The default mix too, where the model reads that."""
        yield from super().explain(options, inputs)
        asked = options.calibration
        if not asked.files:
            yield f"calibrates on {mix.NAME}: {asked.samples} rows of {asked.length} tokens"

    def calibrates(self, options: C) -> list[Path]:
        """The same files, or those of the mix: the weights are fitted to them."""
        return self.reads(options) if options.calibration.files else mix.files()

    def run(self, options: C, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The checkpoint's folder in `out`, loaded again and looked at in a fresh process before it is handed on."""
        from convert.formats.compressed.folder import write_weights
        from convert.formats.compressed.scheme import quantization_config
        from convert.formats.compressed.worker import MADE
        from convert.source.checkpoint import open_tensors

        with job(options, inputs, out, progress) as this:
            measured = _quantize(this)
            weights = write_weights(this.folder, this.layout, open_tensors(this.work / MADE))
            words = quantization_config(this.layout.scheme, this.layout.towers, measured, this.layout.head)
            return finished(this, weights, words)
