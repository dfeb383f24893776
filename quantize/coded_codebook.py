"""IQ2 and IQ3 taken apart: levels are entries of a codebook with signs; layouts are drawn in codebook_quants.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from quantize.blocks import TYPES
from quantize.codebooks import codebook
from quantize.coded import Coded, Layout, half_bytes, halves, nibbles, packed_nibbles

# A value is d * (2 * l + 1) * magnitude; what ggml's tables hold is 8, 4 and 1 times that.
_MAGNITUDES: Mapping[str, tuple[float, ...]] = {
    "IQ2": (1.0, 3.125, 5.375),
    "IQ3_XXS": (1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.5),
    "IQ3_S": (1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0),
}
_SEVENS = np.arange(0, 28, 7, dtype=np.uint32)

Fields = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Numbers of entries uint16 (count, groups), signs uint8 (count, 32), scales uint8 (count, blocks): l of 2 * l + 1."""


def _layout(name: str, width: int, read: Callable[[np.ndarray], Fields], write: Callable[..., np.ndarray]) -> Layout:
    magnitudes = np.array(_MAGNITUDES.get(name, _MAGNITUDES["IQ2"]), np.float32)
    book = codebook(name)
    entries = magnitudes[book.levels]
    places = len(magnitudes) ** np.arange(entries.shape[1])

    def unpack(blocks: np.ndarray) -> Coded:
        numbers, signs, tops = read(blocks)
        negative = np.unpackbits(signs, axis=1, bitorder="little")
        levels = entries[numbers].reshape(len(blocks), -1)
        d, scales = halves(blocks, 0), 2 * tops.astype(np.float32) + 1
        return Coded(np.where(negative == 1, -levels, levels), d, np.zeros_like(d), scales, np.zeros_like(scales))

    def pack(coded: Coded) -> np.ndarray:
        digits = np.searchsorted(magnitudes, np.abs(coded.levels)).reshape(len(coded.levels), -1, len(places))
        numbers = book.lists[digits @ places].astype(np.uint16)
        signs = np.packbits(coded.levels < 0, axis=1, bitorder="little")
        return np.concatenate(
            [half_bytes(coded.d), write(numbers, signs, ((coded.scales - 1) / 2).astype(np.uint8))], 1
        )

    return Layout(
        TYPES[name], width, -int(magnitudes[-1]), int(magnitudes[-1]), unpack, pack, (1, 31), step=2, book=entries,
        even=name in ("IQ2_XXS", "IQ2_XS", "IQ3_XXS"),
    )  # fmt: skip


def _eight_signs(seven: np.ndarray) -> np.ndarray:
    """uint8 of seven signs: the eighth makes the number of negative ones even."""
    odd = np.bitwise_count(seven.astype(np.uint8)) & 1
    return np.asarray(seven.astype(np.uint8) | odd.astype(np.uint8) << 7)


def _read_words(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signs and l of words: four times 7 signs, l highest."""
    words = np.ascontiguousarray(words).view("<u4").reshape(len(words), -1)
    return _eight_signs(words[:, :, None] >> _SEVENS & 127).reshape(len(words), -1), (words >> 28).astype(np.uint8)


def _words(signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    four = (signs.reshape(len(signs), -1, 4) & 127).astype(np.uint32) << _SEVENS
    words = four.sum(2, dtype=np.uint32) | tops.astype(np.uint32) << 28
    return np.asarray(words.astype("<u4").view(np.uint8))


def _read_iq2_xxs(blocks: np.ndarray) -> Fields:
    parts = blocks[:, 2:].reshape(len(blocks), 8, 8)
    signs, tops = _read_words(parts[:, :, 4:].reshape(len(blocks), -1))
    return parts[:, :, :4].reshape(len(blocks), -1).astype(np.uint16), signs, tops


def _write_iq2_xxs(numbers: np.ndarray, signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    count = len(numbers)
    parts = numbers.astype(np.uint8).reshape(count, 8, 4), _words(signs, tops).reshape(count, 8, 4)
    return np.asarray(np.concatenate(parts, 2)).reshape(count, -1)


def _read_iq2_xs(blocks: np.ndarray) -> Fields:
    both = np.ascontiguousarray(blocks[:, 2:66]).view("<u2")
    return both & 511, _eight_signs(both >> 9), nibbles(blocks[:, 66:], 1)


def _write_iq2_xs(numbers: np.ndarray, signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    both = (numbers | (signs & 127).astype(np.uint16) << 9).astype("<u2").view(np.uint8)
    return np.concatenate([both, packed_nibbles(tops, 1)], 1)


def _read_iq2_s(blocks: np.ndarray) -> Fields:
    high = blocks[:, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    numbers = blocks[:, 2:34] | high.reshape(len(blocks), -1).astype(np.uint16) << 8
    return numbers, blocks[:, 34:66], nibbles(blocks[:, 74:], 1)


def _write_iq2_s(numbers: np.ndarray, signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    high = (numbers >> 8).astype(np.uint8).reshape(len(numbers), 8, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    parts = numbers.astype(np.uint8), signs, np.bitwise_or.reduce(high, axis=2), packed_nibbles(tops, 1)
    return np.concatenate(parts, 1)


def _read_iq3_xxs(blocks: np.ndarray) -> Fields:
    signs, tops = _read_words(blocks[:, 66:])
    return blocks[:, 2:66].astype(np.uint16), signs, tops


def _write_iq3_xxs(numbers: np.ndarray, signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    return np.concatenate([numbers.astype(np.uint8), _words(signs, tops).reshape(len(numbers), -1)], 1)


def _read_iq3_s(blocks: np.ndarray) -> Fields:
    ninth = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    return blocks[:, 2:66] | ninth << 8, blocks[:, 74:106], nibbles(blocks[:, 106:], 1)


def _write_iq3_s(numbers: np.ndarray, signs: np.ndarray, tops: np.ndarray) -> np.ndarray:
    ninth = np.packbits(numbers >> 8 & 1, axis=1, bitorder="little")
    return np.concatenate([numbers.astype(np.uint8), ninth, signs, packed_nibbles(tops, 1)], 1)


LAYOUTS: Mapping[str, Layout] = {
    "IQ2_XXS": _layout("IQ2_XXS", 32, _read_iq2_xxs, _write_iq2_xxs),
    "IQ2_XS": _layout("IQ2_XS", 16, _read_iq2_xs, _write_iq2_xs),
    "IQ2_S": _layout("IQ2_S", 16, _read_iq2_s, _write_iq2_s),
    "IQ3_XXS": _layout("IQ3_XXS", 32, _read_iq3_xxs, _write_iq3_xxs),
    "IQ3_S": _layout("IQ3_S", 32, _read_iq3_s, _write_iq3_s),
}
