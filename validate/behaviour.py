"""What a runtime does with a model, beside computing: where it stops writing, and what it makes of an image's size.

What it does by a rule of its own, which no file changes, is told and not held against a file: each time it is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from validate import vision
from validate.contract import Check, Counter, Difference, ids_text, quoted
from validate.drift import NotComparable
from validate.errors import RuntimeFailure, Unsupported
from validate.runtimes.base import ReferenceSession, Session
from validate.vision import ImageAnswer, ImageDrift

STOP_TOKENS = 8  # asked for where one is expected
TAIL_TOKENS = 12  # of a prompt, that are shown

# ---- stop tokens


@dataclass(frozen=True)
class Stop:
    """A text, and the end of generation that the reference thinks likeliest behind it."""

    tokens: Sequence[int]
    end: int


def stop_check(stops: Sequence[Stop], candidate: Session) -> Check:
    """Whether a runtime stops at the ends of generation of the source.

    Only texts count behind which it writes one: where it writes another token first, its weights have drifted, which is
    measured elsewhere.
    """
    counter, ends, others = Counter(), {stop.end for stop in stops}, 0
    for stop in stops:
        written = candidate.generate(stop.tokens, STOP_TOKENS)
        if written and written[0] not in ends:
            others += 1
            continue
        what = f"after {quoted(candidate.detokenize(stop.tokens[-TAIL_TOKENS:]))}"
        counter.compare(what, written[:1] or [stop.end], written, ids_text)
    note = f"another token came first in {others} of {len(stops)} texts: these are not counted" if others else ""
    return counter.check("stops", "stop tokens end a generation", "stops_equal", note)


# ---- image sizes

_SCREENS = ((640, 480), (800, 600), (1280, 720), (1366, 768), (1920, 1080), (2560, 1440), (3840, 2160))
_PHONES = ((390, 844), (1080, 2400))
_HALVES = ((2.5, 2.5), (6.5, 4), (12.5, 7.5))  # sides half way between two multiples of a token's
_RUNTIME_TOKENS = 4096  # llama.cpp's limit for Qwen2.5-VL: clip.cpp, set_limit_image_tokens(8, 4096)
_MAX_PIXELS = 20_000_000  # no larger image is made for it

_HALF = "sides half way between two multiples are rounded up by this runtime, and to an even multiple by the source"
_SILENT = "the output names no pixel limits: the runtime takes its own"
_RULE_TITLE = "image sizes that the runtime cuts by a rule of its own"
_NOT_IN_FILE = "not in the file: the runtime takes its own"
_CAP = f"this runtime gives an image at most {_RUNTIME_TOKENS} tokens: send larger ones in a size that has no more"


def image_checks(reference: ReferenceSession, candidate: Session) -> list[Check]:
    """How many tokens images of many sizes become, and the pixel limits that files name, where both do.

    Known limits of a runtime are counted apart, each proven size by size.
    """
    counters = _Counters(Counter(), Counter(), Counter(), Counter())
    ours, theirs = reference.identity().pixel_limits, candidate.identity().pixel_limits
    if ours and theirs:
        counters.exact.compare("pixel limits", ours, theirs)
    for width, height in image_sizes(reference.image_unit, ours):
        _compare_size(reference, candidate, (width, height), counters)
    silent = "" if theirs or not ours else _SILENT
    if silent and counters.exact.differences:
        counters.exact.differences.insert(0, Difference("pixel limits", str(ours), _NOT_IN_FILE))
    checks = [
        counters.exact.check("image_tokens", "image tokens of images by size", "image_tokens_equal", silent),
        counters.half.check("image_half_sides", "image sizes half way between two multiples", "", _HALF),
        counters.cap.check("image_cap", f"images of more than {_RUNTIME_TOKENS} tokens", "", _CAP),
        counters.rule.check("image_sizes_by_rule", _RULE_TITLE, "", "; ".join(counters.sentences)),
    ]
    return [check for check in checks if check.total]


@dataclass(frozen=True)
class _Counters:
    exact: Counter
    half: Counter
    cap: Counter
    rule: Counter
    sentences: dict[str, None] = field(default_factory=dict)  # about `rule`


def _compare_size(reference: ReferenceSession, candidate: Session, size: tuple[int, int], counters: _Counters) -> None:
    what, unit = f"{size[0]} x {size[1]}", reference.image_unit
    wanted, got = reference.image_tokens(*size), _asked(candidate, size)
    if wanted == got:
        counters.exact.compare(what, wanted, got)
        return
    by_rule = reference.image_tokens_by_rule(*size)
    if by_rule is not None and by_rule == (got if isinstance(got, int) else 0):
        counters.rule.compare(what, wanted, got)
        counters.sentences[reference.image_rules(*size)[-1]] = None
        return
    raised = (_raised(size[0], unit), _raised(size[1], unit))
    upwards = reference.image_tokens(*raised)
    if raised != size and got == upwards:
        counters.half.compare(what, wanted, got)
    elif upwards > _RUNTIME_TOKENS and got == _capped(size, unit, _RUNTIME_TOKENS):
        counters.cap.compare(what, wanted, got)
    else:
        counters.exact.compare(what, wanted, got)


def _asked(candidate: Session, size: tuple[int, int]) -> int | str:
    """The candidate's answer, or its words: it refuses a size, and goes on with the next."""
    try:
        return candidate.image_tokens(*size)
    except Unsupported:
        raise
    except RuntimeFailure as error:
        return str(error)


def _raised(side: int, unit: int) -> int:
    """The side whose nearest multiple, of two as near, is the upper one; at least one unit."""
    return max(unit, side + (side % unit == unit / 2))


def _capped(size: tuple[int, int], unit: int, tokens: int) -> int:
    """The tokens of an image that is scaled down to at most so many, as the source scales down to its own limit."""
    scale = math.sqrt(size[0] * size[1] / (tokens * unit * unit))
    columns, rows = (max(1, math.floor(side / scale / unit)) for side in size)
    return columns * rows


def image_sizes(unit: int, limits: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Width and height of the images to ask for: screens, extremes, and sizes on both sides of the pixel limits."""
    sizes = [*_SCREENS, *_PHONES, *((round(w * unit), round(h * unit)) for w, h in _HALVES)]
    sizes += [(1, 1), (unit, unit), (unit, 150 * unit), (150 * unit, unit), (unit - 5, 40 * unit + 3), (300, 20)]
    for limit in limits or ():
        side = math.isqrt(limit)
        sizes += [(s, s) for s in (side - unit, side - 1, side, side + 1, side + unit, 2 * side)]
        sizes += [(2 * side + 9, side // 2), (side // 2, 2 * side + 9)]
    return [(w, h) for w, h in dict.fromkeys(sizes) if w > 0 and h > 0 and w * h <= _MAX_PIXELS]


# ---- images that a runtime sees by rules of its own


def compare_images(
    answers: Sequence[ImageAnswer], candidate: Session, by_rule: bool
) -> tuple[list[ImageDrift], list[Check]]:
    """Differences of every image, and what the runtime's own rules make of some, which is no failure of the file.

    `by_rule`: the runtime is the one whose rules the source knows. Such an image is shown to both sides as both see it
    alike, which proves the file; what is left between the runtime and the source is told beside it.
    """
    counter, rules = Counter(), dict[str, None]()
    drifts: list[ImageDrift] = []
    for answer in answers:
        if answer.by_rule is None or not by_rule:
            drifts.append(vision.compare_image(answer, candidate))
            continue
        plain, words = _plainly(answer, candidate)
        alike = vision.compare_image(answer.by_rule, candidate)
        if plain is not None and plain.cosine_min >= alike.cosine_min:  # the runtime has lost the rule
            drifts.append(plain)
            continue
        drifts.append(alike)
        rules |= dict.fromkeys(answer.rules)
        counter.differ(answer.name, "as the source sees it", words)
    note = f"{'; '.join(rules)}: measured is the image as both see it alike, whatever this runtime then makes of it"
    check = counter.check("images_by_rule", "images that the runtime sees by rules of its own", "", note)
    return drifts, [check] if check.total else []


def _plainly(answer: ImageAnswer, candidate: Session) -> tuple[ImageDrift | None, str]:
    """What the runtime makes of an image that nobody prepared, beside what the source makes of it; and in words."""
    try:
        drift = vision.compare_image(answer, candidate)
    except NotComparable as error:
        return None, str(error)
    apart = f"cosine {drift.cosine_min:.4f} of the worst token's embedding, KL {drift.kl:.2g} of the next token"
    return drift, apart
