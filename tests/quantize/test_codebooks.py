"""The codebooks against gguf-py's, and the lists of near entries against all distances."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.codebooks import COUNT_SHIFT, codebook

NAMES = {"IQ1_S": 3, "IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 1, "IQ3_XXS": 2, "IQ3_S": 3}


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_gguf_pys(name: str) -> None:
    from gguf import quants

    theirs = getattr(quants, name)
    theirs.init_grid()
    levels = np.searchsorted(theirs.grid_map, theirs.grid.reshape(theirs.grid_shape))
    np.testing.assert_array_equal(codebook(name).levels, levels)


@pytest.mark.parametrize(("name", "distances"), NAMES.items())
def test_near_entries(name: str, distances: int) -> None:
    book = codebook(name)
    base, size = (8, 4) if name.startswith("IQ3") else (3, 8)
    bits = 3 if base == 8 else 2
    for number in np.random.default_rng(0).integers(0, base**size, 200).tolist():
        point = np.array([number // base**i % base for i in range(size)])
        apart = np.square(book.levels.astype(int) - point).sum(axis=1)
        count, at = divmod(int(book.lists[number]), 1 << COUNT_SHIFT)
        if apart.min() == 0:
            assert (count, int(book.numbers[at])) == (0, int(apart.argmin()))
            continue
        limit = np.unique(apart)[:distances].max()
        wanted = sorted(np.flatnonzero(apart <= limit).tolist(), key=lambda entry: (apart[entry], entry))
        assert book.numbers[book.codes[at : at + count]].tolist() == wanted
        codes = (book.levels[wanted].astype(int) << bits * np.arange(size)).sum(axis=1)
        assert book.codes[at : at + count].tolist() == codes.tolist()


def test_words_hold_odd_numbers() -> None:
    book = codebook("IQ3_S")
    numbers = book.words[:, None] >> np.arange(0, 16, 4) & 15
    np.testing.assert_array_equal(numbers, 2 * book.levels + 1)
