"""Parts of a text, each against the plain mean over its positions, and the classes of tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

from validate.drift import WindowDrift
from validate.slices import CLASSES, Slice, slices, token_class
from validate.spelling import spelled

PIECES = ["Ġthe", "7", "Ġ{", "ing", "Ċ", "Ð´Ð°", "<|im_end|>"]


def window(length: int, seed: int) -> tuple[WindowDrift, list[int]]:
    rng = np.random.default_rng(seed)
    nll = rng.gamma(1.0, size=length - 1)
    more = nll + 0.05 * rng.standard_normal(length - 1)
    drift = WindowDrift(
        rng.gamma(1.0, 0.01, length), rng.random(length) < 0.9, np.ones(length), np.ones(length), nll, more
    )
    return drift, rng.integers(0, len(PIECES) - 1, length).tolist()


def by_name(parts: list[Slice], kind: str) -> dict[str, Slice]:
    return {part.name: part for part in parts if part.kind == kind}


@pytest.fixture(scope="module")
def text() -> tuple[list[WindowDrift], list[list[int]], list[str]]:
    made = [window(300 - 20 * i, i) for i in range(6)]
    return [w for w, _ in made], [t for _, t in made], ["prose", "code"] * 3


def test_each_slice_has_the_means_of_its_positions(text: tuple[list[WindowDrift], list[list[int]], list[str]]) -> None:
    windows, tokens, sets = text
    parts = slices(windows, tokens, sets, PIECES.__getitem__)

    code = by_name(parts, "set")["code"]
    assert code.positions == 280 + 240 + 200
    assert code.kl_mean == pytest.approx(np.concatenate([windows[i].kl for i in (1, 3, 5)]).mean())
    assert code.top1 == pytest.approx(np.concatenate([windows[i].same_top for i in (1, 3, 5)]).mean())
    more = np.concatenate([windows[i].nll_candidate - windows[i].nll_reference for i in (1, 3, 5)])
    assert code.ppl_ratio == pytest.approx(math.exp(more.mean()))

    digits = by_name(parts, "class")["digits"]  # of the token that comes, not of the one that was read
    places = [(i, j) for i, ids in enumerate(tokens) for j, id_ in enumerate(ids[1:]) if id_ == 1]
    assert digits.positions == len(places)
    assert digits.kl_mean == pytest.approx(np.mean([windows[i].kl[j] for i, j in places]))
    changes = [windows[i].nll_candidate[j] - windows[i].nll_reference[j] for i, j in places]
    assert digits.ppl_ratio == pytest.approx(math.exp(np.mean(changes)))

    late = by_name(parts, "position")["256–299"]
    assert late.positions == 44 + 24 + 4
    assert late.kl_mean == pytest.approx(np.concatenate([w.kl[256:] for w in windows]).mean())
    for part in parts:
        if not math.isnan(part.kl_low):
            assert 0 <= part.kl_low < part.kl_mean < part.kl_high
    assert not math.isnan(code.kl_low)


def test_every_position_is_in_one_set_one_place_and_every_scored_one_in_one_class(
    text: tuple[list[WindowDrift], list[list[int]], list[str]],
) -> None:
    parts = slices(*text, PIECES.__getitem__)
    total = sum(len(w.kl) for w in text[0])
    for kind, positions in (("set", total), ("position", total), ("class", total - len(text[0]))):
        assert sum(part.positions for part in by_name(parts, kind).values()) == positions
    assert list(by_name(parts, "position")) == ["0–15", "16–63", "64–255", "256–299"]
    assert "special tokens" not in by_name(parts, "class")  # none in the text


def test_a_class_of_few_positions_is_left_out() -> None:
    drift, tokens = window(64, 0)
    tokens = [0] * 40 + [1] * 24
    tokens[30:40] = [4] * 10
    names = by_name(slices([drift], [tokens], ["a"], PIECES.__getitem__), "class")
    assert set(names) == {"words", "digits"}


def test_one_window_of_one_token_is_no_trouble() -> None:
    drift = WindowDrift(np.ones(1), np.ones(1, bool), np.ones(1), np.ones(1), np.empty(0), np.empty(0))
    parts = slices([drift], [[3]], ["a"], PIECES.__getitem__)
    assert [(p.kind, p.name, p.positions) for p in parts] == [("set", "a", 1), ("position", "0–0", 1)]
    assert math.isnan(parts[0].ppl_ratio)
    assert math.isnan(parts[0].kl_low)


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        *[(p, "special tokens") for p in ("<|im_start|>", "<s>", "</s>", "<tool_call>", "[INST]", "<start_of_turn>")],
        *[(p, "special tokens") for p in ("<|endoftext|>", "<|vision_start|>", "<｜User｜>")],
        *[(p, "whitespace") for p in ("Ġ", "ĊĊ", "▁▁", "ĠĠĠĠ", "<0x0A>", "ĉ")],
        *[(p, "digits") for p in ("7", "Ġ2024", "▁3", "٣")],
        *[(p, "JSON punctuation") for p in ('":', '"},', "Ġ{", "],", "}}", 'Ġ"', "\\")],
        *[(p, "other punctuation") for p in (".", ",", "Ġ(", "->", "'", "Ġ:", "…", "")],
        *[(p, "words") for p in ("Ġthe", "▁der", "ing", "é", "Ã©", "don't", "x1", "ếp", "<div>", "[i]")],
        *[(p, "other scripts") for p in ("Ð´Ð°", "дом", "▁日本", "ä½ł", "ðŁĺ", "<0xF0>")],
    ],
)
def test_classes_of_tokens(piece: str, name: str) -> None:
    assert name in CLASSES
    assert token_class(piece) == name


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ("Ġthe", " the"),
        ("▁the", " the"),
        ("ĊĊ", "\n\n"),
        ("<0x0A>", "\n"),
        ("<0xF0>", "‹F0›"),
        ("Ð´Ð°", "да"),
        ("да", "да"),
        ("é", "é"),
        ("ðŁĺ", "‹F0 9F 98›"),
        ("ðŁĺĢ", "😀"),
        ("", ""),
        ("<|im_end|>", "<|im_end|>"),
    ],
)
def test_spellings_of_both_kinds_of_vocabularies(piece: str, text: str) -> None:
    assert spelled(piece) == text
