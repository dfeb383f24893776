"""What the source of a validation gives: text, or embeddings or scores, of which other things are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convert import architectures
from convert.bundle import Bundle, Role
from convert.errors import ConvertError, InputError, Problem
from convert.source.model_types import class_of
from convert.validation.checks import config_of, window_of
from convert.validation.options import AUTO, ValidateOptions
from validate.embeddings import EMBEDDINGS, TEXT

if TYPE_CHECKING:
    from convert.json_types import JsonDict


def gives(source: Bundle) -> str:
    """By sentence-transformers' files beside the model, else by its class; TEXT where no family here knows it."""
    config = config_of(source) or {}
    said = _by_class(config)
    return EMBEDDINGS if said == TEXT and source.of(Role.SENTENCES) else said


def _by_class(config: JsonDict) -> str:
    try:
        return architectures.find(config).given_by(config)
    except InputError:
        return TEXT


def longest_text(options: ValidateOptions, source: Bundle) -> int:
    """Tokens of an encoder's longest text: as asked, or as many as its family's table says that it has positions."""
    config = config_of(source) or {}
    try:
        spec = architectures.find(config).text(config)
    except ConvertError:
        return window_of(options, source)
    said = [f.value for f in spec.fields if f.key == f"{spec.architecture}.context_length"]
    return min([options.window, *(value for value in said if isinstance(value, int))])


def check_given(options: ValidateOptions, source: Bundle) -> Iterator[Problem]:
    """What is asked that a model can be asked only where it writes text."""
    given = gives(source)
    if given == TEXT:
        yield from _other(config_of(source) or {})
        return
    asked = {
        "choices": options.choices,
        "kv_cache": options.kv_cache,
        "clicks": options.clicks,
        "images": options.images,
        "jinja_js": options.jinja_js,
        "tokens: auto": options.tokens == AUTO,
    }
    for name in (name for name, value in asked.items() if value):
        yield Problem(
            "validate", f"{name}, and the model gives {given}", "a model that writes text", f"leave out {name}"
        )
    if given == architectures.ANSWERS:
        got = f"the model gives {given}, which is not measured here"
        yield Problem("validate", got, "a model that writes text, or an encoder", "leave out `validate:`")


OTHERS = {
    "ForImageClassification": "classes of images",
    "ForObjectDetection": "boxes in images",
    "ForSemanticSegmentation": "classes of pixels",
    "ForDepthEstimation": "depths of pixels",
    "ForTokenClassification": "classes of tokens",
    "ForQuestionAnswering": "places of answers",
}
"""How names of classes end that write no text and have no family here -> what they give."""


def _other(config: JsonDict) -> Iterator[Problem]:
    """That nothing is measured of what a model gives, of classes that only graphs are made of."""
    name = str(class_of(config) or "")
    given = next((what for end, what in OTHERS.items() if name.endswith(end)), "")
    if not given and config.get("is_encoder_decoder") is True:
        given = architectures.ANSWERS
    if given:
        got = f"the model gives {given}, which is not measured here"
        yield Problem("validate", got, "a model that writes text, or an encoder", "leave out `validate:`")
