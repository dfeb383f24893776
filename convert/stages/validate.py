"""Runs every output on its real runtime against the source, and writes report.json, report.md and report.html.

The reference is the source checkpoint on transformers in float32; GGUF runs on llama.cpp, ONNX on ONNX Runtime, engines
on TensorRT, GPTQ, AWQ and FP8 on transformers with their own kernels, with the same token ids, images and clicks. What
an output must keep is in `limits`; where the recipe says nothing, defaults catch a broken file.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from convert.bundle import Artifact, Bundle, Role
from convert.errors import Problem, StageError
from convert.files import STATE_FOLDER
from convert.options import Options as BaseOptions
from convert.options import RecipePath
from convert.progress import Progress
from convert.stages import Inputs
from convert.stages._reference import open_reference
from convert.stages._validate_checks import check_all, input_sets, wants_eyes
from convert.stages._validate_gates import LIMITS, Limits, addressed, explain_limits, limits_of, unknown_names
from convert.stages._validate_report import provenance, reference_entry, report, report_row, tensor_errors, write
from convert.stages._validate_targets import FORMATS, SOURCE, Target, targets

if TYPE_CHECKING:
    from validate.measurement import Candidate, Measurement, Questions
    from validate.reference import Reference
    from validate.report import Output
    from validate.texts import InputSet, Windows

VERSION = 6
REFERENCE_TOOLS = ("torch", "transformers", "tokenizers", "numpy", "pillow")
TOOLS: tuple[str, ...] = (*REFERENCE_TOOLS, "xllamacpp")
RUNTIMES = (  # where they are installed
    *("onnxruntime", "onnxruntime-genai", "tensorrt", "tensorrt_rtx_cu12_bindings"),
    *("gptqmodel", "compressed-tensors"),
)
NEEDS: dict[str, str] = {"torch": "validate", "transformers": "validate"}  # an output's runtime may be missing: not_run

REPORT_BYTES = 64 << 10  # what to count with before there is one
MIN_TOKENS = 16
NOT_BUILT = "not built yet"  # as a plan says it


class Options(BaseOptions):
    """What to measure on, and what every output has to keep."""

    text: list[RecipePath] = Field(
        [],
        description="input sets for drift and perplexity, one path or a list: UTF-8 texts, and conversations in "
        ".jsonl (messages, tools), which the model's own template renders; a varied set of our own when left out",
    )
    tokens: int = Field(2048, ge=MIN_TOKENS, description="how many tokens to use in all, from the start of each text")
    window: int = Field(512, ge=16, le=32768, description="tokens a window; the cache is empty at the start of each")
    images: list[RecipePath] = Field(
        [],
        description="images for the projector, beside one of our own drawing in a size that the source does not resize",
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

    @field_validator("text", "also_on", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value

    @field_validator("also_on")
    @classmethod
    def _known_runtimes(cls, names: list[str]) -> list[str]:
        from validate import runtimes

        known = [name for name in runtimes.names() if runtimes.load(name).ALSO_RUNS]
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
    named = [p for p in (*options.text, options.clicks, *options.images) if p is not None]
    if options.clicks is not None and options.clicks.is_file():
        with contextlib.suppress(ValueError, OSError):  # check() says what is wrong with it
            named += [task.image for task in _tasks(options)]
    return [path for path in dict.fromkeys(named) if path.is_file()]


def check(options: Options, inputs: Inputs) -> list[Problem]:
    """Missing files, clicks that are none, limits and demands for outputs that do not exist."""
    from validate import runtimes

    rows = targets(inputs, options.also_on)
    problems = check_all(options, inputs[SOURCE], rows)
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
        Artifact("html", Path("report.html"), REPORT_BYTES * (1 + len(rows))),
    )
    return inputs[SOURCE].with_(report=files)


def explain(options: Options, inputs: Inputs) -> list[str]:
    """What each output will be held to, for `convert plan -v`."""
    return explain_limits(options.limits, targets(inputs, options.also_on))


def run(options: Options, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
    """The source's bundle with the report in every form; a limit that is passed over is in there, not raised."""
    from validate import runtimes
    from validate.compare import measure
    from validate.measurement import Settings

    source, rows = inputs[SOURCE], targets(inputs, options.also_on)
    candidates = [_candidate(row, source) for row in rows if not row.not_built]
    with _reference(options, source, out) as reference:
        sets = input_sets(options)
        windows = _windows(options, reference, sets, progress)
        questions = _questions(options, reference, sets, windows)
        try:
            results = measure(reference, candidates, questions, Settings(options.threads), progress)
        except runtimes.RuntimeFailure as error:  # a candidate's are in its row; this is the reference's
            raise StageError("the reference", str(error), remedy="the source itself has to run first") from error
        except runtimes.Killed as error:  # no measurement to keep: the next run measures again
            remedy = "the system was most likely short of memory; run it again"
            raise StageError("validate", str(error), "", remedy) from error
        reference.forget_others()
        compared_with = reference_entry(out, source, reference.identity().vocab, reference.cached())
    measured = iter(results)
    outputs = [_row(options, out, t, _missing(t) or next(measured), source) for t in rows]
    for row in outputs:
        say = progress.note if row["status"] == "passed" else progress.warn
        say(f"{row['label']}: {row['status']} {row['reason']}".rstrip())
    content = report(out, compared_with, windows, outputs, provenance(progress, tools(options)))
    return source.with_(report=write(out, content))


# ---- inputs


@contextlib.contextmanager
def _reference(options: Options, source: Bundle, out: Path) -> Iterator[Reference]:
    """The source on transformers; what it says is kept beside the outputs, for the next report."""
    from validate import compressed_logits
    from validate.reference import Reference

    folder = out.parent / STATE_FOLDER / "reference"
    room = compressed_logits.room_bytes(options.tokens)
    trust = options.trust_remote_code
    with open_reference(source, options.threads, trust_remote_code=trust, within=out) as session:
        yield Reference(session, folder, _reference_key(options, source), room)


def _reference_key(options: Options, source: Bundle) -> str:
    """All that decides what the source says to a question."""
    from validate import provenance

    files = sorted((role.value, a.path.name, a.sha256) for role, a in source.artifacts() if role is not Role.CARD)
    words = {
        "files": files,
        "versions": provenance.versions(REFERENCE_TOOLS),
        "trust_remote_code": options.trust_remote_code,
    }
    return json.dumps(words, sort_keys=True)


def _candidate(row: Target, source: Bundle) -> Candidate:
    from validate import memory, runtimes
    from validate.measurement import Candidate

    weights, projector = row.weights, row.projector
    size = row.weights_size + row.projector_size
    if weights.format == "onnx" and not weights.type.startswith("int"):
        # Runtimes on a CPU widen a graph's 16-bit weights when they load it, the checkpoint's that it shares too.
        size = max(size, 4 * memory.parameters([a.path for a in source.of(Role.WEIGHTS)], vision=True))
    runtime = runtimes.load(row.on) if row.on else runtimes.for_format(weights.format)
    path = projector.path if projector else None
    errors = partial(tensor_errors, row, source)
    return Candidate(weights.path, path, runtime, size, row.label, row.text_only, errors)


def _windows(options: Options, reference: Reference, sets: Sequence[InputSet], progress: Progress) -> Windows:
    """What is read, cut into windows; tells of what is too short or was left out."""
    from validate import texts

    windows = texts.windows(reference, sets, options.tokens, options.window)
    got = sum(map(len, windows.tokens))
    if got < MIN_TOKENS:
        where = ", ".join(map(str, options.text)) or "our own texts"
        why = "".join(f"; {note}" for note in windows.notes)
        raise StageError(where, f"{got} tokens{why}", f"at least {MIN_TOKENS}", "name a longer text")
    for note in windows.notes:
        progress.warn(note)
    progress.note(f"{got} tokens in {len(windows.tokens)} windows")
    if options.text and got < options.tokens:
        progress.warn(f"the texts have {got} tokens, fewer than the {options.tokens} asked for")
    return windows


def _questions(options: Options, reference: Reference, sets: Sequence[InputSet], windows: Windows) -> Questions:
    from validate import texts
    from validate.measurement import Questions
    from validate.toolcalls import Prompt

    prompts = [Prompt(*prompt) for prompt in texts.tool_prompts(sets, reference)]
    if not reference.identity().has_vision:
        return Questions(windows.tokens, windows.sets, tool_prompts=prompts)
    try:
        images, blind = _images(options, reference)
        return Questions(
            windows.tokens,
            windows.sets,
            images,
            image_text=options.image_text,
            clicks=_tasks(options),
            no_images_reason=blind,
            images_required=wants_eyes(options),
            tool_prompts=prompts,
        )
    except ValueError as error:
        raise StageError("validate", str(error)) from error


def _images(options: Options, reference: Reference) -> tuple[list[tuple[str, Any]], str]:
    """The recipe's images and our own, in a size that nobody has to resize; or why the source can be shown none."""
    from validate import vision
    from validate.runtimes import RuntimeFailure

    images = [(path.name, vision.read_image(path)) for path in options.images]
    try:
        return [*images, (vision.DRAWING, vision.drawing_for(reference))], ""
    except RuntimeFailure as error:
        return [], f"the source cannot be shown an image: {error}"


def _tasks(options: Options) -> list[Any]:
    from validate import vision

    return [] if options.clicks is None else vision.read_clicks(options.clicks, options.clicks_limit)


# ---- rows


def _missing(target: Target) -> Measurement | None:
    """What is known of an output that is not there; None for one that is."""
    from validate.measurement import Measurement

    if not target.not_built:
        return None
    why = "" if target.not_built == NOT_BUILT else f": {target.not_built}"
    return Measurement(not_run=f"not built{why}; `convert run` builds it")


def _row(options: Options, out: Path, target: Target, measurement: Measurement, source: Bundle) -> Output:
    demanded = options.require == "run" or addressed(tuple(options.require), target)
    if measurement.not_run and demanded:
        measurement = replace(measurement, failures=[f"`require: run`, and {measurement.not_run}"])
    # images that could not be looked at are held to nothing but what the recipe itself asks of them
    held = replace(target, projector=None) if measurement.vision_reason else target
    return report_row(out, target, measurement, limits_of(options.limits, held, measurement.metrics), source)
