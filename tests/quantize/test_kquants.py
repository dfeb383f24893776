"""The k-quants against ggml itself: the same bytes, whatever the values and their importance.

By hand, ten million weights of every type, plain and with importance:

    python -m tests.quantize.test_kquants [millions]
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from quantize.blocks import TYPES
from quantize.kquants import q2_k, q3_k, q4_k, q5_k, q6_k
from tests import processes
from tests.fixtures_quantize import CASES, IMPORTANCE, importance, oracle, rows

ENCODERS = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


def differing_blocks(name: str, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Positions of the blocks that are not ggml's."""
    encoded, expected = ENCODERS[name](values, weights), oracle(values, name, weights)
    assert encoded.dtype == np.uint8
    assert encoded.shape == expected.shape
    return np.flatnonzero((encoded != expected).reshape(-1, TYPES[name].bytes).any(axis=1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_equal_ggmls(name: str, case: str) -> None:
    assert not differing_blocks(name, rows(case), None).size


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_equal_ggmls_with_importance(name: str, case: str) -> None:
    differing = {of: differing_blocks(name, rows(case), importance(of)) for of in IMPORTANCE}
    assert not {of: blocks for of, blocks in differing.items() if blocks.size}


@pytest.mark.parametrize("shape", [(1, 256), (3, 256), (1, 256 * 65), (33, 512), (0, 256)])
@pytest.mark.parametrize("name", ENCODERS)
def test_any_number_of_blocks(name: str, shape: tuple[int, int]) -> None:
    values = rows("normal", shape)
    assert not differing_blocks(name, values, None).size
    assert not differing_blocks(name, values, importance("random", shape[1])).size


@pytest.mark.parametrize("name", ENCODERS)
def test_the_input_is_not_changed(name: str) -> None:
    values, weights = rows("normal"), importance("random")
    values.flags.writeable = weights.flags.writeable = False
    before = values.copy(), weights.copy()
    ENCODERS[name](values, weights)
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(weights, before[1])


def test_what_is_not_contiguous_is_encoded_as_it_reads() -> None:
    values = rows("normal", (6, 512))
    np.testing.assert_array_equal(q4_k(values[::2]), oracle(np.ascontiguousarray(values[::2]), "Q4_K"))


def test_a_row_of_broken_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of 300 values, Q6_K needs a multiple of 256"):
        q6_k(np.zeros((2, 300), np.float32))


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="512 weights for rows of 256 values"):
        q6_k(np.zeros((2, 256), np.float32), np.ones(512, np.float32))


@pytest.mark.parametrize("lanes", [3, 2])
def test_impossible_lane_counts_are_refused(lanes: int) -> None:
    environment = os.environ | {"QUANTIZE_LANES": str(lanes)}
    command = [sys.executable, "-c", "import quantize.simd"]
    run = processes.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode
    assert f"QUANTIZE_LANES={lanes}: want a power of two" in run.stderr


def compare_many(millions: float) -> int:
    """Prints, and returns, how many blocks differ over so many million weights of every type."""
    each = max(1, int(millions * 1e6 / 4096 / len(CASES)))
    total = 0
    for name in ENCODERS:
        for of in (None, *IMPORTANCE[:2]):
            bad, blocks = 0, 0
            for seed, case in enumerate((*CASES, "normal", "heavy tails"), start=10):
                values = rows(case, (each, 4096), seed)
                bad += differing_blocks(name, values, importance(of, 4096, seed) if of else None).size
                blocks += values.size // 256
            print(
                f"{name}  importance {of or 'none':10}  {blocks * 256:>11,} weights  {bad} differing blocks", flush=True
            )
            total += bad
    return total


if __name__ == "__main__":
    sys.exit(bool(compare_many(float(sys.argv[1]) if len(sys.argv) > 1 else 10)))
