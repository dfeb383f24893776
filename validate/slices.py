"""Drift over parts of the positions, so that it shows where it comes from: a language, digits, the end of a window."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from validate.drift import WindowDrift
from validate.spelling import spelled
from validate.statistics import Blocks, interval

FEWEST = 20  # positions of a class; fewer say nothing about it
PLACES = (0, 16, 64, 256, 1024, 4096, 16384)  # where slices of a window begin

Kind = Literal["set", "class", "position"]


@dataclass(frozen=True)
class Slice:
    """Drift over some positions; NaN where there is no telling, as an interval of too few blocks of text."""

    kind: Kind
    name: str
    positions: int
    kl_mean: float
    kl_low: float
    kl_high: float
    top1: float
    ppl_ratio: float


def slices(
    windows: Sequence[WindowDrift],
    tokens: Sequence[Sequence[int]],
    sets: Sequence[str],
    pieces: Callable[[int], str],
) -> list[Slice]:
    """By input set, by class of the token that is to be predicted, by place in the window.

    `tokens` and `sets` (the name of its input set) are of each window; `pieces` spells an id as the vocabulary does.
    """
    text = _Text(windows)
    return [*_by_set(windows, sets), *_by_class(text, tokens, pieces), *_by_place(text)]


class _Text:
    """All windows, one behind the other."""

    def __init__(self, windows: Sequence[WindowDrift]) -> None:
        lengths = [len(w.kl) for w in windows]
        self.blocks = Blocks.of(lengths)
        self.places = np.concatenate([np.arange(length) for length in lengths])
        self._kl = np.concatenate([w.kl for w in windows])
        self._same_top = np.concatenate([w.same_top for w in windows])
        self._more = np.full(len(self._kl), np.nan)  # the last position of a window has no next token
        self._more[self.blocks.scored] = np.concatenate([w.nll_candidate - w.nll_reference for w in windows])

    def part(self, kind: Kind, name: str, chosen: np.ndarray) -> Slice:
        """The slice of the positions `chosen`, of which there is at least one."""
        kl, more = self._kl[chosen], self._more[chosen & self.blocks.scored]
        low, high = interval(np.maximum(self.blocks.part(chosen).means(kl), 0.0))
        ratio = float(np.exp(more.mean())) if len(more) else float("nan")
        return Slice(kind, name, len(kl), float(kl.mean()), low, high, float(self._same_top[chosen].mean()), ratio)


def _by_set(windows: Sequence[WindowDrift], sets: Sequence[str]) -> Iterator[Slice]:
    for name in dict.fromkeys(sets):
        text = _Text([window for window, of in zip(windows, sets, strict=True) if of == name])
        yield text.part("set", name, np.ones(len(text.places), bool))


def _by_class(text: _Text, tokens: Sequence[Sequence[int]], pieces: Callable[[int], str]) -> Iterator[Slice]:
    following = [id_ for window in tokens for id_ in window[1:]]
    names = {id_: token_class(pieces(id_)) for id_ in set(following)}
    classes = np.full(len(text.places), "", dtype=object)
    classes[text.blocks.scored] = [names[id_] for id_ in following]
    for name in CLASSES:
        chosen = np.asarray(classes == name, bool)
        if chosen.sum() >= FEWEST:
            yield text.part("class", name, chosen)


def _by_place(text: _Text) -> Iterator[Slice]:
    for start, end in zip(PLACES, [*PLACES[1:], 1 << 62], strict=True):
        chosen = (text.places >= start) & (text.places < end)
        if chosen.any():
            yield text.part("position", f"{start}–{min(end, int(text.places.max()) + 1) - 1}", chosen)


# ---- classes of tokens

_SPECIAL = re.compile(
    r"<\|[^\s|]*\|>|<｜[^\s｜]*｜>|\[/?[A-Z_]{3,}\]"
    r"|</?(s|unk|pad|bos|eos|mask|cls|sep|tool_call|tool_response|think|(start|end)_of_\w+|(fim|vision|image)_?\w*)>"
)
_JSON = re.compile(r"""[:,]*[{}\[\]"\\][{}\[\]"\\:,]*""")  # a comma or a colon alone is prose's too
_BYTES = re.compile(r"‹[0-9A-F ]+›")
_LATIN_END = 0x24F  # Latin Extended-B; what follows but for Vietnamese and the like is another script
_MORE_LATIN = range(0x1E00, 0x1F00)


def token_class(piece: str) -> str:
    """One of CLASSES, of a token as its vocabulary spells it."""
    text = spelled(piece)
    bare = text.strip()
    return next(name for name, fits in CLASSES.items() if fits(bare if name != _WHITESPACE else text))


def _other_script(text: str) -> bool:
    letters = (ord(c) for c in text if c.isalpha())
    return bool(_BYTES.fullmatch(text)) or any(c > _LATIN_END and c not in _MORE_LATIN for c in letters)


_WHITESPACE = "whitespace"

CLASSES: dict[str, Callable[[str], bool]] = {  # the first that fits counts
    "special tokens": lambda bare: bool(_SPECIAL.fullmatch(bare)),
    _WHITESPACE: lambda text: text.isspace(),
    "digits": lambda bare: bare.isdigit(),
    "JSON punctuation": lambda bare: bool(_JSON.fullmatch(bare)),
    "other scripts": _other_script,
    "words": lambda bare: any(c.isalpha() for c in bare),
    "other punctuation": lambda _: True,
}
