"""What can be wrong with a validation before anything runs: headers and small files are read, no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.errors import Problem, StageError
from convert.json_types import JsonDict
from convert.model.reference import check_memory
from convert.validation.caches import check_caches

if TYPE_CHECKING:
    from convert.formats.base import Output
    from convert.validation.options import ValidateOptions
    from validate.choices import ItemSet
    from validate.texts import InputSet

SHORTEST_WINDOW = 16  # a limit below it is no limit of a model
RELATIVE = "check the path: one in a recipe is relative to the recipe's folder"
MORE_MEMORY = "run it on a machine with more, or leave `validate:` out and validate the files there"


def check_all(options: ValidateOptions, source: Bundle, rows: Sequence[Output]) -> list[Problem]:
    """Every problem of the options and the source, for these outputs."""
    named = (*options.text, options.clicks, *options.images, *choice_files(options))
    missing = [path for path in named if path is not None and not path.is_file()]
    return [
        *(Problem("validate", f"no file {path}", remedy=RELATIVE) for path in missing),
        *_check_clicks(options),
        *_check_contents(options),
        *_check_images(options, source, rows),
        *_check_jinja_js(options, rows),
        *check_caches(options, rows),
        *check_memory(source, "validate", MORE_MEMORY),
    ]


def input_sets(options: ValidateOptions) -> Sequence[InputSet]:
    """What is read: the recipe's texts and conversations, else our own. Raises StageError for what is none."""
    from validate import texts

    try:
        return [texts.read_set(path) for path in options.text] or texts.default_sets()
    except ValueError as error:
        raise StageError("validate", str(error)) from error


def choice_files(options: ValidateOptions) -> list[Path]:
    """The files of multiple-choice items that the recipe names."""
    return [path for path in options.choices if isinstance(path, Path)]


def item_sets(options: ValidateOptions) -> list[ItemSet]:
    """Multiple-choice items, ours among them where they are named. Raises ValueError for what is none."""
    from validate import choices

    limit = options.choices_limit
    sets = [choices.read_items(one, limit) if isinstance(one, Path) else choices.ours() for one in options.choices]
    return [replace(one, items=one.items[:limit]) for one in sets]


def _check_contents(options: ValidateOptions) -> list[Problem]:
    """A text, items or images that are none, before an hour is spent on the way to them."""
    problems = []
    try:
        if all(path.is_file() for path in options.text):
            input_sets(options)
        if all(path.is_file() for path in choice_files(options)):
            item_sets(options)
        if options.images:
            from validate import vision

            for path in options.images:
                if path.is_file():
                    vision.read_image(path)
    except StageError as error:
        problems.append(error.problem)
    except ValueError as error:
        problems.append(Problem("validate", str(error)))
    return problems


def wants_images(options: ValidateOptions) -> bool:
    """Whether images are asked for by name, beside our own."""
    return bool(options.images or options.clicks)


def _check_images(options: ValidateOptions, source: Bundle, rows: Sequence[Output]) -> list[Problem]:
    """Images and clicks that nothing could be shown."""
    config = config_of(source)
    if not wants_images(options) or config is None:
        return []
    named = " and ".join(name for name, files in (("images", options.images), ("clicks", options.clicks)) if files)
    if not isinstance(config.get("vision_config"), dict):
        return [Problem("validate", f"{named} for a model that takes no images", remedy=f"leave out {named}")]
    without = dict.fromkeys(row.stage for row in rows if row.projector is None and not row.text_only)
    if not any(row.projector for row in rows):
        remedy = f"give a stage `mmproj: F16`, or leave out {named}"
        return [Problem("validate", f"{named}, but no stage makes a projector", "an mmproj file", remedy)]
    remedy = f"`mmproj: F16` makes one, `projector:` names one of a file that exists; or leave out {named}"
    return [
        Problem("validate", f"{named}, but stage '{stage}' makes no projector", "an mmproj file", remedy)
        for stage in without
    ]


def config_of(source: Bundle) -> JsonDict | None:
    """The source's config.json; None where there is none to read, which its own stage says."""
    try:
        config = json.loads(next(iter(source.of(Role.CONFIG))).path.read_bytes())
    except (StopIteration, OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def window_of(options: ValidateOptions, source: Bundle) -> int:
    """Tokens a window: as asked, or as many as the model was made for, beyond which it is measured how it breaks."""
    return min(options.window, context_of(source) or options.window)


def context_of(source: Bundle) -> int | None:
    """Tokens that the model was made for; None where its config does not say.

    `original_max_position_embeddings` (Phi-3's long contexts) is where other rotary frequencies begin, beside the
    scaling or inside it: transformers picks them by the length of a text, llama.cpp by that of its context. Other
    scalings (yarn, llama3) are the same at every length, and may be compared at any.
    """
    config = config_of(source) or {}
    text = config.get("text_config", config)
    found = [text.get("max_position_embeddings"), _switches_at(text)] if isinstance(text, dict) else []
    return min((n for n in found if isinstance(n, int) and n >= SHORTEST_WINDOW), default=None)


def _switches_at(text: JsonDict) -> object:
    """Tokens from which on a model turns positions by other frequencies; None where it never does."""
    word = "original_max_position_embeddings"
    if word in text:  # transformers takes the one beside the scaling first
        return text[word]
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) not in ("longrope", "su"):
        return None
    return scaling.get(word)


def _check_clicks(options: ValidateOptions) -> list[Problem]:
    from validate import vision

    if options.clicks is None or not options.clicks.is_file():
        return []
    try:
        tasks = vision.read_clicks(options.clicks, options.clicks_limit)
    except (ValueError, OSError) as error:
        return [Problem("validate", str(error))]
    missing = [task.image for task in tasks if not task.image.is_file()]
    if missing:
        return [
            Problem(
                str(options.clicks),
                f"{len(missing)} images do not exist, the first is {missing[0]}",
                "every image beside the file",
            )
        ]
    return [] if tasks else [Problem(str(options.clicks), "holds no click task")]


def _check_jinja_js(options: ValidateOptions, rows: Sequence[Output]) -> list[Problem]:
    """transformers.js' template engine, asked for and not there, or for no output that it has anything to do with."""
    from validate import jinja_js
    from validate.errors import Unsupported

    if options.jinja_js is None:
        return []
    if all(row.weights.format != jinja_js.FORMAT for row in rows):
        return [Problem("validate", "jinja_js, and no stage makes ONNX graphs, which transformers.js runs")]
    try:
        jinja_js.find(options.jinja_js)
    except Unsupported as error:
        return [Problem("validate", f"jinja_js: {str(error).replace(': ', '; ', 1)}")]
    return []
