"""What is kept of a window's logits: the room, the error of KL that comes of it, and files that are not believed."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from validate import compressed_logits, drift
from validate.drift import NotComparable

VOCAB = 50_257
EVERYTHING = 1 << 40
A_RUN = compressed_logits.room_bytes(100 * 512)  # bytes a position has in a run of 100 windows of 512 tokens


def flat(count: int, vocab: int = VOCAB, seed: int = 0) -> np.ndarray:
    """Logits of no preference: nearly the whole vocabulary is likely."""
    return np.random.default_rng(seed).standard_normal((count, vocab)).astype(np.float32)


def peaked(count: int, vocab: int = VOCAB, seed: int = 0) -> np.ndarray:
    """Logits as a language model's: by rank like Zipf's law, sharper at some positions than at others."""
    rng = np.random.default_rng(seed)
    ranks = -np.log(np.arange(1, vocab + 1))
    rows = [rng.permutation(ranks) * sharpness for sharpness in rng.uniform(1.2, 3, count)]
    return (np.stack(rows) + 0.7 * rng.standard_normal((count, vocab))).astype(np.float32)


def noisy(logits_tv: np.ndarray, by: float = 0.045) -> np.ndarray:
    """A drift of about by² / 2: 1e-3 where left out."""
    return logits_tv + (np.random.default_rng(9).standard_normal(logits_tv.shape) * by).astype(np.float32)


def some_tokens(count: int, vocab: int = VOCAB) -> list[int]:
    return np.random.default_rng(1).integers(0, vocab, count).tolist()


@pytest.mark.parametrize(("made", "count"), [(flat, 96), (peaked, 48)])
def test_what_a_run_keeps_of_50k_tokens_errs_by_less_than_a_hundredth_at_kl_1e3(made: object, count: int) -> None:
    reference = made(count)  # type: ignore[operator]
    candidate, tokens = noisy(reference), some_tokens(count)
    kept = compressed_logits.compress(reference, tokens, A_RUN * count)
    assert not kept.whole
    assert kept.bytes <= A_RUN * count
    exact = drift.compare(compressed_logits.compress(reference, tokens, EVERYTHING), candidate, tokens)
    got = drift.compare(kept, candidate, tokens)
    assert 0.0005 < exact.kl.mean() < 0.0012
    assert got.kl.mean() == pytest.approx(exact.kl.mean(), rel=0.01)
    # The same numbers, whatever was kept.
    np.testing.assert_array_equal(got.same_top, exact.same_top)
    np.testing.assert_array_equal(got.top5, exact.top5)
    np.testing.assert_array_equal(got.nll_reference, exact.nll_reference)
    np.testing.assert_array_equal(got.nll_candidate, exact.nll_candidate)


def test_a_short_text_keeps_all_logits_and_no_error() -> None:
    reference, tokens = flat(64), some_tokens(64)
    kept = compressed_logits.compress(reference, tokens, 64 * compressed_logits.room_bytes(64))
    assert kept.whole
    assert (kept.tail_mass, kept.tokens_kept) == (0.0, VOCAB)
    assert np.shares_memory(kept.logits, reference), "a second copy"


def test_where_there_is_room_so_little_is_left_out_that_kl_is_a_lower_bound_within_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "_among_others", lambda *_: np.zeros(len(_[3])))
    reference, tokens = peaked(32), some_tokens(32)
    kept = compressed_logits.compress(reference, tokens, 32 * VOCAB * 4 - 1)
    assert 0 < kept.tail_mass_max <= compressed_logits.TAIL * 1.000001
    candidate = noisy(reference)
    exact = drift.compare(compressed_logits.compress(reference, tokens, EVERYTHING), candidate, tokens).kl
    bound = drift.compare(kept, candidate, tokens).kl
    assert (bound <= exact).all()
    assert (exact - bound).mean() < 3 * compressed_logits.TAIL * exact.mean()


def test_the_sample_makes_up_for_what_the_bound_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, tokens = flat(64, 20_000), some_tokens(64, 20_000)
    candidate = noisy(reference)
    kept = compressed_logits.compress(reference, tokens, 64 * 20_000)
    exact = drift.compare(compressed_logits.compress(reference, tokens, EVERYTHING), candidate, tokens).kl.mean()
    with monkeypatch.context() as patched:
        patched.setattr(drift, "_among_others", lambda *_: np.zeros(len(_[3])))
        bound = drift.compare(kept, candidate, tokens).kl.mean()
    assert bound < 0.7 * exact
    assert bound / exact == pytest.approx(1 - kept.tail_mass, rel=0.02)  # all tokens drift alike here
    assert drift.compare(kept, candidate, tokens).kl.mean() == pytest.approx(exact, rel=0.015)


@pytest.mark.parametrize("vocab", [3, 700, 70_000])
@pytest.mark.parametrize("room", [1, 6 * 2000, 6 * 20_000, EVERYTHING])
def test_a_model_is_no_distance_from_itself(vocab: int, room: int) -> None:
    reference, tokens = peaked(6, vocab), some_tokens(6, vocab)
    got = drift.compare(compressed_logits.compress(reference, tokens, room), reference.copy(), tokens)
    assert got.kl.max() < 1e-12
    assert (got.same_top.all(), got.top5.min(), got.logit_abs.max()) == (True, 1.0, 0.0)


def test_kept_are_the_most_likely_and_the_mass_of_the_others() -> None:
    reference = peaked(9, 4000)
    reference[4] = np.round(reference[4])  # many equals
    kept = compressed_logits.compress(reference, some_tokens(9, 4000), 9 * 3000)
    for i, row in enumerate(reference.astype(np.float64)):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        here = slice(kept.starts[i], kept.starts[i + 1])
        order = np.lexsort((np.arange(4000), -row))
        np.testing.assert_array_equal(kept.ids[here], order[: here.stop - here.start])
        np.testing.assert_array_equal(kept.logits[here], reference[i, kept.ids[here]])
        assert math.exp(kept.log_rest[i]) == pytest.approx(p[order[here.stop - here.start :]].sum(), rel=1e-9)
        assert set(kept.sample_ids[i].tolist()).isdisjoint(kept.ids[here].tolist())
        ids, probabilities = kept.top(i, 3)
        assert ids.tolist() == order[:3].tolist()
        np.testing.assert_allclose(probabilities, p[order[:3]], rtol=1e-12)
    np.testing.assert_array_equal(kept.best, reference.argmax(1))
    lengths = np.diff(kept.starts)
    assert (lengths == lengths.max()).sum() > 1, "the longest are cut to one length"
    assert kept.bytes <= 9 * 3000 < kept.bytes + 9 * 8


def test_the_sample_is_drawn_by_probability_though_positions_are_cut_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from validate import logits

    monkeypatch.setattr(logits, "CHUNK_VALUES", 800 * 7)  # room runs out again and again
    row = peaked(1, 800, seed=3)
    reference = np.repeat(row, 200, axis=0)
    kept = compressed_logits.compress(reference, [0] * 200, 200 * (32 + 256 * 6 + 50 * 6))
    p = np.exp(row[0].astype(np.float64) - row[0].max())
    p[kept.ids[: kept.starts[1]]] = 0
    p /= p.sum()
    got, wanted = np.bincount(kept.sample_ids.ravel(), minlength=800), p * kept.sample_ids.size
    often = wanted > 5
    assert often.sum() > 500
    squares = (got - wanted)[often] ** 2 / wanted[often]
    assert 0.8 < squares.mean() < 1.2, "chi-squared a degree of freedom"
    assert squares.max() < 5**2


@pytest.mark.parametrize("room", [1, EVERYTHING])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reference_that_is_not_finite_is_refused(value: float, room: int) -> None:
    reference = flat(30, 60)
    reference[20, 7] = value
    with pytest.raises(NotComparable, match="the reference's logits are not finite: 1 of 60 values at position 20"):
        compressed_logits.compress(reference, [0] * 30, room)
    with pytest.raises(NotComparable, match="logits of 30 positions for 29 tokens"):
        compressed_logits.compress(flat(30, 60), [0] * 29, room)


def test_rooms_of_all_tokens_stay_under_three_gigabytes() -> None:
    assert compressed_logits.room_bytes(51_200) * 51_200 < 3e9
    assert compressed_logits.room_bytes(1) == compressed_logits.room_bytes(0) == compressed_logits.ROOM_BYTES


# ---- files


@pytest.mark.parametrize(("vocab", "room"), [(900, EVERYTHING), (900, 1), (70_000, 1)])
def test_a_file_holds_what_was_kept(vocab: int, room: int, tmp_path: Path) -> None:
    tokens = some_tokens(12, vocab)
    kept = compressed_logits.compress(peaked(12, vocab), tokens, room)
    path = tmp_path / "a.npz"
    kept.save(path)
    again = compressed_logits.CompressedLogits.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert abs(path.stat().st_size - kept.bytes) < 4096
    assert (again.vocab, again.whole, again.bytes, again.tail_mass) == (vocab, kept.whole, kept.bytes, kept.tail_mass)
    candidate = noisy(peaked(12, vocab))
    for name, values in vars(drift.compare(kept, candidate, tokens)).items():
        np.testing.assert_array_equal(values, getattr(drift.compare(again, candidate, tokens), name))


def test_a_window_of_one_token_is_kept(tmp_path: Path) -> None:
    for room in (1, EVERYTHING):
        compressed_logits.compress(peaked(1, 900), [3], room).save(tmp_path / "one.npz")
        assert compressed_logits.CompressedLogits.load(tmp_path / "one.npz").count == 1


def _spoilt(kept: compressed_logits.CompressedLogits, name: str, at: object, value: object) -> dict[str, np.ndarray]:
    arrays = {n: np.array(getattr(kept, n)) for n in compressed_logits._ARRAYS} | {"vocab": np.int64(kept.vocab)}
    if at is None:
        arrays[name] = np.asarray(value)
    else:
        arrays[name][at] = value
    return arrays


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("vocab", None, [900, 1]),
        ("vocab", None, np.int64(20)),
        ("vocab", None, np.int64(-900)),
        ("ids", 3, 901),
        ("sample_ids", (2, 3), 901),
        ("ids", None, np.zeros(7, np.uint16)),
        ("ids", None, np.zeros(7)),
        ("logits", 4, np.nan),
        ("logits", 4, 1e9),
        ("logits", None, np.zeros((2, 2, 2), np.float32)),
        ("sample_logits", (1, 1), np.inf),
        ("starts", 2, 10**9),
        ("starts", 2, 1),
        ("starts", -1, 3),
        ("nll", 0, -5.0),
        ("nll", None, np.zeros(3)),
        ("log_rest", 0, 1.0),
        ("log_rest", 0, np.nan),
        ("logsumexp", 0, -100.0),
        ("logsumexp", None, np.float64(3)),
        ("logsumexp", None, np.empty(0)),
    ],
)
def test_a_file_with_something_impossible_in_it_is_refused(
    name: str, at: object, value: object, tmp_path: Path
) -> None:
    kept = compressed_logits.compress(peaked(12, 900), some_tokens(12, 900), 1)
    np.savez(tmp_path / "a.npz", **_spoilt(kept, name, at, value))
    with pytest.raises(ValueError, match="no file of compressed logits"):
        compressed_logits.CompressedLogits.load(tmp_path / "a.npz")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    kept = compressed_logits.compress(peaked(12, 900), some_tokens(12, 900), 1)
    kept.save(path)
    good = path.read_bytes()
    spoilt = bytearray(good)
    spoilt[len(good) // 3] ^= 1
    for content in (b"", b"x" * 1000, good[:-30], good[: len(good) // 2], bytes(spoilt)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no file of compressed logits"):
            compressed_logits.CompressedLogits.load(path)
    np.savez_compressed(path, **_spoilt(kept, "vocab", None, np.int64(900)))
    with pytest.raises(ValueError, match="compressed"):
        compressed_logits.CompressedLogits.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vocab.npy", b"no array")
    with pytest.raises(ValueError, match="no file of compressed logits"):
        compressed_logits.CompressedLogits.load(path)
    with pytest.raises(OSError, match="missing"):
        compressed_logits.CompressedLogits.load(tmp_path / "missing.npz")


def test_a_file_that_cannot_be_written_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        compressed_logits.compress(peaked(2, 900), [0, 1], 1).save(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
