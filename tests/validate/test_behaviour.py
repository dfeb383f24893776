"""A runtime that does not stop where it should, and one that makes another number of tokens of an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convert.bundle import Bundle
from tests.fixtures_graphs import checkpoint, graph, vision_graphs
from tests.fixtures_validate import folder, rewritten, tiny_vision, weights
from validate import behaviour, runtimes
from validate.behaviour import STOP_TOKENS, Stop, image_checks, image_sizes, stop_check
from validate.contract import Check
from validate.runtimes import RuntimeFailure, Unsupported, llama_cpp, onnxruntime, transformers
from validate.runtimes._folder import CheckpointFolder

__all__ = ["tiny_vision", "vision_graphs"]  # fixtures

FARA_PIXELS = 12_845_056  # of Fara-7B's processor: 16384 tokens

# ---- stop tokens

END, OTHER_END = 7, 8


def writes(**after: list[int]) -> Any:
    """A session that writes these tokens after a prompt that ends with the number in the name."""
    answers = {int(name.removeprefix("after_")): tokens for name, tokens in after.items()}

    def generate(tokens: Sequence[int], count: int) -> list[int]:
        return answers[tokens[-1]][:count]

    return SimpleNamespace(generate=generate, detokenize=lambda ids: f"text {ids[-1]}")


STOPS = [Stop([1, 2], END), Stop([1, 3], OTHER_END)]


def test_a_runtime_that_stops() -> None:
    check = stop_check(STOPS, writes(after_2=[END], after_3=[OTHER_END]))
    assert (check.equal, check.total, check.metric, check.note) == (2, 2, "stops_equal", "")
    assert stop_check(STOPS, writes(after_2=[OTHER_END], after_3=[END])).score == 1.0  # another end is drift, and ends


def test_a_runtime_that_goes_on() -> None:
    check = stop_check(STOPS, writes(after_2=[END, 5, 6] + [9] * STOP_TOKENS, after_3=[OTHER_END]))
    assert (check.equal, check.total) == (1, 2)
    (difference,) = check.differences
    assert (difference.what, difference.reference) == ("after 'text 2'", "7")
    assert difference.candidate == "7 5 6 9 9 9 9 9"


def test_a_runtime_that_writes_nothing_at_all() -> None:
    check = stop_check(STOPS, writes(after_2=[], after_3=[OTHER_END]))
    assert [(d.reference, d.candidate) for d in check.differences] == [("7", "nothing")]


def test_another_token_is_drift_and_not_counted() -> None:
    check = stop_check(STOPS, writes(after_2=[5, 6], after_3=[OTHER_END]))
    assert (check.equal, check.total) == (1, 1)
    assert check.note == "another token came first in 1 of 2 texts: these are not counted"
    assert stop_check(STOPS, writes(after_2=[5], after_3=[6])).total == 0


@pytest.mark.parametrize("keeps_its_end", [True, False])
def test_a_file_whose_end_is_lost_goes_on(tiny_vision: dict[str, Bundle], tmp_path: Path, keeps_its_end: bool) -> None:
    """What the model writes is taken for the source's end; the file that does not name it writes on."""
    original = weights(tiny_vision, "F16").path
    prompt = [5, 6, 7]
    with runtimes.open_session(llama_cpp.RUNTIME, original, context=64, threads=1) as session:
        first = session.generate(prompt, 1)[0]
    changed = {"tokenizer.ggml.eos_token_id": first} if keeps_its_end else {}
    path = rewritten(original, tmp_path / "ends.gguf", changed)
    with runtimes.open_session(llama_cpp.RUNTIME, path, context=64, threads=1) as session:
        check = stop_check([Stop(prompt, first)], session)
    assert (check.equal, check.total) == (int(keeps_its_end), 1)


# ---- image sizes


@pytest.fixture(scope="module")
def reference(tiny_vision: dict[str, Bundle]) -> Iterator[Any]:
    with transformers.RUNTIME.open(folder(tiny_vision), threads=1) as session:
        yield session


Checked = Callable[..., Mapping[str, Check]]


@pytest.fixture
def checked(tiny_vision: dict[str, Bundle], tmp_path: Path) -> Checked:
    """The image checks of llama.cpp with the good projector, some of its metadata changed."""
    projector = tiny_vision["gguf"].roles["projector"][0].path  # type: ignore[index]

    def checks(source: Any, **change: Any) -> dict[str, Check]:
        path = rewritten(projector, tmp_path / "mmproj.gguf", {f"clip.vision.{k}": v for k, v in change.items()})
        model = weights(tiny_vision, "F16").path
        with runtimes.open_session(llama_cpp.RUNTIME, model, projector=path, context=64, threads=1) as session:
            return {check.name: check for check in image_checks(source, session)}

    return checks


def large(tiny: Mapping[str, Bundle], home: Path) -> CheckpointFolder:
    """The source with pixel limits as large as those of a real model."""
    for path in folder(tiny).iterdir():
        if not path.name.endswith(".safetensors"):
            (home / path.name).write_bytes(path.read_bytes())
    path = home / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_pixels": FARA_PIXELS}))
    return CheckpointFolder(home)


def test_the_sizes_straddle_the_limits() -> None:
    sizes = image_sizes(28, (3136, 200704))
    pixels = [w * h for w, h in sizes]
    assert len(set(sizes)) == len(sizes) >= 30
    assert (1280, 720) in sizes
    assert (1920, 1080) in sizes
    assert min(pixels) < 3136
    assert max(pixels) > 200704
    assert max(max(w / h, h / w) for w, h in sizes) > 100
    assert max(w * h for w, h in image_sizes(28, (3136, 10**9))) <= behaviour._MAX_PIXELS
    assert image_sizes(28, None)


def test_our_projector_makes_the_sources_tokens(reference: Any, checked: Checked) -> None:
    checks = checked(reference)
    exact = checks["image_tokens"]
    assert (exact.equal, exact.metric) == (exact.total, "image_tokens_equal"), exact
    assert exact.total > 25
    assert exact.note == ""
    halves = checks["image_half_sides"]
    assert (halves.equal, halves.metric) == (0, "")
    assert {d.what for d in halves.differences} == {"70 x 70", "182 x 112", "350 x 210"}
    assert reference.bytes_to_load, "counting tokens needs no weights"


def test_a_projector_with_other_limits_fails(reference: Any, checked: Checked) -> None:
    exact = checked(reference, image_max_pixels=100_352)["image_tokens"]
    assert exact.equal < exact.total
    assert ("pixel limits", "(3136, 200704)", "(3136, 100352)") in [
        (d.what, d.reference, d.candidate) for d in exact.differences
    ]
    assert any(" x " in d.what for d in exact.differences)


def test_large_images_keep_their_tokens_where_the_projector_names_the_limit(
    tiny_vision: dict[str, Bundle], checked: Checked, tmp_path: Path
) -> None:
    checks = checked(large(tiny_vision, tmp_path), image_max_pixels=FARA_PIXELS)
    assert checks["image_tokens"].score == 1.0
    assert "image_cap" not in checks


def test_a_projector_that_names_no_limits_gets_the_runtimes_own(
    tiny_vision: dict[str, Bundle], checked: Checked, tmp_path: Path
) -> None:
    checks = checked(large(tiny_vision, tmp_path), image_max_pixels=None, image_min_pixels=None)
    assert checks["image_cap"].equal == 0
    assert ("3840 x 2160", "10549", "4080") in [
        (d.what, d.reference, d.candidate) for d in checks["image_cap"].differences
    ]
    exact = checks["image_tokens"]
    assert exact.note == "the output names no pixel limits: the runtime takes its own"
    first, *others = exact.differences
    assert (first.what, first.candidate) == ("pixel limits", "not in the file: the runtime takes its own")
    assert {d.what for d in others} <= {f"{s} x {s}" for s in (1, 28, 55, 56, 57, 84)}  # at least 8 tokens
    assert exact.total - exact.equal == 8  # sizes: that the limits are lost is the reason, not one more


class Counting:
    """Counts image tokens in its own way."""

    def __init__(self, count: Callable[[int, int], int], limits: tuple[int, int] | None = None) -> None:
        self.image_tokens, self.image_unit = count, 28
        self.identity = lambda: SimpleNamespace(pixel_limits=limits)
        self.rule: Callable[[int, int], int | None] = lambda w, h: None

    def image_tokens_by_rule(self, width: int, height: int) -> int | None:
        return self.rule(width, height)

    def image_rules(self, width: int, height: int) -> list[str]:
        return ["it turns the order", "it cuts otherwise"]


def test_sizes_that_a_runtime_cuts_by_a_rule_of_its_own_are_told() -> None:
    source: Any = Counting(lambda w, h: w * h)
    source.rule = lambda w, h: 0 if w == h == 1 else 7 if w > h else None

    def cut(width: int, height: int) -> int:
        if width == height == 1:
            raise RuntimeFailure("too small")
        return 7 if width > height else width * height

    candidate: Any = Counting(cut)
    exact, ruled = image_checks(source, candidate)
    assert (exact.name, exact.score) == ("image_tokens", 1.0)
    assert (ruled.name, ruled.metric, ruled.note) == ("image_sizes_by_rule", "", "it cuts otherwise")
    assert (ruled.equal, ruled.total > 5) == (0, True)
    wrong: Any = Counting(lambda w, h: 8 if w > h else 0 if w == h == 1 else w * h)
    (exact,) = [check for check in image_checks(source, wrong) if check.name == "image_tokens"]
    assert exact.total - exact.equal == ruled.total - 1, "a rule excuses its own number alone"


def test_a_known_limit_is_one_only_with_its_proof() -> None:
    """Neither a size half way nor a large one excuses just any number."""
    source: Any = Counting(lambda w, h: max(1, round(w / 28)) * max(1, round(h / 28)))
    wrong: Any = Counting(lambda w, h: 7)
    checks = image_checks(source, wrong)
    assert [check.name for check in checks] == ["image_tokens"]
    assert checks[0].equal == 0


def test_a_size_that_a_runtime_refuses_is_a_difference_and_not_the_end() -> None:
    def refuses(width: int, height: int) -> int:
        if width * height == 1:
            raise RuntimeFailure("too small")
        return width * height

    source: Any = Counting(lambda w, h: w * h)
    candidate: Any = Counting(refuses)
    (check,) = image_checks(source, candidate)
    assert check.equal == check.total - 1
    assert (check.differences[0].what, check.differences[0].candidate) == ("1 x 1", "too small")


def test_a_runtime_that_cannot_be_asked_is_no_difference() -> None:
    def cannot(width: int, height: int) -> int:
        raise Unsupported("no projector file was given")

    source: Any = Counting(lambda w, h: w * h)
    blind: Any = Counting(cannot)
    with pytest.raises(Unsupported, match="no projector"):
        image_checks(source, blind)


def test_graphs_count_with_what_lies_beside_them(vision_graphs: dict[str, Bundle]) -> None:
    with (
        transformers.RUNTIME.open(checkpoint(vision_graphs), threads=1) as source,
        onnxruntime.RUNTIME.open(graph(vision_graphs), threads=1) as session,
    ):
        (check,) = image_checks(source, session)
        assert check.score == 1.0
        assert check.total > 25
        session._processor.size["longest_edge"] //= 2
        del session._pixel_limits
        assert image_checks(source, session)[0].score < 1.0
        with pytest.raises(RuntimeFailure, match="refuses 2 x 4000"):
            source.image_tokens(2, 4000)
