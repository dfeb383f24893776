"""The reference is asked once: what it said is found again by content, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.validate.stand_ins import SaysNothing
from validate.reference import Reference
from validate.runtimes import Identity

VOCAB = 50
ROOM = 1 << 20


class Source(SaysNothing):
    """Counts what it is asked."""

    def __init__(self, scale: float = 1.0) -> None:
        self.asked: list[str] = []
        self._table = scale * np.random.default_rng(3).normal(size=(VOCAB, VOCAB)).astype(np.float32)

    def identity(self) -> Identity:
        return Identity(VOCAB)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [ord(c) % VOCAB for c in text]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.asked.append("logits")
        return self._table[list(tokens)]

    def choices(self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        self.asked.append("choices")
        return [[7] * (len(draft) + 1) for draft in drafts]

    def image_choices(
        self, prompts: Sequence[str], images: Sequence[np.ndarray], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        self.asked.append("image_choices")
        return [[int(i.sum()) % VOCAB] * (len(d) + 1) for i, d in zip(images, drafts, strict=True)]

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        self.asked.append("image_embeddings")
        return pixels[:2, :, 0].astype(np.float32)

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        self.asked.append("image_logits")
        return self._table[len(prompt)]


PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def ask(reference: Reference) -> list[object]:
    kept = reference.compressed_logits([1, 2, 3])
    return [
        *(kept.top(place, 3)[0].tolist() for place in range(kept.count)),
        reference.choices([[1, 2], [3]], [[4, 4], []]),
        reference.image_choices(["a", "bc"], [PIXELS, PIXELS + 1], [[5], [5, 6]]),
        reference.image_embeddings(PIXELS).tolist(),
        reference.image_logits("abc", PIXELS).tolist(),
    ]


def test_a_second_run_asks_nothing_and_hears_the_same(tmp_path: Path) -> None:
    first, second = Source(), Source(scale=5.0)
    said = ask(Reference(first, tmp_path, "model", ROOM))
    assert sorted(first.asked) == ["choices", "image_choices", "image_embeddings", "image_logits", "logits"]
    assert ask(Reference(second, tmp_path, "model", ROOM)) == said
    assert second.asked == []


def test_another_model_is_another_question(tmp_path: Path) -> None:
    ask(Reference(Source(), tmp_path, "model", ROOM))
    other = Source()
    ask(Reference(other, tmp_path, "model, one weight changed", ROOM))
    assert len(other.asked) == 5


def test_other_tokens_and_other_pixels_are_other_questions(tmp_path: Path) -> None:
    source = Source()
    reference = Reference(source, tmp_path, "model", ROOM)
    reference.compressed_logits([1, 2, 3])
    reference.compressed_logits([1, 2, 4])
    reference.image_embeddings(PIXELS)
    reference.image_embeddings(PIXELS.reshape(2, 8, 3))  # the same bytes in another shape
    assert source.asked == ["logits", "logits", "image_embeddings", "image_embeddings"]
    reference.image_embeddings_by_rule(PIXELS)  # another question about the same image
    reference.image_embeddings_by_rule(PIXELS)
    assert source.asked[4:] == ["image_embeddings"]


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_broken_file_is_asked_for_again(tmp_path: Path, cut: int) -> None:
    said = ask(Reference(Source(), tmp_path, "model", ROOM))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:cut])
    again = Source()
    assert ask(Reference(again, tmp_path, "model", ROOM)) == said
    assert len(again.asked) == 5
    assert ask(Reference(Source(scale=9.0), tmp_path, "model", ROOM)) == said, "what was broken was written again"


@pytest.mark.parametrize(
    "written", ["{}", '["a"]', "[3.5]", "[true]", "[-1]", f"[{VOCAB}]", "[1, 2, 3, 4, 5]", "[[7], 7]", "[[1, 2]]"]
)
def test_tokens_that_nobody_wrote_are_asked_for_again(tmp_path: Path, written: str) -> None:
    said = ask(Reference(Source(), tmp_path, "model", ROOM))
    for path in tmp_path.glob("*.json"):
        path.write_text(written)
    assert ask(Reference(Source(), tmp_path, "model", ROOM)) == said


def test_an_array_of_another_shape_is_asked_for_again(tmp_path: Path) -> None:
    said = ask(Reference(Source(), tmp_path, "model", ROOM))
    for path in tmp_path.glob("*.npy"):
        np.save(path, np.zeros((1, 1, 1), np.float32))
    assert ask(Reference(Source(), tmp_path, "model", ROOM)) == said


@pytest.mark.parametrize("room", [ROOM, 4 * VOCAB - 1])
@pytest.mark.parametrize("other", [[1, 2, int(Source().logits([2]).argmax())], [1, 2, 3, 4]])
def test_the_logits_of_another_window_are_none_of_this(tmp_path: Path, other: list[int], room: int) -> None:
    Reference(Source(), tmp_path, "model", room).compressed_logits(other)
    (theirs,) = tmp_path.iterdir()
    Reference(Source(), tmp_path, "model", room).compressed_logits([1, 2, 3])
    (ours,) = (path for path in tmp_path.iterdir() if path != theirs)
    ours.write_bytes(theirs.read_bytes())
    again = Source()
    Reference(again, tmp_path, "model", room).compressed_logits([1, 2, 3])
    assert again.asked == ["logits"]


def test_a_longer_text_finds_what_a_shorter_one_kept_whole(tmp_path: Path) -> None:
    Reference(Source(), tmp_path, "model", ROOM).compressed_logits([1, 2, 3])
    again = Source()
    Reference(again, tmp_path, "model", ROOM // 2).compressed_logits([1, 2, 3])
    assert again.asked == []
    small = 4 * VOCAB - 1  # bytes a token: not all of them
    assert not Reference(again, tmp_path, "model", small).compressed_logits([1, 2, 3]).whole
    assert again.asked == ["logits"]


def test_what_nobody_asked_for_is_thrown_away(tmp_path: Path) -> None:
    ask(Reference(Source(), tmp_path, "old model", ROOM))
    reference = Reference(Source(), tmp_path, "model", ROOM)
    ask(reference)
    reference.forget_others()
    assert len(list(tmp_path.iterdir())) == 5
    untouched = Source()
    ask(Reference(untouched, tmp_path, "model", ROOM))
    assert untouched.asked == []


def test_without_a_folder_answers_are_kept_in_memory() -> None:
    source = Source()
    reference = Reference(source, None, "model", ROOM)
    ask(reference)
    ask(reference)
    assert len(source.asked) == 5
    reference.forget_others()


def test_what_was_kept_is_told(tmp_path: Path) -> None:
    reference = Reference(Source(), tmp_path, "model", ROOM)
    reference.compressed_logits([1, 2, 3])
    reference.compressed_logits([4, 5])
    cached = reference.cached()
    assert cached.whole
    assert (cached.tokens_kept, cached.tail_mass, cached.tail_mass_max) == (VOCAB, 0, 0)
    assert cached.bytes >= 5 * VOCAB * 4


def test_the_rest_is_the_sessions_own(tmp_path: Path) -> None:
    assert Reference(Source(), tmp_path, "model", ROOM).tokenize("ab") == [97 % VOCAB, 98 % VOCAB]
