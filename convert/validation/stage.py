"""Runs every output on its real runtime against the source, and writes report.json, report.md and report.html.

The reference is the source checkpoint on transformers in float32; GGUF runs on llama.cpp, ONNX on ONNX Runtime, engines
on TensorRT, GPTQ, AWQ and FP8 on transformers with their own kernels, with the same token ids, images and clicks. What
an output must keep is in `limits`; where the recipe says nothing, defaults catch a broken file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from convert import registry
from convert.bundle import MEASURED, Artifact, Bundle, Role
from convert.errors import Problem, StageError
from convert.files import STATE_FOLDER
from convert.formats.base import SOURCE, Output
from convert.model import engine
from convert.model.memory_needs import Passes, reference_needs
from convert.model.reference import How, open_reference, passes_folder
from convert.needs import Needs
from convert.progress import Progress
from convert.stage import Inputs, Stage
from convert.validation.caches import cache_work, compares_caches, measured_on
from convert.validation.checks import (
    check_all,
    choice_files,
    context_of,
    input_sets,
    item_sets,
    wants_images,
    window_of,
)
from convert.validation.given import check_given, gives, longest_text
from convert.validation.limits import explain_limits, limits_of, unknown_names
from convert.validation.options import AUTO, MIN_TOKENS, ValidateOptions
from convert.validation.outputs import outputs
from convert.validation.report import (
    provenance,
    reference_entry,
    report,
    report_rows,
    stated,
    tensor_errors,
    with_standing,
    write,
)
from convert.validation.second import second_runtimes, versions_elsewhere
from convert.validation.sizes import QUANTIZED, kept_bytes, memory_bytes
from validate.embeddings import TEXT

if TYPE_CHECKING:
    import numpy as np

    from validate.choices import Question
    from validate.measurement import Candidate, Measurement, Questions
    from validate.reference import Reference
    from validate.runtimes import Runtime
    from validate.texts import InputSet, Windows
    from validate.vision import ClickTask

REFERENCE_TOOLS = ("torch", "transformers", "tokenizers", "numpy", "pillow")
CLICK_TOKENS = 300
REPORT_BYTES = 64 << 10  # what to count with before there is one
NOT_BUILT = "not built yet"  # as a plan says it


# ---- inputs


@contextlib.contextmanager
def _reference(options: ValidateOptions, source: Bundle, out: Path, progress: Progress) -> Iterator[Reference]:
    """The source on transformers; what it says is kept beside the outputs, for the next report."""
    from convert.model.resume import Resume
    from validate import compressed_logits
    from validate.reference import Reference

    folder = out.parent / STATE_FOLDER / "reference"
    room = compressed_logits.room_bytes(options.most_tokens)
    trust = options.trust_remote_code
    key = _reference_key(options, source)
    resume = Resume(passes_folder(out), json.dumps([key, options.threads]), say=progress.note)
    asked = options.reference
    how = How(asked.dtype, asked.layered, resume) if asked else How(resume=resume)
    with open_reference(source, options.threads, trust_remote_code=trust, within=out, how=how) as session:
        yield Reference(session, folder, key, room)


def _reference_key(options: ValidateOptions, source: Bundle) -> str:
    """All that decides what the source says to a question."""
    from validate import provenance

    files = sorted((role.value, a.path.name, a.sha256) for role, a in source.artifacts() if role is not Role.CARD)
    versions = provenance.versions(REFERENCE_TOOLS)
    words = {"files": files, "versions": versions, "trust_remote_code": options.trust_remote_code}
    if options.reference and options.reference.dtype != "float32":
        words["dtype"] = options.reference.dtype
    return json.dumps(words, sort_keys=True)


def _measurement_key(row: Output, bundle: Bundle, runtime: Runtime | None, reference_key: str) -> str:
    """All that decides what is measured of an output but the questions; empty where a file's content is not known."""
    from validate import provenance

    apart = (Role.WEIGHTS, Role.PROJECTOR, Role.CARD, Role.REPORT, *MEASURED)
    files = [*row.files, *(a for role, a in bundle.artifacts() if role not in apart)]
    if runtime is None or not all(file.sha256 for file in files):
        return ""
    words = {
        "files": sorted((file.path.name, file.sha256) for file in files),
        "runtime": [runtime.NAME, provenance.versions(runtime.DISTRIBUTIONS), runtime.build()],
        "reference": reference_key,
        "version": ValidateStage.VERSION,
        "text_only": row.text_only,
    }
    return json.dumps(words, sort_keys=True)


def _candidate(
    options: ValidateOptions, row: Output, inputs: Inputs, also_on: Mapping[str, Runtime], reference_key: str
) -> Candidate:
    from validate import runtimes
    from validate.measurement import Candidate

    source, caches = inputs[SOURCE], compares_caches(options, row)
    _, kind = registry.kinds()[row.weights.format]
    name = row.on or next(iter(kind.runtimes), "")
    runtime = also_on.get(row.on) or (runtimes.load(name) if name in runtimes.names() else None)
    if not row.on and row.weights.format in QUANTIZED and engine.is_needed(row.weights.path.parent):
        runtime = engine.RUNTIME
    return Candidate(
        row.weights.path,
        row.projector.path if row.projector else None,
        runtime,
        memory_bytes(row, source),
        row.label,
        row.text_only,
        partial(tensor_errors, row, source),
        partial(stated, row, source),
        name,
        _measurement_key(row, inputs[row.stage], runtime, json.dumps([reference_key, caches])),
        limits={metric: limit for metric, (limit, _) in limits_of(options.limits, row, None, gives(source)).items()},
        compares_caches=caches,
    )


def _windows(
    options: ValidateOptions, source: Bundle, reference: Reference, sets: Sequence[InputSet], progress: Progress
) -> Windows:
    """What is read, cut into windows that the model has room for; notes what is too short or was left out."""
    from validate import texts

    window = window_of(options, source)
    if reference.identity().gives != TEXT:
        return _passages(options, reference, sets, longest_text(options, source))
    if window < options.window:
        progress.note(f"windows of {window} tokens, not {options.window}: the model was made for no more")
    windows = texts.windows(reference, sets, options.most_tokens, window)
    got = sum(map(len, windows.tokens))
    if got < MIN_TOKENS:
        where = ", ".join(map(str, options.text)) or "our own texts"
        why = "".join(f"; {note}" for note in windows.notes)
        raise StageError(where, f"{got} tokens{why}", f"at least {MIN_TOKENS}", "name a longer text")
    for note in windows.notes:
        progress.warn(note)
    progress.note(f"{got} tokens in {len(windows.tokens)} windows")
    if options.tokens == AUTO:
        return texts.mixed(windows)
    if options.text and got < options.tokens:
        progress.warn(f"the texts have {got} tokens, fewer than the {options.tokens} asked for")
    return windows


def _passages(options: ValidateOptions, reference: Reference, sets: Sequence[InputSet], longest: int) -> Windows:
    """What an encoder is given: whole texts, not windows of one."""
    from validate.embeddings import FEWEST
    from validate.passages import passages

    found = passages(reference, sets, options.most_tokens, longest)
    if len(found.tokens) < FEWEST:
        where = ", ".join(map(str, options.text)) or "our own texts"
        remedy = "name texts of several paragraphs"
        raise StageError(where, f"{len(found.tokens)} paragraphs", f"at least {FEWEST}", remedy)
    return found


def _questions(
    options: ValidateOptions,
    reference: Reference,
    sets: Sequence[InputSet],
    windows: Windows,
    items: Sequence[Question],
) -> Questions:
    from validate import enough, jinja_js, texts
    from validate.measurement import Questions
    from validate.toolcalls import Prompt

    prompts = [Prompt(*prompt) for prompt in texts.tool_prompts(sets, reference)]
    asked = Questions(
        windows.tokens,
        windows.sets,
        tool_prompts=prompts,
        choices=items,
        jinja_js=None if options.jinja_js is None else jinja_js.find(options.jinja_js),
        kv_cache=None if options.kv_cache is None else options.kv_cache.question,
        steps=enough.steps([len(w) for w in windows.tokens]) if options.tokens == AUTO else (),
    )
    if not reference.identity().has_vision:
        return asked
    try:
        images, why_none = _images(options, reference)
        return replace(
            asked,
            images=images,
            image_text=options.image_text,
            clicks=_tasks(options),
            no_images_reason=why_none,
            images_required=wants_images(options),
        )
    except ValueError as error:
        raise StageError("validate", str(error)) from error


def _items(options: ValidateOptions, reference: Reference, windows: Windows, progress: Progress) -> list[Question]:
    """The multiple-choice items in tokens, none longer than the longest window, for which sessions are opened."""
    from validate import choices

    longest = max(map(len, windows.tokens))
    found, cut = choices.tokenized(item_sets(options), reference, longest)
    if cut:
        progress.warn(
            f"{cut} of {len(found)} multiple-choice items are longer than the {longest} tokens of a window and lost "
            "their beginning; with a larger `window:` they do not"
        )
    return found


def _images(options: ValidateOptions, reference: Reference) -> tuple[list[tuple[str, np.ndarray]], str]:
    """The recipe's images and our own, in a size that nobody has to resize; or why the source can be shown none."""
    from validate import vision
    from validate.runtimes import RuntimeFailure

    images = [(path.name, vision.read_image(path)) for path in options.images]
    try:
        return [*images, (vision.DRAWING, vision.drawing_for(reference))], ""
    except RuntimeFailure as error:
        return [], f"the source cannot be shown an image: {error}"


def _tasks(options: ValidateOptions) -> list[ClickTask]:
    from validate import vision

    return [] if options.clicks is None else vision.read_clicks(options.clicks, options.clicks_limit)


# ---- rows


def _missing(row: Output) -> Measurement | None:
    """What is known of an output that is not there; None for one that is."""
    from validate.measurement import Measurement

    if not row.not_built:
        return None
    why = "" if row.not_built == NOT_BUILT else f": {row.not_built}"
    return Measurement(not_run=f"not built{why}; `convert run` builds it")


class ValidateStage(Stage[ValidateOptions]):
    """Runs every output on its real runtime against the source, and writes report.json, report.md and report.html."""

    NAME = "validate"
    VERSION = 10
    TOOLS = REFERENCE_TOOLS
    NEEDS: ClassVar[Mapping[str, str]] = {"torch": "validate", "transformers": "validate"}
    Options = ValidateOptions

    def tools(self, options: ValidateOptions) -> tuple[str, ...]:
        """What runs the outputs is part of the report: another version, another measurement."""
        from validate import runtimes

        found = [name for runtime in runtimes.names() for name in runtimes.load(runtime).DISTRIBUTIONS]
        return tuple(dict.fromkeys((*self.TOOLS, *found)))

    def versions(self, options: ValidateOptions) -> Mapping[str, str]:
        """What runs outputs in other environments, asked there, and builds of the user's own: other measurements."""
        from validate import runtimes

        builds = {name: runtimes.load(name).build() for name in runtimes.names()}
        return {**versions_elsewhere(options), **{name: build for name, build in builds.items() if build}}

    def reads(self, options: ValidateOptions) -> list[Path]:
        """The files whose content decides the report: what the recipe names, and the screenshots the clicks name."""
        from validate.jinja_js import PACKAGE

        workers = [elsewhere.worker for elsewhere in options.runtimes.values()]
        named = [*options.text, *options.images, *choice_files(options)]
        engine = None if options.jinja_js is None else options.jinja_js / PACKAGE
        named += [path for path in (options.clicks, engine, *workers) if path is not None]
        if options.clicks is not None and options.clicks.is_file():
            with contextlib.suppress(ValueError, OSError):  # self.check() says what is wrong with it
                named += [task.image for task in _tasks(options)]
        return [path for path in dict.fromkeys(named) if path.is_file()]

    def tests(self, options: ValidateOptions) -> list[Path]:
        """The files that the recipe names, and our own texts and items where those are used."""
        from validate import choices, texts

        items = [choices.OUR_FILE] if "ours" in options.choices else []
        return [*self.reads(options), *(() if options.text else texts.default_files()), *items]

    def check(self, options: ValidateOptions, inputs: Inputs) -> list[Problem]:
        """Missing files, clicks that are none, limits and demands for outputs that do not exist."""
        if any(artifact.format in {"gguf", "onnx"} for artifact in inputs[SOURCE].of(Role.WEIGHTS)):
            got = "the source is no checkpoint that transformers runs, so there is nothing to compare with"
            remedy = (
                "leave `validate` out, or judge the files by `convert validate --candidate FILE --reference FOLDER`"
            )
            return [Problem("validate", got, "a checkpoint as the source", remedy)]
        if any(artifact.elsewhere for artifact in inputs[SOURCE].of(Role.WEIGHTS)):
            got = "the source's weights are read from the hub as they are converted, and the reference needs them here"
            return [Problem("validate", got, "", "leave `stream: true` out, or `validate`")]
        also_on = second_runtimes(options)
        rows = outputs(inputs, also_on)
        problems = [*check_all(options, inputs[SOURCE], rows), *check_given(options, inputs[SOURCE])]
        if not rows:
            return [
                *problems,
                Problem("validate", "no stage makes an output to validate", f"one of {', '.join(registry.kinds())}"),
            ]
        demanded = options.require if isinstance(options.require, dict) else {}
        for what, names in (("limits", options.limits), ("require", demanded), ("kv_cache: on", measured_on(options))):
            problems += unknown_names(what, names, rows, options.also_on)
        for name in options.also_on:
            reason = also_on[name].available()  # asked for by name: not after all has been built
            if reason and (not also_on[name].ALSO_RUNS or any(row.on == name for row in rows)):
                problems.append(Problem("validate", f"also_on: {name}, and {reason.replace(': ', '; ', 1)}"))
            elif all(row.on != name for row in rows):
                problems.append(Problem("validate", f"also_on: {name}, which runs no output of this recipe"))
        return problems

    def forecast(self, options: ValidateOptions, inputs: Inputs) -> Bundle:
        """The source's bundle with a report of about the size reports have."""
        rows = outputs(inputs, second_runtimes(options))
        files = (
            Artifact("json", Path("report.json"), REPORT_BYTES * (1 + len(rows))),
            Artifact("markdown", Path("report.md"), REPORT_BYTES),
            Artifact("html", Path("report.html"), REPORT_BYTES * (1 + len(rows))),
        )
        return inputs[SOURCE].with_(report=files)

    def work(self, options: ValidateOptions, inputs: Inputs, made: Bundle) -> int:
        """Tokens through weights, of every output and of the source; a click counts as a prompt with its image."""
        clicks = len(_tasks(options)) if options.clicks is not None and options.clicks.is_file() else 0
        rows = outputs(inputs, second_runtimes(options))
        weights = sum(a.size for a in inputs[SOURCE].of(Role.WEIGHTS)) + sum(row.weights_size for row in rows)
        caches = cache_work(options, context_of(inputs[SOURCE]), rows)
        return (options.most_tokens + CLICK_TOKENS * clicks) * weights + caches

    def needs(self, options: ValidateOptions, inputs: Inputs, made: Bundle) -> Needs:
        """The source on transformers beside the largest output on its runtime."""
        rows = outputs(inputs, second_runtimes(options))
        largest = max((memory_bytes(row, inputs[SOURCE]) for row in rows), default=0)
        source, passes = inputs[SOURCE], Passes(options.most_tokens, window_of(options, inputs[SOURCE]))
        return reference_needs(source, largest, scratch_bytes=kept_bytes(options.most_tokens, source), passes=passes)

    def explain(self, options: ValidateOptions, inputs: Inputs) -> list[str]:
        """What each output will be held to, for `convert plan -v`."""
        return explain_limits(options.limits, outputs(inputs, second_runtimes(options)), gives(inputs[SOURCE]))

    def run(self, options: ValidateOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The source's bundle with the report in every form; a limit that is passed over is in there, not raised."""
        from validate import runtimes
        from validate.compare import measure
        from validate.measurement import Settings

        progress.start("opening the source", 0)
        also_on = second_runtimes(options)
        source, rows = inputs[SOURCE], outputs(inputs, also_on)
        key = json.dumps([_reference_key(options, source), versions_elsewhere(options)])
        candidates = [_candidate(options, row, inputs, also_on, key) for row in rows if not row.not_built]
        with _reference(options, source, out, progress) as reference:
            sets = input_sets(options)
            windows = _windows(options, source, reference, sets, progress)
            items = _items(options, reference, windows, progress)
            questions = _questions(options, reference, sets, windows, items)
            try:
                kept = out.parent / STATE_FOLDER / "measured"
                results = measure(reference, candidates, questions, Settings(options.threads, kept), progress)
            except runtimes.RuntimeFailure as error:  # a candidate's are in its row; this is the reference's
                raise StageError("the reference", str(error), remedy="the source itself has to run first") from error
            except runtimes.Killed as error:  # no measurement to keep: the next run measures again
                remedy = "the system was most likely short of memory; run it again"
                raise StageError("validate", str(error), "", remedy) from error
            reference.forget_others()
            progress.note(f"the source read what was written in {reference.passes} passes")
            compared_with = reference_entry(out, source, reference.identity().vocab, reference.cached())
        measured = iter(results)
        found = [_missing(row) or next(measured) for row in rows]
        entries = report_rows(options, out, rows, found, source)
        for row in entries:
            if read := row.get("reading"):
                progress.note(f"{row['label']}: {read['reason']}")
            say = progress.note if row["status"] == "passed" else progress.warn
            say(f"{row['label']}: {row['status']} {row['reason']}".rstrip())
        content = report(out, compared_with, windows, entries, provenance(progress, self.tools(options)))
        content = with_standing(content, found, item_sets(options))
        if source.remarks:
            content["overlaps"] = list(source.remarks)
        return source.with_(report=write(out, content))


STAGE = ValidateStage()
