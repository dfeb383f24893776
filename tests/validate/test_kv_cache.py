"""Types of the key-value cache: their names, the texts with facts, llama.cpp's own caches, and the measure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from tests import tiny
from tests.fixtures_validate import convert_tiny, weights
from tests.validate.stand_ins import SaysNothing
from validate import kv_cache, memory, needles, runtimes
from validate.kv_cache import EXACT, PLAIN, CacheQuestion, CacheSize, CacheTypes
from validate.measurement import Candidate, Measurement, Questions
from validate.measures import kv_cache as measure
from validate.measures.base import Comparison, RunningCandidate
from validate.reference import Reference
from validate.runtimes import Ability, Identity, RuntimeFailure, _llama_api, llama_cpp
from validate.runtimes._llama_cache import GGML_TYPES
from validate.runtimes.base import ModelSettings

Q8_0, Q4_0 = CacheTypes.parse("q8_0"), CacheTypes.parse("q4_0")

# ---- names


def test_a_word_is_one_type_for_both_or_k_before_v() -> None:
    assert CacheTypes.parse("q8_0") == CacheTypes("q8_0", "q8_0")
    assert CacheTypes.parse("q8_0/q4_0") == CacheTypes("q8_0", "q4_0")
    assert [str(CacheTypes.parse(word)) for word in ("q8_0", "q8_0/q8_0", "q8_0/f16")] == ["q8_0", "q8_0", "q8_0/f16"]
    assert all(types.flash_attention for types in CacheQuestion([Q8_0]).rows)
    assert CacheQuestion([Q8_0, PLAIN]).rows == [PLAIN, Q8_0]


@pytest.mark.parametrize("word", ["q8", "Q8_0", "q4_K", "f16/", "f16/q9", "/f16", "", "f16/f16/f16"])
def test_what_llama_cpp_has_not_is_refused_with_those_it_has(word: str) -> None:
    if word == "f16/":
        assert CacheTypes.parse(word) == PLAIN  # nothing behind the slash is nothing more to say
        return
    with pytest.raises(ValueError, match="only f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl") as caught:
        CacheTypes.parse(word)
    assert ("did you mean 'q8_0'?" in str(caught.value)) == (word in ("q8", "Q8_0"))


def test_the_numbers_of_the_types_are_ggmls() -> None:
    import ctypes

    name = _llama_api.library().ggml_type_name
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.c_int]
    assert set(GGML_TYPES) == set(kv_cache.NAMES)
    for word, number in GGML_TYPES.items():
        assert name(number).decode() == word


# ---- texts with facts


class Letters(SaysNothing):
    """A token for every word, and one for every digit."""

    def identity(self) -> Identity:
        return Identity(1 << 16, bos=1, adds_bos=True)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [2 + hash_of(piece) for piece in re.findall(r" ?[0-9]| ?[a-zA-Z]+|[^a-zA-Z0-9 ]", text)]


def hash_of(piece: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(piece)) % 60_000


def test_lengths_double_until_the_models_own() -> None:
    assert needles.lengths(8192, None) == [1024, 2048, 4096, 8192]
    assert needles.lengths(40_960, None)[-2:] == [32_768, 40_960]
    assert needles.lengths(8192, 3000) == [1024, 2048, 3000]
    assert needles.lengths(2048, 9999) == [1024, 2048]
    assert needles.lengths(128, None) == [128]


@pytest.mark.parametrize("length", [300, 1024, 4096])
def test_a_text_is_as_long_as_asked_and_every_fact_stands_in_it_twice(length: int) -> None:
    text = needles.haystack(Letters(), length)
    assert text is not None
    assert length - 64 < len(text.tokens) <= length
    assert text.tokens[0] == 1  # BOS, as before every window
    assert text == needles.haystack(Letters(), length)
    assert len(text.answers) == needles.FACTS if length >= 1024 else 2 <= len(text.answers) < needles.FACTS
    for answer in text.answers:
        ids = [text.tokens[place] for place in answer]
        assert len(ids) == 5  # digits
        runs = [i for i in range(len(text.tokens)) if list(text.tokens[i : i + 5]) == ids]
        assert len(runs) == 2
        assert runs[1] == answer.start
    assert text.wanted == sorted(text.wanted)
    firsts = [list(text.tokens).index(text.tokens[answer.start]) for answer in text.answers]
    assert firsts != sorted(firsts)  # not asked in the order in which they stand there


def test_there_is_no_text_where_two_facts_have_no_room() -> None:
    assert needles.haystack(Letters(), 48) is None


def test_an_answer_is_found_when_all_its_tokens_are_the_likeliest() -> None:
    text = needles.Haystack([5, 6, 7, 1, 2, 3, 1], [range(3, 5), range(6, 7)])
    assert text.wanted == [2, 3, 5]
    logits = np.zeros((3, 8), np.float32)
    logits[0, 1] = logits[1, 2] = logits[2, 1] = 100
    assert needles.found(text, logits) == (2, pytest.approx(0))
    logits[1, 4] = 101  # the second token of the first answer is another now
    hits, log_probability = needles.found(text, logits)
    assert hits == 1
    assert log_probability == pytest.approx((-1 - np.log1p(np.exp(-1))) / 2, abs=0.01)


# ---- llama.cpp


@pytest.fixture(scope="module")
def wide_heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A Qwen2 whose heads are whole blocks of 32 values."""
    return convert_tiny(tiny.tiny_qwen2, tmp_path_factory.mktemp("wide"), ["F32"], heads=2, kv_heads=2)


@pytest.fixture(scope="module")
def session(wide_heads: dict[str, Bundle]) -> Iterator[Any]:
    with runtimes.open_session(llama_cpp.RUNTIME, weights(wide_heads, "F32").path, context=64, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(session: Any) -> list[int]:
    ids: list[int] = session.tokenize("the quick brown fox jumps over the lazy dog " * 12)[:64]
    return ids


def read(session: Any, types: CacheTypes, tokens: Sequence[int]) -> np.ndarray:
    session.open_cache(types, len(tokens))
    found: np.ndarray = session.read_cached(tokens, range(len(tokens)))
    return found


def test_each_type_is_a_cache_of_its_own(session: Any, tokens: list[int]) -> None:
    """Were the type not handed on, all these would be equal."""
    from validate.drift import kl

    assert session.can(Ability.CACHE_TYPES)
    exact = session.logits(tokens)
    assert kl(exact, read(session, EXACT, tokens)).mean() < 1e-9
    plain, q8_0, q4_0, mixed = (
        kl(exact, read(session, types, tokens)).mean() for types in (PLAIN, Q8_0, Q4_0, CacheTypes("q8_0", "q4_0"))
    )
    assert 0 < plain < q8_0 < mixed
    assert q8_0 < q4_0
    assert kl(exact, read(session, CacheTypes("q4_0", "q8_0"), tokens)).mean() not in (mixed, q4_0, q8_0)


def test_a_text_read_in_parts_gives_what_it_gives_at_once(session: Any, tokens: list[int]) -> None:
    whole = read(session, Q8_0, tokens)
    session.open_cache(Q8_0, len(tokens))
    first = session.read_cached(tokens[:40], [3, 39])
    second = session.read_cached(tokens[40:], [0])
    none = session.open_cache(Q8_0, 4) or session.read_cached(tokens[:4], [])
    assert none.shape == (0, whole.shape[1])
    np.testing.assert_allclose(np.concatenate([first, second]), whole[[3, 39, 40]], atol=0.05)
    with pytest.raises(RuntimeFailure, match="65 tokens for a cache of 64"):
        session.open_cache(Q8_0, 64) or session.read_cached([*tokens, tokens[0]], [0])


def test_the_bytes_of_a_cache_are_those_that_its_state_has(wide_heads: dict[str, Bundle], tokens: list[int]) -> None:
    """What the log says of an empty cache, and what llama.cpp would save of the tokens in one."""
    with llama_cpp.RUNTIME.open(weights(wide_heads, "F32").path, context=64, threads=1) as session:
        by_type = {}
        for types in (EXACT, PLAIN, Q8_0, Q4_0):
            per_token = session.cache_size(types, 4096).cache_bytes / 4096
            session.open_cache(types, 64)
            sizes = []
            for part in (tokens[:8], tokens[8:]):
                session.read_cached(part, [])
                sizes.append(session._other_caches().state_bytes())
            saved = (sizes[1] - sizes[0]) / 56 - 12  # a cell's position, how many sequences it is of, and which
            assert per_token == pytest.approx(saved, abs=0.01 * 2**20 / 4096)  # the log has hundredths of a MiB
            by_type[types] = saved
        assert by_type[EXACT] == 2 * by_type[PLAIN]
        assert by_type[Q8_0] == by_type[EXACT] * 34 / 128
        assert by_type[Q4_0] == by_type[EXACT] * 18 / 128


def test_a_size_takes_no_memory(session: Any) -> None:
    size = session.cache_size(EXACT, 1 << 20)
    assert size.cache_bytes > 500e6
    assert size.compute_bytes > 0
    free = memory.free_bytes()
    assert free is None or session.cache_size(EXACT, 1 << 22).cache_bytes > 2e9


def test_a_head_that_no_block_divides_is_refused_in_llama_cpps_words(tmp_path: Path) -> None:
    bundles = convert_tiny(tiny.tiny_llama, tmp_path, ["F32"], hidden=48, heads=2)
    path = weights(bundles, "F32").path
    with runtimes.open_session(llama_cpp.RUNTIME, path, context=64, threads=1) as session:
        assert session.cache_size(PLAIN, 64).refused == ""
        refused = session.cache_size(Q8_0, 64)
        assert refused.cache_bytes == 0
        assert "block size 32 does not divide n_embd_head_k=24" in refused.refused
        result = measured(session, [Q8_0, PLAIN])
    assert result.failures == []
    assert result.kv_cache is not None
    exact, plain, row = result.kv_cache.rows
    assert "n_embd_head_k=24" in row.reason
    assert (row.bytes_1k, row.kl, row.needles) == (None, None, ())
    assert plain.kl is not None
    assert exact.kl is None
    assert result.metrics["kv_cache_kl"] == plain.kl


def test_a_cache_of_another_type_than_asked_is_a_failure(
    wide_heads: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    from validate.runtimes import _llama_cache

    monkeypatch.setattr(_llama_cache, "GGML_TYPES", {**GGML_TYPES, "q8_0": GGML_TYPES["f16"]})
    with (
        llama_cpp.RUNTIME.open(weights(wide_heads, "F32").path, context=64, threads=1) as session,
        pytest.raises(RuntimeFailure, match=r"asked for a cache of type q8_0 and made another: .*f16"),
    ):
        session.open_cache(Q8_0, 64)


# ---- the measure


class Told:
    """What progress was told: each task with its total and what was done of it."""

    def __init__(self) -> None:
        self.tasks: list[list[Any]] = []

    def start(self, what: str, total: int, unit: str = "B") -> None:
        self.tasks.append([what, total, 0])

    def advance(self, amount: int) -> None:
        self.tasks[-1][2] += amount


def measured(session: Any, types: Sequence[CacheTypes], told: Told | None = None, longest: int | None = None) -> Any:
    """The measurement of an open session, with the session's own tokenizer as the reference's."""
    windows = [session.tokenize(word * 40)[:32] for word in ("one two ", "cat dog ", "a b c ", "sun and sea ")]
    questions = Questions(windows, kv_cache=CacheQuestion(types, longest))
    comparison = Comparison(Reference(session, None, "", 1 << 20), questions, told or Told())
    running = RunningCandidate(Candidate(Path("m.gguf"), None, llama_cpp.RUNTIME, 1), session, Measurement())
    measuring = measure.KvCache(comparison)
    assert measuring.is_asked(running)
    measuring.measure(running)
    return running.result


def test_what_is_found_is_a_row_of_each_type_beside_the_exact_one(session: Any) -> None:
    told = Told()
    result = measured(session, [Q4_0, Q8_0], told)
    found = result.kv_cache
    assert [(row.k, row.v, row.flash_attention, row.asked) for row in found.rows] == [
        *(("f32", "f32", False, False), ("f16", "f16", True, False)),
        *(("q4_0", "q4_0", True, True), ("q8_0", "q8_0", True, True)),
    ]
    exact, plain, q4_0, q8_0 = found.rows
    assert exact.kl is None
    assert 0 < plain.kl < q8_0.kl < q4_0.kl
    assert q4_0.kl_low <= q4_0.kl <= q4_0.kl_high
    assert exact.bytes_1k > plain.bytes_1k > q8_0.bytes_1k > q4_0.bytes_1k
    assert found.limit == 512
    assert found.positions == 128
    assert [needle.tokens for needle in exact.needles] == [512]
    assert exact.needles[0].kl is None
    assert q4_0.needles[0].kl > q8_0.needles[0].kl > 0
    assert q4_0.needles[0].asked == exact.needles[0].asked >= 2
    assert found.stopped == ""
    assert result.metrics["kv_cache_kl"] == q4_0.kl
    assert result.intervals["kv_cache_kl"] == (q4_0.kl_low, q4_0.kl_high)
    assert result.metrics["kv_cache_top1"] == min(q4_0.top1, q8_0.top1)
    assert abs(result.metrics["kv_cache_recall_drop"]) <= 1
    for what, total, done in told.tasks:
        assert total == done > 0, what
    assert [what for what, _, _ in told.tasks] == ["m.gguf: KV cache", "m.gguf: KV cache, facts in 512 tokens"]


def test_longer_texts_stop_where_memory_ends_and_say_so(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    found = measured(session, [Q8_0]).kv_cache
    assert "the f32 cache of 512 tokens and its buffers take" in found.stopped
    assert "0.0 GB are free" in found.stopped
    assert found.rows[0].needles == ()
    assert found.rows[2].kl > 0


def test_longer_texts_stop_where_they_take_long_unless_the_recipe_says_how_long(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "NEEDLE_SECONDS", 0.0)
    monkeypatch.setattr(needles, "lengths", lambda limit, longest: [500, limit])
    found = measured(session, [Q8_0]).kv_cache
    assert found.stopped.startswith("512 tokens would take about 0 minutes here; with longest: 512 under kv_cache")
    assert [needle.tokens for needle in found.rows[0].needles] == [500]
    assert measured(session, [Q8_0], longest=512).kv_cache.stopped == ""


class Stateless(SaysNothing):
    """A model that keeps no K and V, as Mamba."""

    def settings(self) -> ModelSettings:
        return ModelSettings()

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def cache_size(self, types: CacheTypes, tokens: int) -> CacheSize:
        return CacheSize(0, 100)


def test_a_model_without_a_cache_has_none_to_compare() -> None:
    result = measured(Stateless(), [Q8_0])
    assert {row.reason for row in result.kv_cache.rows} == {"the model keeps no K and V"}
    assert "kv_cache_kl" not in result.metrics
