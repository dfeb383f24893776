"""What each type would cost each matrix, as KL: some of its rows are encoded in the type and read back.

To second order the KL that a matrix W becoming W + D costs, mean over positions, is half of

    sum over rows r, columns c of  F[r] * D[r, c]^2 * S[c]

F being the Fisher information at the outputs and S the mean squares of what goes in (fisher.py). Products of different
columns are left out: what rounding does to one has little to do with what it does to another. Runtimes round what goes
into a matrix as well, to 8 bits a block of columns: that costs half of  F[r] * W[r, c]^2 * the square of what c loses.

Where nothing is known of F, the error counts relative to what the matrix gives, and numbers of two matrices compare
only as far as one holds that every matrix may lose the same share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from convert.needs import cores

SAMPLE_VALUES, FEWEST_ROWS = 1 << 19, 128  # of a matrix: more change a cost by less than a hundredth
HALF_PRECISION = {"F16": 2.0**-24 / 3, "BF16": 2.0**-18 / 3}  # mean square of a relative rounding error


@dataclass(frozen=True, eq=False)
class Weighing:
    """How errors of a matrix count, experts first; `rows` None where nothing is known of its outputs."""

    rows: np.ndarray | None  # (experts, outputs): F
    squares: np.ndarray  # (experts, columns): S
    rounding: Mapping[int, np.ndarray] = field(default_factory=dict)  # block -> (experts, columns), of what goes in

    def noise(self, block: int, kind: str) -> np.ndarray | None:
        """(experts, columns) what a runtime's rounding of the inputs adds to each; None where that is not known."""
        return self.squares * HALF_PRECISION[kind] if kind in HALF_PRECISION else self.rounding.get(block)


@dataclass(frozen=True)
class Candidate:
    """A type. `through` encodes float32 rows (rows, columns), with weights (columns,) or None, and reads them back."""

    name: str
    through: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    block: int = 0  # columns that the runtime rounds together to 8 bits before it multiplies; 0: it rounds none


@dataclass(frozen=True, eq=False)
class Matrix:
    """A tensor whose type is to be chosen, and all that decides what that costs.

    `rows_of` gives float32 of those of its rows (numbers over all experts, rising). A tied embedding has two
    `weighings`, as head and as embedding: their costs add up.
    """

    name: str
    experts: int
    outputs: int
    columns: int
    rows_of: Callable[[np.ndarray], np.ndarray]
    weighings: Sequence[Weighing]
    importance: np.ndarray | None = None  # (columns,) or (experts, columns): what encoders are given
    candidates: Sequence[Candidate] = ()


def costs(matrices: Iterable[Matrix], on_matrix: Callable[[str], None]) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, {type: cost}) of each matrix, in order; a few are in the making at a time, one a core."""
    with ThreadPoolExecutor(cores()) as pool:
        waiting = []
        for matrix in matrices:
            waiting.append((matrix.name, pool.submit(cost, matrix)))
            if len(waiting) > cores():
                name, future = waiting.pop(0)
                yield name, future.result()
                on_matrix(name)
        for name, future in waiting:
            yield name, future.result()
            on_matrix(name)


def cost(matrix: Matrix) -> dict[str, float]:
    """{type: cost} of one matrix, from a sample of its rows."""
    places, share = sample(matrix)
    rows = _Rows(matrix.rows_of(places), places // matrix.outputs, places % matrix.outputs, share)
    whole = [rows.whole(one) for one in matrix.weighings]
    found: dict[str, float] = {}
    for candidate in matrix.candidates:
        squares = np.square(rows.through(candidate, matrix.importance) - rows.values)
        each = [rows.weighed(squares, one, one.noise(candidate.block, candidate.name)) for one in matrix.weighings]
        found[candidate.name] = float(sum(lost / of for lost, of in zip(each, whole, strict=True)))
    return found


def sample(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of rows, and how many of the matrix' rows each stands for.

    Rows are taken by how much they count, those that count most all of them, the others at even distances: the sum
    over the sample, each row times what it stands for, is right in the mean (systematic sampling with probabilities
    in proportion to size; Madow 1949).
    """
    total = matrix.experts * matrix.outputs
    wanted = min(total, max(FEWEST_ROWS, SAMPLE_VALUES // matrix.columns))
    if wanted == total:
        return np.arange(total), np.ones(total)
    sizes = np.zeros(total)
    for one in matrix.weighings:
        rows = np.ones(total) if one.rows is None else one.rows.reshape(-1).astype(np.float64)
        sizes += rows / max(rows.sum(), 1e-300)
    sizes += sizes.mean() / 8  # a row that seems to count for nothing stands for others too, not for too many
    chance = _chances(sizes, wanted)
    places = np.flatnonzero(np.diff(np.floor(np.cumsum(chance) + 0.5), prepend=0.0) > 0)
    return places, 1 / chance[places]


def _chances(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """In proportion to the sizes, none above 1, `wanted` together."""
    chance = sizes * (wanted / sizes.sum())
    for _ in range(32):
        sure = chance >= 1
        rest = float(chance[~sure].sum())
        if rest == 0 or abs(sure.sum() + rest - wanted) < 0.5:
            break
        chance = np.where(sure, 1.0, chance * ((wanted - sure.sum()) / rest))
    return np.asarray(np.minimum(chance, 1.0))


@dataclass(frozen=True, eq=False)
class _Rows:
    """A sample of a matrix' rows: of which expert each is, which of its outputs, and how many rows it stands for."""

    values: np.ndarray
    experts: np.ndarray
    outputs: np.ndarray
    share: np.ndarray

    def through(self, candidate: Candidate, importance: np.ndarray | None) -> np.ndarray:
        """The rows read back, each expert's encoded with the importance of its own columns."""
        if importance is None or importance.ndim == 1:
            return candidate.through(self.values, importance)
        every = np.unique(self.experts)
        return np.concatenate([candidate.through(self.values[self.experts == e], importance[e]) for e in every])

    def weighed(self, squares: np.ndarray, weighing: Weighing, noise: np.ndarray | None) -> float:
        """Half of the sums above, of squared errors of the weights, and of what noise goes in."""
        total = 0.0
        for e in np.unique(self.experts):
            here = self.experts == e
            of_rows = squares[here] @ weighing.squares[e].astype(np.float64)
            if noise is not None:
                of_rows = of_rows + np.square(self.values[here]) @ noise[e].astype(np.float64)
            counts = self.share[here] * (1.0 if weighing.rows is None else weighing.rows[e, self.outputs[here]])
            total += float(counts @ of_rows)
        return total / 2

    def whole(self, weighing: Weighing) -> float:
        """What a cost is divided by: 1 where it is KL, else what the matrix gives."""
        if weighing.rows is not None:
            return 1.0
        every = (np.square(self.values) * weighing.squares[self.experts]).sum(1, dtype=np.float64)
        return max(float(self.share @ every), 1e-300)
