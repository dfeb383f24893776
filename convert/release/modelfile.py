"""Ollama's Modelfile: the file, its projector, a template where one is proven equal, and how to sample.

Sources: ollama's docs/modelfile.md. An Ollama that gets no TEMPLATE goes by the GGUF file's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from convert.bundle import Bundle
from convert.json_types import JsonObject
from convert.release.go_template import translated
from convert.release.repository import Place
from convert.source.companions import SPECIAL_KINDS, Companions, read_companions, token_text

NAME = "Modelfile"
QUOTES = '"""'
SAMPLING = (  # generation_config.json's word -> Ollama's
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("repetition_penalty", "repeat_penalty"),
)


def modelfile(place: Place, source: Bundle) -> str:
    """The Modelfile of one file of a repository; empty where Ollama cannot take it, which reads no split files."""
    if place.row.output.parts:
        return ""
    companions = read_companions(source)
    return "\n".join(_lines(place, companions)) + "\n"


def _lines(place: Place, companions: Companions) -> Iterator[str]:
    yield f"# ollama create NAME -f {NAME}; any other file of this folder can stand here"
    yield f"FROM ./{place.weights}"
    if place.projector:
        yield f"FROM ./{place.projector}"
    template = go_template(companions)
    if template is not None and QUOTES not in template:
        yield f"TEMPLATE {QUOTES}{template}{QUOTES}"
        for text in ends(companions):
            yield f'PARAMETER stop "{text}"'
    for word, value in sampling(companions.generation):
        yield f"PARAMETER {word} {value:g}"


def go_template(companions: Companions) -> str | None:
    """The model's chat template for Ollama; None where it has none, or none that says the same."""
    template = companions.chat_templates.get("default")
    if template is None:
        return None
    config = companions.tokenizer_config
    special = {f"{kind}_token": text for kind in SPECIAL_KINDS if (text := token_text(config.get(f"{kind}_token")))}
    adds_bos = config.get("add_bos_token")
    if adds_bos is None:
        adds_bos = "bos_token" in special and "bos" in companions.special_ids and _said_to_add(companions)
    return translated(template, special, adds_bos=bool(adds_bos))


def _said_to_add(companions: Companions) -> bool:
    """Whether the tokenizer's own post-processor puts the first token before every text."""
    found: Mapping[str, object] = companions.tokenizer_json or {}
    text = str(found.get("post_processor") or "")
    bos = token_text(companions.tokenizer_config.get("bos_token")) or ""
    return bool(bos) and bos in text


def ends(companions: Companions) -> list[str]:
    """The texts of the tokens that end an answer, those that can be written between quotes."""
    names = {number: text for text, number in companions.token_ids.items()}
    found = [names[number] for number in companions.end_ids if number in names]
    return [text for text in found if text.isprintable() and '"' not in text and "\\" not in text]


def sampling(generation: JsonObject) -> Iterator[tuple[str, float]]:
    """Ollama's words for what generation_config.json asks for; greedy decoding is temperature 0."""
    greedy = generation.get("do_sample") is False
    if greedy:
        yield "temperature", 0.0
    for theirs, ours in SAMPLING:
        value = generation.get(theirs)
        if isinstance(value, bool) or not isinstance(value, int | float) or (greedy and ours != "repeat_penalty"):
            continue
        yield ours, float(value)
