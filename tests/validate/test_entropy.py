"""The change of entropy: by hand for two tokens, and estimated where the reference is not kept whole."""

from __future__ import annotations

import numpy as np
import pytest

from validate.compressed_logits import compress
from validate.measures.entropy import of_logits, of_reference


def test_of_two_tokens_it_is_what_one_computes_by_hand() -> None:
    even, sure = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    wanted = [np.log(2), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)]
    assert of_logits(np.array([even, sure + 7], np.float32)) == pytest.approx(wanted, abs=1e-6)


def test_where_not_all_is_kept_it_is_estimated() -> None:
    rng = np.random.default_rng(0)
    logits_tv = (4 * rng.standard_normal((8, 20_000))).astype(np.float32)
    tokens = list(range(8))
    whole, part = compress(logits_tv, tokens, 1 << 30), compress(logits_tv, tokens, 400_000)
    assert whole.whole
    assert not part.whole
    assert of_reference(whole) == pytest.approx(of_logits(logits_tv))
    assert of_reference(part) == pytest.approx(of_logits(logits_tv), rel=0.02)
