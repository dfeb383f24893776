"""Long texts of our own with facts in them that are asked for at the end: what a cache that rounds forgets first.

The text is made of sentences that say nothing about numbers; between them stand facts ("The code of the copper
lighthouse is 48213."), and its end says them again in another order. Nothing is generated: the model reads the answers
too, and what it expects in their places is looked at. Made from one seed, so that the same model reads the same text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from validate.logits import check_finite, exponentials
from validate.runtimes.base import Session

FACTS = 10  # of a text that has room for them
SHORTEST = 1024  # tokens of the first text, where the model reads as many
_SEED = 11
_FEWEST = 2  # facts that are worth asking for
_TAIL_SHARE = 0.6  # of a text that facts and questions may take
_CLOSE = 48  # tokens below the length, at which a text is as long as wanted

_ADJECTIVES = ("copper", "quiet", "northern", "crooked", "painted", "hollow", "amber", "narrow", "windy", "marble")
_PLACES = (
    "lighthouse",
    "orchard",
    "station",
    "bakery",
    "harbour",
    "library",
    "windmill",
    "theatre",
    "garden",
    "bridge",
)
_WHO = ("The gardener", "A neighbour", "Her brother", "The old captain", "A young teacher", "The postman", "My aunt")
_DID = ("walked slowly past", "had always liked", "painted a picture of", "wrote a letter about", "waited beside")
_WHAT = ("the river", "a small boat", "the empty square", "an apple tree", "the stone wall", "a row of houses")
_WHEN = ("before the rain came", "while the bells rang", "on a warm evening", "as the market closed", "every spring")
_THEN = ("and nobody minded.", "and then went home.", "which surprised the children.", "without any hurry.")


@dataclass(frozen=True)
class Haystack:
    """A text in tokens, and of each fact the places at its end at which the answer's tokens stand."""

    tokens: Sequence[int]
    answers: Sequence[range]

    @property
    def wanted(self) -> list[int]:
        """The places whose logits say what is expected in the answers': the ones before, rising."""
        return sorted(place - 1 for answer in self.answers for place in answer)


def lengths(limit: int, longest: int | None) -> list[int]:
    """1,024 tokens, twice as many and so on, and at last as many as the model reads, or as are asked for."""
    last = min(limit, longest or limit)
    found = [SHORTEST << i for i in range(32) if SHORTEST << i < last]
    return [*found, last]


def haystack(reference: Session, length: int) -> Haystack | None:
    """A text of at most `length` tokens, nearly as many; None where there is no room for two facts."""
    identity = reference.identity()
    lead = [identity.bos] if identity.adds_bos else []
    for count in range(FACTS, _FEWEST - 1, -1):
        draw = random.Random(f"{_SEED} {length}")
        facts = _facts(draw, count)
        tail, answers = _tail(reference.tokenize, draw.sample(facts, count))
        room = length - len(lead) - len(tail)
        if len(reference.tokenize(" ".join(facts))) + len(tail) > _TAIL_SHARE * length:
            continue
        body = _body(reference.tokenize, draw, facts, room)
        start = len(lead) + len(body)
        moved = [range(start + answer.start, start + answer.stop) for answer in answers]
        return Haystack([*lead, *body, *tail], moved)
    return None


def _facts(draw: random.Random, count: int) -> list[str]:
    places = draw.sample(_PLACES, count)
    kinds = draw.sample(_ADJECTIVES, count)
    return [
        f"The code of the {a} {p} is {draw.randrange(10_000, 100_000)}." for a, p in zip(kinds, places, strict=True)
    ]


def _tail(tokenize: Callable[[str], list[int]], facts: Sequence[str]) -> tuple[list[int], list[range]]:
    """The end of the text, and where in it the tokens of each answer stand."""
    text, answers = "\n\nOnce more, the codes that stand in this text:", []
    for fact in facts:
        text += f"\n{fact.rpartition(' ')[0]}"
        start = len(tokenize(text))
        text += f" {fact.rpartition(' ')[2]}"
        answers.append(range(start, len(tokenize(text.removesuffix(".")))))
    return tokenize(text), answers


def _body(tokenize: Callable[[str], list[int]], draw: random.Random, facts: Sequence[str], room: int) -> list[int]:
    """The sentences with the facts between them, evenly from the first on, in at most `room` tokens."""
    sentences = [_sentence(draw) for _ in range(room // 4)]  # more than fit
    sample = " ".join(sentences[:64])
    each = max(1.0, len(tokenize(sample)) / max(1, len(sentences[:64])))
    count, ids = int(room / each), list[int]()
    for _ in range(12):
        count = max(0, min(count, len(sentences)))
        ids = tokenize(_woven(sentences[:count], facts))
        left = room - len(ids)
        if count == 0 or 0 <= left < _CLOSE:
            break
        count += int(left / each) or (1 if left > 0 else -1)
        if left < 0:
            count -= 1
    return ids[: max(0, room)]


def _woven(sentences: Sequence[str], facts: Sequence[str]) -> str:
    """Facts at 0, 1/n, 2/n … of the sentences."""
    parts = list[str]()
    for number, fact in enumerate(facts):
        here, following = (len(sentences) * (number + i) // len(facts) for i in (0, 1))
        parts += [fact, *sentences[here:following]]
    return " ".join(parts)


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(words) for words in (_WHO, _DID, _WHAT, _WHEN, _THEN))


# ---- what a model expects in the answers' places


def found(text: Haystack, logits_wv: np.ndarray) -> tuple[int, float]:
    """How many answers are expected to the letter, and the mean log-probability of one.

    `logits_wv` are those (wanted, vocab) of `text.wanted`. Raises NotComparable where they are not finite.
    """
    check_finite(logits_wv, "the cache's")
    rows = {place: row for row, place in enumerate(text.wanted)}
    hits, total = 0, 0.0
    for answer in text.answers:
        mine = logits_wv[[rows[place - 1] for place in answer]]
        ids = [text.tokens[place] for place in answer]
        hits += int((mine.argmax(1) == ids).all())
        total += float((mine[np.arange(len(ids)), ids].astype(np.float64) - exponentials(mine)[2]).sum())
    return hits, total / len(text.answers)
