"""What is kept of the reference's logits: all of them where there is room, else the likely tokens, and of the others
their mass and a random sample.

The others' mass P counts as one token's: KL between two distributions of which outcomes were put together is never
above the whole (the data-processing inequality; Cover and Thomas, Elements of Information Theory, 2.8). What that
leaves out is P times the KL among the others, which the sample estimates: drawn by probability, its mean of ln(p/q) is
that KL, and its mean of q/p is known to be 1, so most of the noise can be taken away (drift.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from validate.logits import NotComparable, check_finite, chunks, exponentials, largest

ROOM_BYTES = 2_900_000_000  # of a whole text: a 152k vocabulary and 100 windows of 512 stay under 3 GB
# Mass that is not kept where there is room for it. Less leaves flat positions less room, and more of them is estimated;
# with 1e-2 it shows what a sample misses. `python -m tests.bench.reference_cache` measures it.
TAIL = 1e-3
ALWAYS = 5  # most likely tokens that are kept whatever the room: top-5 agreement needs them
SAMPLE = 256  # of the other tokens, at each position
SEED = 20
_STEP, _BINS = 8, 1024  # bins a nat, in which the mass is counted to know which tokens are worth sorting


def room_bytes(tokens: int) -> int:
    """What one of so many tokens may take."""
    return ROOM_BYTES // max(1, tokens)


@dataclass(frozen=True)
class CompressedLogits:
    """A window of the reference. Where it is `whole`, `logits` is (token, vocab) and what stands below `nll` is empty.

    Else both are the positions' tokens one behind the other, each position's by falling logit, among equals the lower
    id first: position i has those from `starts[i]` to `starts[i + 1]`.
    """

    vocab: int
    logits: np.ndarray = field(repr=False)  # float32, as the runtime gave them
    logsumexp: np.ndarray = field(repr=False)  # float64 (token,), over the whole vocabulary
    log_rest: np.ndarray = field(repr=False)  # float64 (token,): ln of the mass not kept, -inf where there is none
    nll: np.ndarray = field(repr=False)  # float64 (token - 1,): -ln p of the text's own next token, kept or not
    ids: np.ndarray = field(repr=False)  # uint16 where the vocabulary allows, else uint32
    starts: np.ndarray = field(repr=False)  # int64 (token + 1,)
    sample_ids: np.ndarray = field(repr=False)  # as `ids` (token, SAMPLE): others, by their probability, may repeat
    sample_logits: np.ndarray = field(repr=False)  # float32 (token, SAMPLE)

    @property
    def count(self) -> int:
        """Positions."""
        return len(self.logsumexp)

    @property
    def whole(self) -> bool:
        return self.logits.ndim == 2

    @property
    def bytes(self) -> int:
        """In memory; a file has a kilobyte more."""
        return sum(vars(self)[name].nbytes for name in _ARRAYS)

    @property
    def tail_mass(self) -> float:
        """Probability of the tokens that were not kept, mean over positions."""
        return float(np.exp(self.log_rest).mean())

    @property
    def tail_mass_max(self) -> float:
        return float(np.exp(self.log_rest).max())

    @property
    def tokens_kept(self) -> float:
        """Of the vocabulary, mean over positions."""
        return float(self.vocab) if self.whole else len(self.ids) / self.count

    @cached_property
    def likely(self) -> np.ndarray:
        """int64 (token, 5): the most likely tokens of every position, fewer where the vocabulary has no five."""
        number = min(ALWAYS, self.vocab)
        if not self.whole:
            return np.asarray(self.ids[self.starts[:-1, None] + np.arange(number)], np.int64)
        return np.concatenate([largest(self.logits[rows], number) for rows in chunks(self.count, self.vocab)])

    @property
    def best(self) -> np.ndarray:
        """int64 (token,): the most likely token of every position, the lowest id among equals."""
        first: np.ndarray = self.likely[:, 0]
        return first

    def top(self, position: int, number: int = ALWAYS) -> tuple[np.ndarray, np.ndarray]:
        """Ids and probabilities of a position's most likely tokens, at most five."""
        ids = self.likely[position][:number]
        if self.whole:
            logits = self.logits[position, ids]
        else:
            logits = self.logits[self.starts[position] : self.starts[position] + len(ids)]
        return ids, np.exp(logits.astype(np.float64) - self.logsumexp[position])

    def is_of(self, tokens: Sequence[int]) -> bool:
        """Whether this can be of these tokens: as many of them, and as likely as `nll` says."""
        if len(tokens) != self.count:
            return False
        return all(self._may_follow(i, id_, nll) for i, (id_, nll) in enumerate(zip(tokens[1:], self.nll, strict=True)))

    def _may_follow(self, position: int, id_: int, nll: float) -> bool:
        """Whether a token can have this -ln p; one that was not kept is no likelier than the last that was."""
        if self.whole:
            return bool(abs(self.logsumexp[position] - self.logits[position, id_] - nll) <= _ROUNDING)
        here = slice(self.starts[position], self.starts[position + 1])
        found = np.flatnonzero(self.ids[here] == id_)
        logit = self.logits[here][found[0] if len(found) else -1]
        more = nll - (self.logsumexp[position] - logit)
        return bool(abs(more) <= _ROUNDING if len(found) else more >= -_ROUNDING)

    def save(self, path: Path) -> None:
        """Write a file that is either whole or not there."""
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, vocab=np.int64(self.vocab), **{name: vars(self)[name] for name in _ARRAYS})
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> CompressedLogits:
        """What `save` wrote; ValueError for anything else, OSError where there is no file."""
        try:
            with zipfile.ZipFile(path) as archive:
                size = path.stat().st_size
                vocab = _member(archive, "vocab", ("<i8",), size)
                arrays = {name: _member(archive, name, types, size) for name, types in _ARRAYS.items()}
            compressed = CompressedLogits(int(vocab), **arrays)
            wrong = _wrong(compressed)
        except (ValueError, zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, TypeError) as error:
            wrong = str(error)
        if wrong:
            raise ValueError(f"{path} is no file of compressed logits: {wrong}")
        return compressed


# ---- compressing


def compress(logits_tv: np.ndarray, tokens: Sequence[int], room: int) -> CompressedLogits:
    """What is kept of a window's logits (token, vocab) in about `room` bytes, computed a few rows at a time.

    Where not all logits fit: at each position the most likely tokens until the others' mass is at most TAIL. Where
    that does not fit either, the positions that have most tokens are cut to one length. Raises NotComparable for any
    NaN or infinity.
    """
    count, vocab = logits_tv.shape
    if count != len(tokens):
        raise NotComparable(f"logits of {count} positions for {len(tokens)} tokens")
    logits_tv = np.ascontiguousarray(logits_tv, np.float32)
    whole = logits_tv.nbytes <= room
    sums, nll, rows = np.empty(count), np.empty(max(0, count - 1)), _Rows(vocab, count, room)
    for here in chunks(count, vocab):
        part = logits_tv[here]
        check_finite(part, "the reference's", here.start)
        exp_tv, top, sums[here] = exponentials(part)
        following = np.asarray(tokens[here.start + 1 : here.stop + 1], np.int64)
        scored = np.arange(len(following))
        nll[here.start : here.start + len(following)] = sums[here][scored] - part[scored, following]
        if not whole:
            rows.add(part, exp_tv, top)
    if whole:
        none = np.full(count, -np.inf)
        no_ids = np.empty(0, np.uint16)
        empty = no_ids, np.empty(0, np.int64), no_ids.reshape(0, SAMPLE), np.empty((0, SAMPLE), np.float32)
        return CompressedLogits(vocab, logits_tv, sums, none, nll, *empty)
    return rows.compressed(sums, nll)


@dataclass
class _Row:
    """What is kept of a position, while it may still be cut."""

    ids: np.ndarray
    logits: np.ndarray
    rest: float  # sum of exp(logit - the largest) over the tokens not kept
    sample_ids: np.ndarray
    sample_logits: np.ndarray

    def cut(self, length: int, rng: np.random.Generator) -> None:
        """Keep only the first tokens; each place of the sample goes to one that is cut by its share of the mass."""
        ids, logits = self.ids[length:], self.logits[length:]
        self.ids, self.logits = self.ids[:length].copy(), self.logits[:length].copy()
        mass = np.exp(logits.astype(np.float64) - float(self.logits[0]))
        self.rest += float(mass.sum())
        new = np.flatnonzero(rng.random(SAMPLE) * self.rest < mass.sum())
        drawn = _draw(mass, len(new), rng)
        self.sample_ids[new], self.sample_logits[new] = ids[drawn], logits[drawn]


class _Rows:
    """The tokens kept of one position after the other; never more than the room, whatever comes."""

    def __init__(self, vocab: int, count: int, room: int) -> None:
        self._vocab, self._type = vocab, np.dtype(np.uint16 if vocab <= 1 << 16 else np.uint32)
        token = 4 + self._type.itemsize
        self._room = (room - 32 * count) // token - SAMPLE * count  # sum, rest, next token, start: 8 bytes each
        self._rows: list[_Row] = []
        self._rng = np.random.default_rng(SEED)

    def add(self, logits_tv: np.ndarray, exp_tv: np.ndarray, top: np.ndarray) -> None:
        """Take in some rows; `exp_tv` is used up."""
        for row, exp_row, largest_logit in zip(logits_tv, exp_tv, top, strict=True):
            ids = _most_likely(row, exp_row, np.float32(largest_logit))
            exp_row[ids] = 0
            drawn = _draw(exp_row, SAMPLE, self._rng)
            compressed = ids.astype(self._type), row[ids], float(exp_row.sum())
            self._rows.append(_Row(*compressed, drawn.astype(self._type), row[drawn]))
        lengths = np.array([len(row.ids) for row in self._rows])
        if lengths.sum() > self._room:
            length = _common_length(lengths, self._room)
            for long in np.flatnonzero(lengths > length):
                self._rows[long].cut(length, self._rng)

    def compressed(self, sums: np.ndarray, nll: np.ndarray) -> CompressedLogits:
        """All positions together."""
        rows = self._rows
        starts = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64)
        logits = np.concatenate([row.logits for row in rows])
        with np.errstate(divide="ignore"):
            log_rest = np.log([row.rest for row in rows]) + logits[starts[:-1]] - sums
        ids, sample_ids = np.concatenate([row.ids for row in rows]), np.stack([row.sample_ids for row in rows])
        sample_logits = np.stack([row.sample_logits for row in rows])
        return CompressedLogits(self._vocab, logits, sums, log_rest, nll, ids, starts, sample_ids, sample_logits)


def _draw(mass: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """So many places, each by its mass; one may come up often. The last where there is no mass."""
    reached = np.cumsum(mass)
    return np.asarray(np.searchsorted(reached, rng.random(number) * reached[-1], side="right")).clip(max=len(mass) - 1)


def _most_likely(row: np.ndarray, exp_row: np.ndarray, top: np.float32) -> np.ndarray:
    """Ids of the fewest tokens that leave no more than TAIL, falling; at least ALWAYS.

    Sorting 152k values at every position takes minutes a text. So the mass is counted in bins of logits first, and only
    the tokens of the bins that are needed are sorted.
    """
    wanted, number = (1 - TAIL) * exp_row.sum(), min(ALWAYS, len(row))
    below = np.minimum((top - row) * _STEP, _BINS - 1).astype(np.int32)
    mass, tokens = np.bincount(below, exp_row, _BINS), np.bincount(below, minlength=_BINS)
    enough = (np.cumsum(mass) >= wanted) & (np.cumsum(tokens) >= number)
    some = np.flatnonzero(below <= (enough.argmax() if enough.any() else _BINS))
    some = _sorted(row, some)
    return some[: max(number, int(np.searchsorted(np.cumsum(exp_row[some]), wanted)) + 1)]


def _sorted(row: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The ids by falling logit, among equals the lower first.

    Logit and id make one whole number, which numpy sorts ten times as fast as it sorts indices. The bits of floats rise
    with their values when those of negative ones are turned over and the others get the highest bit.
    """
    bits = (np.float32(0) - row[ids]).view(np.uint32)  # 0 minus: no zero is negative
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64) << np.uint64(32)
    keys |= ids.astype(np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _common_length(lengths: np.ndarray, room: int) -> int:
    """The largest length to which positions may be cut so that all have room, but no less than ALWAYS."""
    low, high = ALWAYS, int(lengths.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= room else (low, middle - 1)
    return low


# ---- files

_ARRAYS: dict[str, tuple[str, ...]] = {  # name -> types
    "logits": ("<f4",),
    "logsumexp": ("<f8",),
    "log_rest": ("<f8",),
    "nll": ("<f8",),
    "ids": ("<u2", "<u4"),
    "starts": ("<i8",),
    "sample_ids": ("<u2", "<u4"),
    "sample_logits": ("<f4",),
}


def _member(archive: zipfile.ZipFile, name: str, types: tuple[str, ...], size: int) -> np.ndarray:
    """An array of an .npz file, believed no more bytes than the file of `size` has; zipfile checks its CRC."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
        raise ValueError(f"{name} is compressed, or longer than the file")
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
            raise ValueError(f"{name} is of another version of numpy's format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        length = prod(shape) * dtype.itemsize
        if fortran or dtype.str not in types or min(shape, default=1) < 0 or file.tell() + length != info.file_size:
            raise ValueError(f"{name} has shape {shape} of {dtype}, wanted {' or '.join(types)}")
        return np.frombuffer(file.read(), dtype).reshape(shape)


def _wrong(compressed: CompressedLogits) -> str:
    """What cannot be in the arrays, empty when nothing is: shapes first, then ranges."""
    count, vocab = len(compressed.logsumexp), compressed.vocab
    shapes = {
        "logsumexp": (compressed.logsumexp.shape, (count,)),
        "log_rest": (compressed.log_rest.shape, (count,)),
        "nll": (compressed.nll.shape, (max(0, count - 1),)),
        "ids": (compressed.ids.shape, (0,) if compressed.whole else compressed.logits.shape),
        "starts": (compressed.starts.shape, (0,) if compressed.whole else (count + 1,)),
        "sample_ids": (compressed.sample_ids.shape, (0 if compressed.whole else count, SAMPLE)),
        "sample_logits": (compressed.sample_logits.shape, (0 if compressed.whole else count, SAMPLE)),
        "logits": (compressed.logits.shape, (count, vocab) if compressed.whole else (len(compressed.logits),)),
    }
    for name, (got, wanted) in shapes.items():
        if got != wanted or not count:
            return f"{name} has shape {got}, wanted {wanted}"
    for name in ("logits", "logsumexp", "nll", "sample_logits"):
        if not np.isfinite(vars(compressed)[name]).all():
            return f"{name} is not finite"
    if not (compressed.log_rest <= _ROUNDING).all() or not (compressed.nll >= -_ROUNDING).all():
        return "a probability is above 1"
    return "" if compressed.whole else _wrong_tokens(compressed)


_ROUNDING = 1e-6  # of a sum of probabilities


def _wrong_tokens(compressed: CompressedLogits) -> str:
    lengths, fewest = np.diff(compressed.starts), min(ALWAYS, compressed.vocab)
    if (
        compressed.starts[0]
        or compressed.starts[-1] != len(compressed.ids)
        or lengths.min() < fewest
        or lengths.max() > compressed.vocab
    ):
        return "starts do not lead through the tokens"
    highest = max(int(compressed.ids.max()), int(compressed.sample_ids.max()))
    if highest >= compressed.vocab:
        return f"id {highest} of a vocabulary of {compressed.vocab}"
    rises = np.flatnonzero(np.diff(compressed.logits) > 0) + 1
    if (
        not np.isin(rises, compressed.starts).all()
        or (compressed.logits[compressed.starts[:-1]] > compressed.logsumexp + _ROUNDING).any()
    ):
        return "logits of a position do not fall"
    return ""
