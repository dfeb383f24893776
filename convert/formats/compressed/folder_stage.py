"""What every stage that makes a checkpoint's folder shares: a run of one, the folder it hands on, loaded again.

Stages differ in their options, in the scheme that these make, and in who does the arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import Field

from convert.bundle import Artifact, Bundle, Role
from convert.errors import ConvertError, Problem, StageError
from convert.files import STATE_FOLDER
from convert.formats.carried import copied
from convert.json_types import JsonDict, JsonObject
from convert.model.memory_needs import LIBRARIES, cores_for
from convert.needs import Needs
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
    """What all of them ask."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the folder's name; the model's name when left out",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")

    def as_scheme(self) -> Scheme:
        """What is asked of the quantizer; each stage makes it of its own options."""
        raise NotImplementedError


O = TypeVar("O", bound=SchemeOptions)  # noqa: E741 - the options of one stage


@dataclass(frozen=True)
class Job(Generic[O]):
    """A run of one of the stages; `work` is a folder that goes away with it."""

    options: O
    source: Bundle
    layout: Layout
    folder: Path  # what will be handed on
    work: Path
    kept: Path  # what a run that was killed left for the next one
    progress: Progress

    @property
    def scheme(self) -> Scheme:
        return self.layout.scheme

    @property
    def threads(self) -> int:
        from validate.runtimes._threads import useful_threads

        return self.options.threads or useful_threads(*(a.path for a in self.source.of(Role.WEIGHTS)))


@contextlib.contextmanager
def job(options: O, inputs: Inputs, out: Path, progress: Progress) -> Iterator[Job[O]]:
    """A run, its folder empty."""
    source, scheme = checkpoint(options.as_scheme().method, inputs), options.as_scheme()
    folder = out / scheme.folder_name(options.name or source.model.name)
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as name:
        kept = out.parent / STATE_FOLDER / f"{scheme.method}-layers" / out.name
        yield Job(options, source, layout_of(source, scheme), folder, Path(name), kept, progress)
    shutil.rmtree(kept, ignore_errors=True)


def finished(job: Job[O], weights: Sequence[Artifact], quantization: JsonObject) -> Bundle:
    """The bundle of the folder, companions in it, loaded again. Raises StageError when that does not go well."""
    from convert.formats.compressed import folder as files
    from convert.source.companions import read_companions

    source, layout, folder = job.source, job.layout, job.folder
    config = files.write_configs(folder, layout, quantization)
    companions = read_companions(source)
    carried = {role: tuple(copied(a, source, folder) for a in source.of(role)) for role in CARRIED}
    for artifact in source.of(Role.CARD):
        if artifact.path.name.startswith(("LICENSE", "NOTICE")):
            shutil.copyfile(artifact.path, folder / artifact.path.name)
    present = [a.path.name for copies in carried.values() for a in copies]
    carried[Role.PREPROCESSOR] += files.write_processors(folder, present, companions.preprocessor)
    carried[Role.CHAT_TEMPLATE] += files.write_template(folder, present, companions.chat_templates)
    check_reload(job)
    roles = {role.value: artifacts for role, artifacts in carried.items()}
    return source.with_(weights=kinds(job.scheme, weights), config=config, statistics=(), imatrix=(), **roles)


def kinds(scheme: Scheme, files: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """The first file is the model, the others are parts of it."""
    first, *others = files
    kinds = [f"{scheme.method}/{scheme.type}", *(f"{scheme.method}-part/{scheme.type}" for _ in others)]
    return tuple(Artifact(kind, a.path, a.size, a.sha256) for kind, a in zip(kinds, [first, *others], strict=True))


def check_reload(job: Job[O]) -> None:
    """Raise StageError with everything that is wrong with the finished folder."""
    names = job.work / "modules.json"
    names.write_text(json.dumps(asdict(job.layout.decision)), encoding="utf-8")
    job.progress.start("loading the result in a fresh process", 1, "check")
    wrong = run_child(job, "convert.formats.compressed.reload", [str(job.folder), str(names)])["wrong"]
    job.progress.advance(1)
    if wrong:
        raise StageError(f"{job.folder.name}, loaded again", "; ".join(wrong), "the model that was quantized")


def run_child(job: Job, module: str, arguments: list[str]) -> JsonDict:
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


def layout_of(source: Bundle, scheme: Scheme) -> Layout:
    """What will be written of the source by the scheme; what was measured, was measured on the source's own layers."""
    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.straight import CompressedScheme, StraightLayout
    from convert.source.checkpoint import open_bundle

    checkpoint = open_bundle(source)
    scheme = replace(scheme, sequential=scheme.sequential and not source.of(Role.STATISTICS))
    return StraightLayout(checkpoint, scheme) if isinstance(scheme, CompressedScheme) else Layout(checkpoint, scheme)


class CompressedStage(Stage[O]):
    """What every stage that makes a folder shares."""

    def check(self, options: O, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being quantized so, by headers and the calibration files alone."""
        from convert.model.reference import check_memory

        where = options.as_scheme().method
        try:
            source = checkpoint(options.as_scheme().method, inputs)
            layout = layout_of(source, options.as_scheme())
            layout.check()
            self.check_options(options, layout)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(where, p) for p in error.problems]
        return check_memory(source, where)

    def check_options(self, options: O, layout: Layout) -> None:
        """Raise ConvertError for options that do not fit the model, or name what is not there."""

    def forecast(self, options: O, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with the weights' sizes but for their headers."""
        source, scheme = checkpoint(options.as_scheme().method, inputs), options.as_scheme()
        layout = layout_of(source, scheme)
        home = Path(scheme.folder_name(options.name or source.model.name))
        weights = [
            Artifact("safetensors", home / f, sum(t.nbytes for t in parts)) for f, parts in layout.shards.items()
        ]
        config = next(a for a in source.of(Role.CONFIG) if a.path.name == "config.json")
        carried = {
            role.value: tuple(Artifact(a.kind, home / a.path.name, a.size) for a in source.of(role)) for role in CARRIED
        }
        made = Artifact("json", home / "config.json", config.size + CONFIG_BYTES)
        return source.with_(weights=kinds(scheme, weights), config=made, statistics=(), imatrix=(), **carried)

    def explain(self, options: O, inputs: Inputs) -> Iterator[str]:
        """How much is quantized and what is kept, for `convert plan -v`."""
        layout = layout_of(checkpoint(options.as_scheme().method, inputs), options.as_scheme())
        decision = layout.decision
        yield f"{len(decision.quantized)} matrices of {decision.layers} layers in {layout.scheme.bits} bits"
        yield f"kept as they are: {len(decision.kept)} matrices ({', '.join(layout.exclusions)})"

    def needs(self, options: O, inputs: Inputs, made: Bundle) -> Needs:
        """The finished folder loaded again, which is the most that a stage takes that runs nothing."""
        from convert.model.engine import needed_bytes

        written, source = sum(a.size for a in made.of(Role.WEIGHTS)), only(inputs)
        return Needs(LIBRARIES + needed_bytes(source, 2 * written), cores_for(source))
