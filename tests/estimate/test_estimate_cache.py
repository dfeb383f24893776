"""The cache that is calculated and the one that llama.cpp says it would make: equal to its last digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.errors import InputError
from convert.estimate.cache import layer_caches
from convert.estimate.hyper import read_hyper
from convert.estimate.memory import estimate
from convert.estimate.model_file import ModelFile
from convert.estimate.setting import Setting
from convert.formats.gguf.memory import planned_file
from tests.fixtures_memory import LAST_DIGIT, planned, unallocated
from tests.parity.families import every_case, tried
from validate.kv_cache import CacheTypes

EXACT = CacheTypes("f32", "f32", flash_attention=False)
SETTINGS = (
    Setting(65536),
    Setting(8192, texts=3),
    Setting(8192, full_window=True),
    Setting(20000, EXACT),
    Setting(100),
)
NO_CACHE_TOLD = frozenset({"dots3_note", "minimax_m3"})  # of a kind of their own, refused by name
CRASHES = frozenset({"plm"})  # llama.cpp ends the process where it has no flash attention
# one of each kind; all with ALL_VARIANTS=1 (make parity)
KINDS = (
    *("llama", "gemma3", "gemma3n", "gemma4", "gpt_oss", "llama4", "cohere2_moe", "deepseek2, V2-Lite", "deepseek32"),
    *("lfm2", "falcon_h1", "jamba", "nemotron_h", "mamba2", "rwkv7", "qwen3_next", "kimi_linear", "nanbeige"),
)


def names() -> list[str]:
    found = tried(every_case())
    every = len(found) == len(every_case())
    return [name for name in (found if every else KINDS) if name not in NO_CACHE_TOLD | CRASHES]


@pytest.mark.parametrize("name", names())
def test_the_cache_is_as_large_as_llama_cpp_says(name: str, tmp_path: Path) -> None:
    plan = planned(every_case()[name].make(tmp_path / "tiny")).text.plans[0]
    model = planned_file(plan)
    with unallocated(plan, tmp_path) as peer:
        for setting in SETTINGS:
            layers, said = layer_caches(read_hyper(model), setting), peer.ask(setting)
            assert abs(sum(one.keys + one.values for one in layers) - said.cache) <= LAST_DIGIT, setting
            assert abs(sum(one.state for one in layers) - said.state) <= LAST_DIGIT, setting
            assert abs(estimate(model, setting).output - said.output) <= LAST_DIGIT, setting


@pytest.mark.parametrize("word", ["q8_0", "q4_0", "q8_0/q5_1", "iq4_nl"])
def test_quantized_caches(word: str, tmp_path: Path) -> None:
    plan = planned(every_case()["qwen3"].make(tmp_path / "tiny")).text.plans[0]
    setting = Setting(32768, CacheTypes.parse(word))
    with unallocated(plan, tmp_path) as peer:
        cache = estimate(planned_file(plan), setting).cache
        assert abs(cache - peer.ask(setting).cache) <= LAST_DIGIT


def test_a_window_is_no_longer_than_it_must_be() -> None:
    model = ModelFile(
        {
            "general.architecture": "gemma3",
            "gemma3.block_count": 6,
            "gemma3.embedding_length": 64,
            "gemma3.attention.head_count": 4,
            "gemma3.attention.head_count_kv": 1,
            "gemma3.attention.key_length": 32,
            "gemma3.attention.value_length": 32,
            "gemma3.attention.sliding_window": 1024,
        },
        (),
        0,
    )
    cells = [layer.cells for layer in layer_caches(read_hyper(model), Setting(16384))]
    assert cells == [1536] * 5 + [16384]  # five of six look back 1,024 tokens, and a batch of 512 comes at once
    assert [layer.keys for layer in layer_caches(read_hyper(model), Setting(16384))][5] == 16384 * 32 * 2


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="deepseek4"):
        read_hyper(ModelFile({"general.architecture": "deepseek4", "deepseek4.block_count": 2}, (), 0))
