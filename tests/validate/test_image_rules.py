"""What llama.cpp does with images by rules of its own: told where it does it, and no excuse for anything else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures_gguf import convert
from tests.fixtures_images import SOURCES
from tests.parity.families import cases
from tests.validate.stand_ins import SaysNothing
from validate.behaviour import compare_images
from validate.drift import NotComparable
from validate.runtimes import RuntimeFailure, llama_cpp, transformers
from validate.vision import ImageAnswer, ask

SIZES = [(int(math.exp(a)), int(math.exp(b))) for a, b in np.random.default_rng(0).uniform(0, 7.5, (120, 2))]
SIZES += [(112, 112), (113, 112), (224, 112), (1280, 720), (720, 1280), (4800, 32), (32, 4800)]


@pytest.fixture(scope="module", params=["internvl", "internvl of 2 to 6", "idefics3"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The source and llama.cpp, of a model that is cut into tiles."""
    home = tmp_path_factory.mktemp("rules")
    name, _, fewer = request.param.partition(" of ")
    folder = cases()[name].make(home / "tiny")
    path = folder / "preprocessor_config.json"
    if fewer:
        path.write_text(path.read_text().replace('"min_patches": 1', '"min_patches": 2').replace(": 12", ": 6"))
    bundle = convert(folder, home / "out", "F32", mmproj="F32")
    weights, projector = bundle.of("weights")[0].path, bundle.of("projector")[0].path
    with (
        transformers.RUNTIME.open(folder, threads=1) as source,
        llama_cpp.RUNTIME.open(weights, projector=projector, threads=1) as session,
    ):
        yield source, session


def test_a_rule_says_what_llama_cpp_makes_of_every_size(both: tuple[Any, Any]) -> None:
    source, session = both
    otherwise = 0
    for size in SIZES:
        wanted = source.image_tokens_by_rule(*size)
        otherwise += wanted is not None
        if wanted == 0:
            with pytest.raises(RuntimeFailure, match="out of range"):
                session.image_tokens(*size)
        else:
            assert session.image_tokens(*size) == (source.image_tokens(*size) if wanted is None else wanted), size
    assert 0 < otherwise < len(SIZES)


def test_a_framed_image_is_cut_alike(both: tuple[Any, Any]) -> None:
    source, session = both
    for width, height in SIZES[-7:]:
        framed = source.framed(np.zeros((height, width, 3), np.uint8))
        size = framed.shape[1], framed.shape[0]
        if source.image_tokens_by_rule(width, height) != 0:
            assert source.image_tokens_by_rule(*size) is None
            assert session.image_tokens(*size) == source.image_tokens(*size)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_sources_weights_are_as_before(name: str, tmp_path: Path) -> None:
    """To compute in llama.cpp's order moves positions in place; not a bit of them may stay moved."""
    pixels = np.random.default_rng(0).integers(0, 255, (70, 70, 3), np.uint8)
    with transformers.RUNTIME.open(SOURCES[name](tmp_path / "tiny"), threads=1) as session:
        prompt = session.image_prompt("Look.")
        before = session.image_embeddings(pixels), session.image_logits(prompt, pixels)
        by_rule = session.image_embeddings_by_rule(pixels), session.image_logits_by_rule(prompt, pixels)
        after = session.image_embeddings(pixels), session.image_logits(prompt, pixels)
        reordered = bool(session.image_rules(70, 70))
    for first, other, last in zip(before, by_rule, after, strict=True):
        np.testing.assert_array_equal(first, last)
        assert np.array_equal(first, other) != reordered
    assert reordered == (name in ("llava", "internvl"))


# ---- what follows from a rule

PLAIN, ORDERED = np.eye(4, 8, dtype=np.float32), np.eye(4, 8, 1, dtype=np.float32)


class Source(SaysNothing):
    """Makes of every image PLAIN, and ORDERED where it follows the runtime's rule."""

    def image_prompt(self, text: str, tools: object = None) -> str:
        return text

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        return PLAIN

    def image_embeddings_by_rule(self, pixels: np.ndarray) -> np.ndarray:
        return ORDERED

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        return np.arange(5, dtype=np.float32)

    def image_rules(self, width: int, height: int) -> list[str]:
        return ["it turns the order"]

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        return 8, 8


class Runs(SaysNothing):
    """A candidate that makes the same of every image."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        return self._embeddings

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        return np.arange(5, dtype=np.float32)


@pytest.fixture(scope="module")
def answer() -> ImageAnswer:
    return ask(Source(), "photo.png", np.zeros((8, 8, 3), np.uint8))


def test_what_follows_the_rule_is_as_the_source_and_told(answer: ImageAnswer) -> None:
    (drift,), (check,) = compare_images([answer], Runs(ORDERED), by_rule=True)
    assert drift.cosine_min == 1
    assert (check.name, check.metric, check.equal, check.total) == ("images_by_rule", "", 0, 1)
    assert check.differences[0].what == "photo.png"
    assert check.differences[0].candidate == "cosine 0.0000 of the worst token's embedding, KL 0 of the next token"
    assert check.note.startswith("it turns the order: ")


@pytest.mark.parametrize(("made", "by_rule"), [(PLAIN, True), (PLAIN, False)])
def test_a_runtime_that_has_lost_the_rule_is_as_the_source(
    answer: ImageAnswer, made: np.ndarray, by_rule: bool
) -> None:
    (drift,), checks = compare_images([answer], Runs(made), by_rule)
    assert (drift.cosine_min, checks) == (1, [])


def test_a_rule_excuses_nothing_else(answer: ImageAnswer) -> None:
    (drift,), _ = compare_images([answer], Runs(ORDERED + np.eye(4, 8, 4, dtype=np.float32)), by_rule=True)
    assert drift.cosine_min < 0.8
    (drift,), checks = compare_images([answer], Runs(ORDERED), by_rule=False)  # another runtime has no such rule
    assert (drift.cosine_min, checks) == (0, [])
    with pytest.raises(NotComparable, match="embeddings have shape"):
        compare_images([answer], Runs(ORDERED[:3]), by_rule=True)
