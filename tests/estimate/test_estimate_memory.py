"""Buffers, room and speed: beside llama.cpp's own word where it gives one, by hand where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.errors import InputError
from convert.estimate.amounts import bandwidth_of, bytes_of, tokens_of
from convert.estimate.fit import Room, offload, on_gpu_bytes, room_for_weights
from convert.estimate.memory import estimate
from convert.estimate.model_file import ModelFile, Weight
from convert.estimate.projector import projector_compute_bytes
from convert.estimate.setting import Setting
from convert.estimate.speed import Bandwidth, read_bytes, tokens_per_second
from convert.formats.gguf.memory import planned_file
from tests.bench.memory import settings
from tests.bench.memory import shaped as shaped_as
from tests.fixtures_memory import MIB, planned, unallocated
from tests.parity.families import every_case
from validate.kv_cache import CacheTypes

FARA = Path(__file__).parents[2] / "recipes" / "models" / "fara-nano"
CLOSE = 24 * MIB  # of buffers of 30 MiB to 700 MiB
SHAPES = ("Qwen2.5-0.5B", "Gemma-3-1B", "Qwen3-30B-A3B", "DeepSeek-V2-Lite", "LFM2-1.2B", "Falcon-H1-0.5B")


@pytest.mark.parametrize("name", SHAPES)
def test_all_of_it_is_as_large_as_llama_cpp_says(name: str, tmp_path: Path) -> None:
    plan = planned(shaped_as(name, tmp_path / "model"), "Q4_K_M").text.plans[0]
    model = planned_file(plan)
    with unallocated(plan, tmp_path) as peer:
        for setting in settings([4096, 16384]):
            if setting.cache.k != setting.cache.v and name.startswith("DeepSeek"):
                continue  # llama.cpp has one type for both there
            found, said = estimate(model, setting), peer.ask(setting)
            assert abs(found.compute - said.compute) < CLOSE, setting
            assert abs(found.beside - sum((said.cache, said.state, said.compute, said.output))) < CLOSE, setting


def file(**changes: Any) -> ModelFile:
    """A model of two layers with an output of its own; a layer's weights are 100 bytes."""
    fields = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.context_length": 4096,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        **changes,
    }
    weights = (
        Weight("token_embd.weight", (512, 64), 1000),
        Weight("blk.0.attn_q.weight", (64, 64), 100),
        Weight("blk.1.attn_q.weight", (64, 64), 100),
        Weight("output.weight", (512, 64), 2000),
    )
    return ModelFile(fields, weights, 5000)


def test_the_room_is_what_the_rest_leaves() -> None:
    memory = estimate(file(), Setting(256))
    cache = 2 * 256 * 2 * (2 * 16) * 2  # layers, cells, keys and values, heads of 16 values, float16
    assert memory.cache == cache
    room = room_for_weights(file(), Setting(256), 10**9)
    assert room == Room(10**9 - memory.cache - memory.compute, frozenset({"token_embd.weight"}))
    whole = room_for_weights(file(), Setting(256), 10**9, gpu=False)
    assert whole == Room(room.nbytes - 512 * 4, frozenset())  # and the output buffer, all in one memory


def test_no_room_is_an_error_with_the_parts() -> None:
    with pytest.raises(InputError, match=r"1,000 bytes are less than .* cache 65,536, compute buffer"):
        room_for_weights(file(), Setting(256), 1000)


def test_a_tied_embedding_lies_on_the_gpu_too() -> None:
    tied = ModelFile(file().fields, file().weights[:3], 0)
    assert on_gpu_bytes(file()) == 2200
    assert on_gpu_bytes(tied) == 1200
    assert room_for_weights(tied, Setting(256), 10**9).elsewhere == frozenset()


def test_layers_go_to_the_gpu_from_the_last_on() -> None:
    memory = estimate(file(), Setting(256))
    layer = memory.cache // 2
    fixed = memory.compute
    assert offload(file(), memory, fixed + 1999).layers == 0
    assert offload(file(), memory, fixed + 2000).layers == 1  # the output
    part = offload(file(), memory, fixed + 2100 + layer)
    assert (part.layers, part.of, part.weights, part.cache) == (2, 3, 2100, layer)
    assert offload(file(), memory, fixed + 2200 + 2 * layer).layers == 3


def test_of_experts_those_are_read_that_are_used() -> None:
    experts = Weight("blk.0.ffn_up_exps.weight", (8, 64, 64), 800)
    moe = ModelFile(
        {**file().fields, "llama.expert_count": 8, "llama.expert_used_count": 2}, (*file().weights, experts), 0
    )
    memory = estimate(moe, Setting(256))
    assert read_bytes(moe, memory) == 200 + 2000 + 800 // 4 + memory.cache
    assert tokens_per_second(moe, memory, Bandwidth(10 * read_bytes(moe, memory)), 1.0) == 10
    assert tokens_per_second(moe, memory, Bandwidth(10**9), 0.5) is None
    assert tokens_per_second(moe, memory, Bandwidth(), 1.0) is None


def test_all_logits_and_the_servers() -> None:
    one, every = (estimate(file(), Setting(4096, outputs=n)).compute for n in (1, None))
    assert every > one
    assert Setting(300).cells == 512
    assert (Setting(4096).logits, Setting(4096, outputs=1).logits, Setting(256).logits) == (512, 1, 256)


@pytest.mark.parametrize(
    ("name", "measured"),
    # MiB that build 11549 says for the towers of Qwen2.5-VL-7B, Qwen2-VL, Qwen3-VL-8B, Gemma 3 and Pixtral:
    # clip has no way to ask without the weights
    [
        ("qwen2_5_vl", 569.70),
        ("qwen2_vl", 267.08),
        ("qwen3_vl", 322.49),
        ("gemma3_vision", 121.25),
        ("mistral3_vision", 64.31),
    ],
)
def test_a_projectors_buffer_of_a_real_tower(name: str, measured: float, tmp_path: Path) -> None:
    folder = every_case()[name].make(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= TOWERS[name]
    if name == "gemma3_vision":
        config["mm_tokens_per_image"] = 256
        processor = folder / "processor_config.json"
        for path in (p for p in (processor, folder / "preprocessor_config.json") if p.is_file()):
            path.write_text(path.read_text().replace('"image_seq_length": 16', '"image_seq_length": 256'))
    (folder / "config.json").write_text(json.dumps(config))
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    projector = planned(folder, "F16", "F16").projector
    assert projector
    assert projector_compute_bytes(planned_file(*projector.plans)) == pytest.approx(measured * MIB, rel=0.02)


def test_the_projectors_buffer_of_fara_nano() -> None:
    projector = planned(FARA, "F16", "F16").projector
    assert projector
    assert projector_compute_bytes(planned_file(*projector.plans)) == pytest.approx(188.70 * MIB, rel=0.02)


QWEN_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {**QWEN_TOWER, "depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
                   "fullatt_block_indexes": [7, 15, 23, 31]},
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "num_heads": 16},
    "qwen3_vl": QWEN_TOWER,
    "gemma3_vision": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_attention_heads": 16,
                      "num_hidden_layers": 27, "patch_size": 14},
    "mistral3_vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                        "num_attention_heads": 16, "head_dim": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8GB", 8 * 10**9),
        ("8 GiB", 8 * 2**30),
        ("8G", 8 * 10**9),
        ("7.5gib", 15 * 2**29),
        ("500MB", 5 * 10**8),
        ("123456789012", 123456789012),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert bytes_of(text) == amount


@pytest.mark.parametrize("text", ["", "8QB", "GB", "-1GB", "0", "8 GB of it", "1e9", "99999999999999999999GB"])
def test_no_amounts(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory, wanted one as 8GB"):
        bytes_of(text)


def test_other_amounts() -> None:
    assert (tokens_of("16k"), tokens_of("20000"), tokens_of("1M")) == (16384, 20000, 1 << 20)
    assert bandwidth_of("400GB/s") == bandwidth_of("400 GB / s") == bandwidth_of("400GBps") == 4 * 10**11
    with pytest.raises(ValueError, match="is not a bandwidth"):
        bandwidth_of("fast")
    with pytest.raises(ValueError, match="is not a number of tokens"):
        tokens_of("many")


def test_a_cache_that_cannot_be_cut(tmp_path: Path) -> None:
    odd = file(**{"llama.attention.key_length": 20, "llama.attention.value_length": 20})
    with pytest.raises(InputError, match=r"rows of 40 values"):
        estimate(odd, Setting(256, CacheTypes.parse("q8_0")))
