"""Runs every output on its real runtime against the source, and writes report.json and report.md.

The reference is the source checkpoint on transformers in float32; GGUF runs on llama.cpp, ONNX on ONNX Runtime, engines
on TensorRT, GPTQ, AWQ and FP8 on transformers with their own kernels, with the same token ids, images and clicks. What
an output must keep is in `limits`; where the recipe says nothing, defaults catch a broken file.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from convert.bundle import Artifact, Bundle, Role
from convert.errors import Problem, StageError
from convert.files import write_text
from convert.options import Options as BaseOptions
from convert.options import RecipePath
from convert.progress import Progress
from convert.stages import Inputs
from convert.stages._reference import open_reference
from convert.stages._validate_checks import check_all, read_text, wants_eyes
from convert.stages._validate_gates import LIMITS, Limits, addressed, explain_limits, limits_of, unknown_names
from convert.stages._validate_targets import FORMATS, SOURCE, Target, targets

if TYPE_CHECKING:
    from validate.compare import Candidate, Measurement, Questions
    from validate.report import Output, Report
    from validate.report.schema import FileEntry

VERSION = 4
TOOLS: tuple[str, ...] = ("torch", "transformers", "tokenizers", "xllamacpp", "numpy", "pillow")
RUNTIMES = (  # where they are installed
    *("onnxruntime", "onnxruntime-genai", "tensorrt", "tensorrt_rtx_cu12_bindings"),
    *("gptqmodel", "compressed-tensors"),
)
NEEDS: dict[str, str] = {"torch": "validate", "transformers": "validate"}  # an output's runtime may be missing: not_run

REPORT_BYTES = 64 << 10  # what to count with before there is one
MIN_TOKENS = 16


class Options(BaseOptions):
    """What to measure on, and what every output has to keep."""

    text: RecipePath | None = Field(
        None, description="UTF-8 text for drift and perplexity; a short one of our own when left out"
    )
    tokens: int = Field(2048, ge=MIN_TOKENS, description="how many tokens of the text to use, from its start")
    window: int = Field(512, ge=16, le=32768, description="tokens a window; the cache is empty at the start of each")
    images: list[RecipePath] = Field(
        [],
        description="images for the projector, beside one of our own drawing. Multiples of 28 are not resized",
    )
    image_text: str = Field("What is in this picture?", description="what is asked behind each image")
    clicks: RecipePath | None = Field(
        None,
        description="JSON lines of image, instruction and target: a computer-use model's clicks are compared on them",
    )
    clicks_limit: int | None = Field(None, ge=1, description="use only the first so many of the clicks")
    limits: Limits = Field({}, description=LIMITS)
    also_on: list[str] = Field([], description="runtimes that run an output once more where they can: openvino")
    require: Literal["run"] | dict[str, Literal["run"]] = Field(
        {},
        description="'run', or names as in `limits` -> 'run': an output that this machine has no device for fails, "
        "and is not just left out of the verdict",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")
    trust_remote_code: bool = Field(False, description="let the reference run Python code that the model brings")

    @field_validator("require", mode="before")
    @classmethod
    def _run_is_all(cls, value: object) -> object:
        """One message where a union's members would each have theirs."""
        asked = value.items() if isinstance(value, dict) else [("require", value)]
        for name, word in asked:
            if word != "run":
                raise ValueError(
                    f"require: {name} is {word!r}, wanted 'run'"
                    if isinstance(value, dict)
                    else f"require is {word!r}, wanted 'run', or names -> 'run'"
                )
        return value

    @field_validator("also_on", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("also_on")
    @classmethod
    def _known_runtimes(cls, names: list[str]) -> list[str]:
        from validate import runtimes

        known = [name for name in runtimes.names() if runtimes.runs_too(runtimes.load(name))]
        for name in names:
            if name not in known:
                hint = "".join(f"; did you mean '{n}'?" for n in difflib.get_close_matches(name, known, 1))
                raise ValueError(f"there is no second runtime '{name}', only {', '.join(known)}{hint}")
        return list(dict.fromkeys(names))


def tools(options: Options) -> tuple[str, ...]:
    """What runs the outputs is part of the report: another version, another measurement."""
    return (*TOOLS, *RUNTIMES, *options.also_on)


def reads(options: Options) -> list[Path]:
    """The files whose content decides the report: text, images, clicks, and the screenshots the clicks name."""
    named = [p for p in (options.text, options.clicks, *options.images) if p is not None]
    if options.clicks is not None and options.clicks.is_file():
        with contextlib.suppress(ValueError, OSError):  # check() says what is wrong with it
            named += [task.image for task in _tasks(options)]
    return [path for path in dict.fromkeys(named) if path.is_file()]


def check(options: Options, inputs: Inputs) -> list[Problem]:
    """Missing files, clicks that are none, limits and demands for outputs that do not exist."""
    from validate import runtimes

    rows = targets(inputs, options.also_on)
    problems = check_all(options, inputs[SOURCE], any(row.projector for row in rows))
    if not rows:
        return [*problems, Problem("validate", "no stage makes an output to validate", " or ".join(FORMATS))]
    demanded = options.require if isinstance(options.require, dict) else {}
    for what, names in (("limits", options.limits), ("require", demanded)):
        problems += unknown_names(what, names, rows, options.also_on)
    for name in options.also_on:
        if all(row.on != name for row in rows):
            problems.append(Problem("validate", f"also_on: {name}, which runs no output of this recipe"))
        elif reason := runtimes.load(name).available():  # asked for by name: not after all has been built
            problems.append(Problem("validate", f"also_on: {name}, and {reason.replace(': ', '; ', 1)}"))
    return problems


def forecast(options: Options, inputs: Inputs) -> Bundle:
    """The source's bundle with a report of about the size reports have."""
    rows = targets(inputs, options.also_on)
    files = (
        Artifact("json", Path("report.json"), REPORT_BYTES * (1 + len(rows))),
        Artifact("markdown", Path("report.md"), REPORT_BYTES),
    )
    return inputs[SOURCE].with_(report=files)


def explain(options: Options, inputs: Inputs) -> list[str]:
    """What each output will be held to, for `convert plan -v`."""
    return explain_limits(options.limits, targets(inputs, options.also_on))


def run(options: Options, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
    """The source's bundle with report.json and report.md; a limit that is passed over is in there, not raised."""
    from validate import runtimes
    from validate.compare import Settings, measure
    from validate.report import to_json, to_markdown

    source, rows = inputs[SOURCE], targets(inputs, options.also_on)
    candidates = [_candidate(row, source) for row in rows]
    trust = options.trust_remote_code
    with open_reference(source, options.threads, trust_remote_code=trust, within=out) as reference:
        questions = _questions(options, reference)
        _tell_tokens(options, questions, progress)
        try:
            results = measure(reference, candidates, questions, Settings(options.threads), progress)
        except runtimes.RuntimeFailure as error:  # a candidate's are in its row; this is the reference's
            raise StageError("the reference", str(error)) from error
        except runtimes.Killed as error:  # no measurement to keep: the next run measures again
            remedy = "the system was most likely short of memory; run it again"
            raise StageError("validate", str(error), "", remedy) from error
    outputs = [_row(options, out, t, _counted(m, t, source)) for t, m in zip(rows, results, strict=True)]
    for row in outputs:
        say = progress.note if row["status"] == "passed" else progress.warn
        say(f"{row['label']}: {row['status']} {row['reason']}".rstrip())
    report = _report(options, source, out, questions, outputs)
    return source.with_(
        report=(
            write_text(out / "report.json", to_json(report), "json"),
            write_text(out / "report.md", to_markdown(report), "markdown"),
        )
    )


# ---- inputs


def _tell_tokens(options: Options, questions: Questions, progress: Progress) -> None:
    tokens = sum(map(len, questions.windows))
    progress.note(f"{tokens} tokens in {len(questions.windows)} windows")
    if options.text is not None and tokens < options.tokens:
        progress.warn(f"{options.text} has {tokens} tokens, fewer than the {options.tokens} asked for")


def _candidate(row: Target, source: Bundle) -> Candidate:
    from validate import memory, runtimes
    from validate.compare import Candidate

    weights, projector = row.weights, row.projector
    size = row.weights_size + row.projector_size
    if weights.format == "onnx" and not weights.type.startswith("int"):
        # Runtimes on a CPU widen a graph's 16-bit weights when they load it, the checkpoint's that it shares too.
        size = max(size, 4 * memory.parameters([a.path for a in source.of(Role.WEIGHTS)], vision=True))
    runtime = runtimes.load(row.on) if row.on else runtimes.for_format(weights.format)
    return Candidate(weights.path, projector.path if projector else None, runtime, size, row.label, row.text_only)


def _questions(options: Options, reference: Any) -> Questions:
    from validate import samples, vision
    from validate.compare import Questions, text_windows

    text = samples.TEXT if options.text is None else read_text(options.text)
    windows = text_windows(reference, text, options.tokens, options.window)
    got, where = sum(map(len, windows)), str(options.text or "our own text")
    if got < MIN_TOKENS:
        raise StageError(where, f"{got} tokens", f"at least {MIN_TOKENS}", "name a longer text")
    if not reference.identity().sees:
        return Questions(windows)
    try:
        images = [(path.name, vision.read_image(path)) for path in options.images]
        images.append((vision.DRAWING, vision.drawing_for(reference)))  # in a size that nobody has to resize
        return Questions(windows, images, options.image_text, _tasks(options), wants_eyes(options))
    except ValueError as error:
        raise StageError("validate", str(error)) from error


def _tasks(options: Options) -> list[Any]:
    from validate import vision

    return [] if options.clicks is None else vision.read_clicks(options.clicks, options.clicks_limit)


# ---- the report


def _counted(measurement: Measurement, target: Target, source: Bundle) -> Measurement:
    """With the source's weights counted where the runtime counts none: those that lie in the row's files."""
    from validate import memory

    parameters = memory.parameters([a.path for a in source.of(Role.WEIGHTS)], vision=target.shares)
    return replace(measurement, parameters=measurement.parameters or parameters)


def _required(options: Options, target: Target) -> bool:
    return options.require == "run" or addressed(options.require, target)


def _row(options: Options, out: Path, target: Target, measurement: Measurement) -> Output:
    from validate.report import Subject, output

    weights, projector = target.weights, target.projector
    if measurement.not_run and _required(options, target):
        measurement = replace(measurement, failures=[f"`require: run`, and {measurement.not_run}"])
    subject = Subject(
        target.stage,
        weights.format,
        weights.type,
        {**_file(out, weights), "size_bytes": target.weights_size},
        {**_file(out, projector), "size_bytes": target.projector_size} if projector else None,
        projector.type if projector else "",
        target.label,
        tuple(_file(out, file) for file in target.files),
    )
    return output(subject, measurement, limits_of(options.limits, target))


def _file(out: Path, artifact: Artifact) -> FileEntry:
    path, home = artifact.path, out.parent
    name = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name
    return {"path": name, "size_bytes": artifact.size, "sha256": artifact.sha256}


def _report(options: Options, source: Bundle, out: Path, questions: Questions, outputs: list[Output]) -> Report:
    from validate import samples
    from validate.report import SCHEMA_VERSION
    from validate.runtimes import transformers

    text = samples.TEXT.encode() if options.text is None else options.text.read_bytes()
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": out.parent.name,
        "reference": {
            "model": source.model.name,
            "hub": source.model.hub,
            "revision": source.model.revision,
            "runtime": transformers.version(),
            "dtype": "float32",
            "files": [_file(out, artifact) for artifact in source.of(Role.WEIGHTS)],
        },
        "text": {
            "name": "our own sample text" if options.text is None else options.text.name,
            "sha256": hashlib.sha256(text).hexdigest(),
            "tokens": sum(map(len, questions.windows)),
            "windows": len(questions.windows),
            "window": max(map(len, questions.windows)),
        },
        "outputs": outputs,
    }
