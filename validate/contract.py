"""What has to be the same and not merely close: token ids, templates, special tokens."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from validate import known_limits
from validate.embeddings import TEXT
from validate.errors import Endless, RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.runtimes.base import IMAGE_MARK, Identity, ReferenceSession, Session
from validate.samples import CONVERSATIONS, HARD_STRINGS, Conversation

__all__ = ["CONVERSATIONS", "HARD_STRINGS", "Check", "Difference", "check_contract"]

_Value = TypeVar("_Value")
SHOWN = 5  # differences kept of each check; the counts are of all
SHOWN_CHARACTERS = 160
ADDED_TOKENS = 64  # of the model's own, tried in text; some models have thousands


@dataclass(frozen=True)
class Difference:
    """One thing on which the two disagree."""

    what: str
    reference: str
    candidate: str


@dataclass(frozen=True)
class Check:
    """One part of the contract. `metric` names the Metric its score is; empty when it is only reported."""

    name: str
    title: str
    total: int
    equal: int
    differences: tuple[Difference, ...] = ()
    metric: str = ""
    note: str = ""

    @property
    def score(self) -> float:
        return self.equal / self.total if self.total else 1.0


def check_contract(
    reference: ReferenceSession, candidate: Session, strings: Iterable[str] = HARD_STRINGS
) -> list[Check]:
    """Every check of the contract, in the order of a report.

    Raises RuntimeFailure when a session dies; a session that cannot answer a question gets a note.
    """
    ours, theirs = reference.identity(), candidate.identity()
    return [
        _special_ids(ours, theirs, reference, candidate),
        _vocabulary(reference, candidate),
        *_tokens(reference, candidate, [*strings, *_around_added_tokens(ours), *_prompts(reference, ours)]),
        _templates(reference, ours, theirs),
        _runtime_templates(reference, candidate, ours, theirs),
    ]


# ---- token ids


def _around_added_tokens(identity: Identity) -> list[str]:
    """The model's own added tokens, in text: beside letters, spaces and newlines."""
    tokens = list(identity.added)[:ADDED_TOKENS]
    return [text for token in tokens for text in (token, f"a{token}b", f" {token} {token}\n{token}{token}")]


def _prompts(reference: Session, identity: Identity) -> list[str]:
    """The conversations as the source renders them: what a model is really sent."""
    if not identity.templates:
        return []
    prompts = [rendered(reference.render, t.messages, t.tools, t.generation_prompt) for t in CONVERSATIONS]
    return [text for text in prompts if not text.startswith(REFUSED)]


def _tokens(reference: ReferenceSession, candidate: Session, strings: Sequence[str]) -> list[Check]:
    """Ids with special tokens read and added; then with special tokens in the text taken as text."""
    ours, theirs = reference.identity(), candidate.identity()
    pieces = candidate.pieces()
    stops = [pieces[i] for i in theirs.end_of_generation - ours.end_of_generation]
    read = _compare_tokens(reference, candidate, strings, True, [name for name in stops if name not in ours.added])
    as_text = _compare_tokens(reference, candidate, strings, False, [*stops, *ours.added])
    checks = [
        read.exact.check("tokens", "token ids of hard strings", "tokens_equal"),
        as_text.exact.check("tokens_as_text", "token ids, special tokens taken as text", "", _AS_TEXT),
        read.normalization.check("normalization", "strings that are not in normal form", "", _NORMALIZATION),
        read.by_name.check("special_by_name", "strings with a token that is special by its name", "", _BY_NAME),
        read.nul.check("nul", "strings with a NUL", "", _NUL),
        read.limits.check("limits", "strings that llama.cpp is known to read otherwise", "", known_limits.NOTE),
        read.libraries.check(
            "libraries", "strings the source's own libraries encode differently", "", _with_example(read.libraries)
        ),
    ]
    return [check for check in checks if check.total]


_AS_TEXT = "for information: what a runtime does with text that must not be read as markup"
_NORMALIZATION = "the source puts text into normal form (NFC) before it cuts it, this runtime does not: send NFC"
_BY_NAME = "llama.cpp takes tokens named like another model's end of text for special ones, whatever the file says"
_LIBRARIES = (
    "transformers builds this tokenizer anew from its class, and other libraries (tokenizers, sentencepiece) read its "
    "own file, as this runtime does: no failure of the output"
)
_NUL = "this runtime takes text as C does, to the first NUL: send none"


def _with_example(libraries: Counter) -> str:
    """What is said of libraries that disagree, with the shortest text on which they do."""
    shortest = min(libraries.differences, key=lambda d: len(d.what), default=None)
    if shortest is None:
        return _LIBRARIES
    return f"{_LIBRARIES}; {shortest.what} is {shortest.reference} there and {shortest.candidate} here"


@dataclass(frozen=True)
class _TokenCounters:
    """Differences, those of known limits of the runtime apart: each of them is proven string by string."""

    exact: Counter
    normalization: Counter
    by_name: Counter
    nul: Counter
    libraries: Counter
    limits: Counter


def _compare_tokens(
    reference: ReferenceSession, candidate: Session, strings: Sequence[str], special: bool, names: Sequence[str]
) -> _TokenCounters:
    counters = _TokenCounters(*(Counter() for _ in range(6)))
    ours = reference.identity()

    def both(text: str) -> tuple[list[int], list[int]]:
        return (
            reference.tokenize(text, add_special=special, parse_special=special),
            candidate.tokenize(text, add_special=special, parse_special=special),
        )

    for text in strings:
        wanted, got = both(text)
        normal, unnamed = unicodedata.normalize("NFC", text), _without(text, names)
        if wanted != got and normal != text and both(normal) == (wanted, wanted):
            counters.normalization.differ(quoted(text), ids_text(wanted), ids_text(got))
        elif wanted != got and unnamed != text and len(set(map(tuple, both(unnamed)))) == 1:
            counters.by_name.differ(quoted(text), ids_text(wanted), ids_text(got))
        elif wanted != got and "\0" in text and both(text.partition("\0")[0]) == (got, got):
            counters.nul.differ(quoted(text), ids_text(wanted), ids_text(got))
        elif wanted != got and special and reference.tokenize_by_file(text) == got:
            counters.libraries.differ(quoted(text), ids_text(wanted), ids_text(got))
        elif wanted != got and ours.gives != TEXT and _alike(both, known_limits.simpler(text, ours.added)):
            counters.limits.differ(quoted(text), ids_text(wanted), ids_text(got))
        else:
            counters.exact.compare(quoted(text), wanted, got, ids_text)
    return counters


def _alike(both: Callable[[str], tuple[list[int], list[int]]], texts: Iterable[str]) -> bool:
    """Whether one of the texts is encoded alike."""
    return any(wanted == got for wanted, got in map(both, texts))


def _without(text: str, names: Sequence[str]) -> str:
    for name in names:
        text = text.replace(name, "")
    return text


def _vocabulary(reference: Session, candidate: Session) -> Check:
    """The text of every id. An id that the source leaves unnamed (padding rows) may be called anything."""
    counter = Counter()
    theirs = candidate.pieces()
    for i, piece in enumerate(reference.pieces()):
        if piece:
            counter.compare(f"token {i}", piece, theirs[i] if i < len(theirs) else "no such id", repr)
    return counter.check("vocabulary", "text of every token id", "vocabulary_equal")


# ---- special tokens

ENDS_BY_NAME = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "[EOT]", "<end_of_utterance>", "<|eom_id|>"),
        *("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "_<EOT>", "<｜end▁of▁sentence｜>", "[e~["),
        *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>"),
    )
)
"""Texts of tokens at which llama.cpp ends a generation, whatever a file names (src/llama-vocab.cpp)."""


def _special_ids(ours: Identity, theirs: Identity, reference: Session, candidate: Session) -> Check:
    counter = Counter()
    counter.compare("vocabulary size", ours.vocab, theirs.vocab)
    one = (reference.tokenize("a", add_special=True), candidate.tokenize("a", add_special=True))
    counter.compare("BOS tokens put before a text", one[0].count(ours.bos), one[1].count(theirs.bos))
    counter.compare("EOS tokens put behind a text", one[0][1:].count(ours.eos), one[1][1:].count(theirs.eos))
    if ours.adds_bos:  # a model that never uses it may name any, or none
        counter.compare("BOS", ours.bos, theirs.bos)
    if ours.eos >= 0:
        counter.compare("EOS", ours.eos, theirs.eos)
    if ours.pad >= 0:
        counter.compare("PAD", ours.pad, theirs.pad)
    past = sorted(i for i in ours.end_of_generation if i >= ours.vocab)  # nothing can stop there
    ends, stops = ours.end_of_generation - set(past), theirs.end_of_generation
    counter.compare("ends of generation that are kept", sorted(ends), sorted(ends & stops))
    own_pieces, their_pieces = reference.pieces(), candidate.pieces()
    by_name = [i for i in stops - ends if i < len(their_pieces) and their_pieces[i] in ENDS_BY_NAME]
    if theirs.eot >= 0 and theirs.eot not in by_name:
        counter.compare("end of turn is one of the source's ends", True, theirs.eot in ends)
    for name, i in ours.image_ids.items():
        wanted = own_pieces[i] if i < len(own_pieces) else ""
        counter.compare(name, (i, wanted), (i, their_pieces[i] if i < len(their_pieces) else "no such id"), repr)
        counter.compare(f"{name} read in text", [i], candidate.tokenize(wanted), ids_text)
    note = "; ".join(filter(None, (_more_ends(stops - ends, their_pieces), _past(past, ours.vocab))))
    return counter.check("special_ids", "special tokens", "special_ids_equal", note)


def _past(ids: Sequence[int], vocab: int) -> str:
    """What the source names as an end and has no token for."""
    if not ids:
        return ""
    named = ", ".join(map(str, ids))
    return f"the source names {named} as an end, past its {vocab} tokens: correct eos_token_id in its configs"


def _more_ends(more: Iterable[int], pieces: Sequence[str]) -> str:
    """What a runtime takes for an end of generation beside the source's ends, and what follows from it."""
    names = [f"{pieces[i] if i < len(pieces) else ''} ({i})" for i in sorted(more)]
    if not names:
        return ""
    return (
        f"the runtime also ends a generation at {_shortened(', '.join(names))}, which it knows by name and the source "
        "does not name as an end: text stops there where the source would write on"
    )


# ---- templates


def _templates(reference: ReferenceSession, ours: Identity, theirs: Identity) -> Check:
    """The file's template, rendered by the engine that renders the source's: every byte."""
    counter = Counter()
    counter.compare("names of the templates", sorted(ours.templates), sorted(theirs.templates))
    if not ours.templates:
        return counter.check("templates", "chat template", "templates_equal", "the source has no chat template")
    for name in sorted(ours.templates.keys() & theirs.templates.keys()):
        counter.compare(f"text of the template '{name}'", ours.templates[name], theirs.templates[name], quoted)
    for talk in CONVERSATIONS:
        wanted = rendered(lambda talk=talk: reference.render(talk.messages, talk.tools, talk.generation_prompt))
        got = rendered(
            lambda talk=talk: reference.render(
                talk.messages, talk.tools, talk.generation_prompt, dict(theirs.templates)
            )
        )
        counter.compare(talk.name, wanted, got, quoted)
    return counter.check("templates", "chat template of the file, rendered by jinja2", "templates_equal")


def _runtime_templates(reference: ReferenceSession, candidate: Session, ours: Identity, theirs: Identity) -> Check:
    """The same conversations rendered by the runtime's own engine: what its users will get."""
    name, title, metric = (
        "templates_runtime",
        "chat template, rendered by the runtime itself",
        "templates_runtime_equal",
    )
    counter = Counter()
    if not (ours.templates and theirs.templates):
        return counter.check(name, title, "", "there is no chat template to render")
    if not theirs.own_templates:
        return counter.check(name, title, "", "does not apply: transformers renders for this runtime")
    bos = reference.pieces()[ours.bos] if ours.adds_bos else ""
    notes = dict.fromkeys(["left out: answers at the end, which the runtime continues"])
    for talk in CONVERSATIONS:
        if talk.messages[-1]["role"] == "assistant":
            continue
        wanted = rendered(reference.render, talk.messages, talk.tools, talk.generation_prompt)
        if talk.has_image:
            wanted = _marked(reference, wanted) if theirs.has_vision else ""
            if not wanted:
                notes["left out: images, which this output does not take or the source's template does not know"] = None
                continue
        try:
            got = rendered(candidate.render, *_sendable(talk))
        except Unsupported as error:
            return counter.check(name, title, "", f"not checked: {error}")
        if bos and wanted.startswith(bos) and not got.startswith(bos):
            wanted = wanted.removeprefix(bos)
            notes["the runtime leaves out the BOS of the template, its tokenizer adds it"] = None
        compare_rendered(counter, notes, talk.name, (wanted, got))
    return counter.check(name, title, metric, "; ".join(notes))


def _marked(reference: ReferenceSession, prompt: str) -> str:
    """The prompt with the marks that runtimes put for images; empty where the template wrote none that is known."""
    try:
        marked = reference.mark_images(prompt)
    except RuntimeFailure:
        return ""
    return marked if IMAGE_MARK in marked else ""


def compare_rendered(counter: Counter, notes: dict[str, None], name: str, texts: tuple[str, str]) -> None:
    """What the source's template and another engine made of one conversation; each refuses in words of its own."""
    refused = [text.startswith(REFUSED) for text in texts]
    if all(refused):
        counter.compare(name, True, True)
    elif refused[0]:
        notes[f"'{name}' is refused by the source's template and rendered by the runtime"] = None
    else:
        counter.compare(name, *texts, quoted)


REFUSED = "refused: "


def rendered(render: Callable[..., str], *asked: object) -> str:
    """The text, or that the template refused: a template may raise on purpose, and so must its copy."""
    try:
        return render(*asked)
    except (Unsupported, Endless):
        raise
    except RuntimeFailure as error:
        return f"{REFUSED}{error}"
    except Exception as error:  # jinja2's own errors, and whatever a template calls into
        return f"{REFUSED}{error}"


def _sendable(talk: Conversation) -> tuple[list[Message], Sequence[Message] | None, bool]:
    """The conversation as the runtime's API takes it: arguments of a call are a string there."""

    def message(m: Message) -> Message:
        calls = [
            {**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}}
            for c in m.get("tool_calls", ())
        ]
        return {**m, **({"tool_calls": calls} if calls else {})}

    return [message(m) for m in talk.messages], talk.tools, talk.generation_prompt


# ---- counting


class Counter:
    """Counts what is equal and keeps the first differences."""

    def __init__(self) -> None:
        self.total = self.equal = 0
        self.differences: list[Difference] = []

    def compare(self, what: str, reference: _Value, candidate: _Value, show: Callable[[_Value], str] = str) -> None:
        if reference == candidate:
            self.total, self.equal = self.total + 1, self.equal + 1
        elif isinstance(reference, str) and isinstance(candidate, str) and show is quoted:
            self.differ(what, *_where_they_part(reference, candidate))
        else:
            self.differ(what, show(reference), show(candidate))

    def differ(self, what: str, reference: str, candidate: str) -> None:
        self.total += 1
        if len(self.differences) < SHOWN:
            self.differences.append(Difference(what, reference, candidate))

    def check(self, name: str, title: str, metric: str, note: str = "") -> Check:
        return Check(name, title, self.total, self.equal, tuple(self.differences), metric, note)


def ids_text(ids: Iterable[int]) -> str:
    return _shortened(" ".join(map(str, ids)) or "nothing")


def quoted(text: str) -> str:
    """As a Python string, so that what does not show, and what looks like another character, is spelled out."""
    plain = unicodedata.is_normalized("NFC", text) and all(c.isprintable() for c in text.replace("\n", ""))
    return _shortened(repr(text) if plain else ascii(text))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _where_they_part(reference: str, candidate: str) -> tuple[str, str]:
    """Both texts from a little before the first character that differs."""
    pairs = zip(reference, candidate, strict=False)
    start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(reference), len(candidate)))
    start = max(0, start - 20)
    lead = "…" if start else ""
    return lead + quoted(reference[start:]), lead + quoted(candidate[start:])
