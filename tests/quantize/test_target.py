"""Weights that make up for errors in their inputs."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.gptq import Inputs
from quantize.target import corrected

pytest.importorskip("torch")

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(size=(4096, 32)).astype(np.float32)
WEIGHT = RNG.normal(size=(16, 32)).astype(np.float32)


def test_a_mixing_of_the_inputs_is_undone() -> None:
    seen = CLEAN @ (np.eye(32) + 0.1 * RNG.normal(size=(32, 32))).astype(np.float32)
    gram = (seen.T @ seen / len(seen)).astype(np.float32)
    missing = (seen.T @ (CLEAN @ WEIGHT.T - seen @ WEIGHT.T) / len(seen)).astype(np.float32)

    def error(weight: np.ndarray) -> float:
        return float(np.square(seen @ weight.T - CLEAN @ WEIGHT.T).mean())

    assert error(corrected(WEIGHT, Inputs(gram), missing, ridge=1e-6)) < 1e-6 * error(WEIGHT)
    assert error(corrected(WEIGHT, Inputs(gram), missing)) < 0.2 * error(WEIGHT)


def test_nothing_missing_changes_nothing() -> None:
    gram = (CLEAN.T @ CLEAN / len(CLEAN)).astype(np.float32)
    assert np.array_equal(corrected(WEIGHT, Inputs(gram), np.zeros((32, 16), np.float32)), WEIGHT)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is \(32, 16\), not \(16, 32\)"):
        corrected(WEIGHT, Inputs(np.eye(32, dtype=np.float32)), WEIGHT)
