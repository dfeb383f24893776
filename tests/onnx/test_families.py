"""The contract of every family of text models: its graph gives transformers' logits, however it is called.

A family whose file says that it is tested in onnx has to be in FAMILIES: the first test says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from convert import architectures
from tests import tiny
from tests.fixtures_gguf import LLAMA3_ROPE
from tests.onnx import contract, table
from tests.onnx.graphs import TextGraph, export, reference_logits
from tests.onnx.task_checkpoints import CASES
from tests.parity.families import every_case

LIMIT = contract.LIMIT
FAMILIES: Mapping[str, Callable[[Path], Path]] = {  # one of each mechanism; the page has every class
    "llama with llama3 rope": lambda folder: tiny.tiny_llama(folder, rope_scaling=LLAMA3_ROPE, tied=False),
    "qwen2 tied": lambda folder: tiny.tiny_qwen2(folder, tied=True),
    "qwen3": tiny.tiny_qwen3,
    "phi3 with longrope": lambda folder: tiny.tiny_phi3(folder, longrope=True, tied=True),
    "gemma2: windows, soft caps": tiny.tiny_gemma2,
    "gpt2: a table of positions": every_case()["gpt2"].make,
    "qwen3_moe: experts": every_case()["qwen3_moe"].make,
    "lfm2: convolutions beside attention": every_case()["lfm2"].make,
    "mamba: states alone, a scan": every_case()["mamba"].make,
}


@dataclass(frozen=True)
class Exported:
    source: Path
    graph: TextGraph

    def tokens(self, batch: int, sequence: int) -> np.ndarray:
        return np.random.default_rng(sequence).integers(3, 300, (batch, sequence))

    def apart(self, got: np.ndarray, tokens: np.ndarray, mask: np.ndarray | None = None) -> float:
        """The largest difference to transformers where the mask is 1, and nowhere a NaN."""
        assert not np.isnan(got).any()
        wanted = reference_logits(self.source, tokens, mask)[:, -got.shape[1] :]
        seen = np.ones(got.shape[:2], bool) if mask is None else mask[:, -got.shape[1] :] == 1
        return float(np.abs(got - wanted)[seen].max())


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("family")
    source = FAMILIES[request.param](folder / "Tiny")
    export(source, folder / "out")
    return Exported(source, TextGraph(folder / "out" / "model.onnx"))


def test_every_family_that_says_so_is_proven() -> None:
    """By a row of the page, which the command measured, or here."""
    tested = {family.name for family in architectures.families() if "onnx" in family.tested}
    measured = {name.partition(",")[0] for name in table.rows(table.on_page())}
    here = {re.split(r"[: ]", name)[0] for name in FAMILIES}
    measured -= set(CASES)  # which are of classes, whoever's family they are
    assert measured | here == tested - {"qwen2_5_vl"}  # of which test_qwen2_5_vl.py has every shape


def test_the_page_is_as_the_command_writes_it() -> None:
    measured = table.rows(table.on_page())
    assert set(measured) <= set(table.subjects())
    assert table.on_page() == table.table(measured)


def test_one_text(exported: Exported) -> None:
    for sequence in (1, 7):
        tokens = exported.tokens(1, sequence)
        logits, _ = exported.graph(tokens)
        assert exported.apart(logits, tokens) < LIMIT


def test_texts_of_different_lengths_padded_in_front(exported: Exported) -> None:
    tokens = exported.tokens(3, 9)
    mask = np.ones_like(tokens)
    mask[0, :4] = 0
    mask[2, :1] = 0
    logits, cache = exported.graph(tokens[:, :6], mask=mask[:, :6])
    assert exported.apart(logits, tokens[:, :6], mask[:, :6]) < LIMIT
    logits, _ = exported.graph(tokens[:, 6:], cache, mask)
    assert exported.apart(logits, tokens, mask) < LIMIT


def test_a_long_text_whole_and_after_a_cache_of_200(exported: Exported) -> None:
    tokens = exported.tokens(1, 300)
    whole, _ = exported.graph(tokens)
    assert exported.apart(whole, tokens) < 4 * LIMIT  # a state is a sum of 300 in float32, in another order


def test_a_cache_of_200_and_then_100(exported: Exported) -> None:
    """Both calls end past 128 tokens: there longrope changes its frequencies, and what is cached is not changed."""
    tokens = exported.tokens(1, 300)
    whole, _ = exported.graph(tokens)
    _, cache = exported.graph(tokens[:, :200])
    rest, longer = exported.graph(tokens[:, 200:], cache)
    assert np.abs(rest - whole[:, 200:]).max() < LIMIT
    assert {held.shape[2] for name, held in longer.items() if name.endswith((".key", ".value"))} <= {300}


def test_token_by_token_equals_the_whole(exported: Exported) -> None:
    tokens = exported.tokens(1, 40)
    whole, _ = exported.graph(tokens)
    cache, steps = exported.graph.empty(1), []
    for position in range(tokens.shape[1]):
        logits, cache = exported.graph(tokens[:, position : position + 1], cache)
        steps.append(logits)
    assert np.abs(np.concatenate(steps, axis=1) - whole).max() < LIMIT
