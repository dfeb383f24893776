"""What `convert fit` calculates beside what llama.cpp says: models of real shapes, contexts, types of the cache.

    python -m tests.bench.memory FOLDER [--only NAME …] [--contexts 4096 16384 65536]

Config and tokenizer of a tiny checkpoint of the family, with the numbers of the real model put in; a file with a header
and nothing behind it is all that llama.cpp is shown (tests/fixtures_memory.py), so that every row takes a moment.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from convert.estimate.memory import estimate
from convert.estimate.model_file import ModelFile
from convert.estimate.setting import Setting
from convert.formats.gguf.memory import planned_file
from tests.fixtures_memory import MIB, Said, planned, unallocated
from tests.parity.families import every_case
from validate.errors import RuntimeFailure
from validate.kv_cache import CacheTypes


def _dense(width: int, inner: int, layers: int, heads: int, kv: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "max_position_embeddings": 131072,
        **more,
    }


EVERY_FOURTH = ("linear_attention", "linear_attention", "linear_attention", "full_attention")
LFM2 = (*(("conv", "conv", "full_attention") * 3), *(("conv", "full_attention") * 3), "conv")
WINDOWED = {"head_dim": 256, "query_pre_attn_scalar": 256}
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # name -> family of the tiny checkpoint, what the real one says
    "Qwen2.5-0.5B": ("qwen2", _dense(896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True)),
    "Qwen2.5-7B": ("qwen2", _dense(3584, 18944, 28, 28, 4, 152064)),
    "Llama-3.2-1B": ("llama", _dense(2048, 8192, 16, 32, 8, 128256)),
    "Llama-3.1-8B": ("llama", _dense(4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False)),
    "Gemma-2-9B": ("gemma2", _dense(3584, 14336, 42, 16, 8, 256000, **WINDOWED, sliding_window=4096)),
    "Gemma-3-1B": ("gemma3", _dense(1152, 6912, 26, 4, 1, 262144, **WINDOWED, sliding_window=512)),
    "Gemma-3-12B": ("gemma3", _dense(3840, 15360, 48, 16, 8, 262208, **WINDOWED, sliding_window=1024)),
    "Gemma-4-E2B": (
        "gemma4",
        _dense(
            1536, 6144, 35, 8, 1, 262144, head_dim=256, global_head_dim=512, sliding_window=512,
            layer_types=[*(["sliding_attention"] * 4), "full_attention"] * 7, hidden_size_per_layer_input=256,
            num_kv_shared_layers=20, vocab_size_per_layer_input=262144,
        ),
    ),
    "Command-R7B": ("cohere2", _dense(4096, 14336, 32, 32, 8, 256000, sliding_window=4096)),
    "Phi-3-mini": ("phi3", _dense(3072, 8192, 32, 32, 32, 32064)),
    "StarCoder2-3B": ("starcoder2", _dense(3072, 12288, 30, 24, 2, 49152)),
    "Mixtral-8x7B": ("mixtral", _dense(4096, 14336, 32, 32, 8, 32000)),
    "Qwen3-30B-A3B": (
        "qwen3_moe",
        _dense(
            2048, 6144, 48, 32, 4, 151936, head_dim=128, num_experts=128, num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
    ),
    "Qwen1.5-MoE-A2.7B": (
        "qwen2_moe",
        _dense(
            2048, 5632, 24, 16, 16, 151936, num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
        ),
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        _dense(
            2880, 2880, 24, 64, 8, 201088, head_dim=64, num_local_experts=32, num_experts_per_tok=4,
            experts_per_token=4, layer_types=["sliding_attention", "full_attention"] * 12, sliding_window=128,
        ),
    ),
    "DeepSeek-V2-Lite": (
        "deepseek2, V2-Lite",
        _dense(
            2048, 10944, 27, 16, 16, 102400, moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2,
            num_experts_per_tok=6, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
        ),
    ),
    "LFM2-1.2B": (
        "lfm2",
        _dense(
            2048, 12288, 16, 32, 8, 65536, block_ff_dim=12288, block_ffn_dim_multiplier=1.0, block_multiple_of=256,
            layer_types=LFM2,
        ),
    ),
    "Falcon-H1-0.5B": (
        "falcon_h1",
        _dense(
            1024, 2048, 36, 8, 2, 32784, head_dim=64, mamba_d_ssm=1536, mamba_d_state=128, mamba_n_groups=1,
            mamba_n_heads=24, mamba_d_head=64,
        ),
    ),
    "Qwen3-Next-80B-A3B": (
        "qwen3_next",
        _dense(
            2048, 5120, 48, 16, 2, 151936, head_dim=256, layer_types=EVERY_FOURTH * 12, linear_key_head_dim=128,
            linear_num_key_heads=16, linear_num_value_heads=32, linear_value_head_dim=128, moe_intermediate_size=512,
            num_experts=512, num_experts_per_tok=10, shared_expert_intermediate_size=512,
        ),
    ),
    "Mamba-2.8B": (
        "mamba",
        {
            "hidden_size": 2560, "intermediate_size": 5120, "num_hidden_layers": 64, "vocab_size": 50280,
            "time_step_rank": 160,
        },
    ),
    "Mamba2-2.7B": (
        "mamba2",
        {
            "hidden_size": 2560, "num_hidden_layers": 64, "vocab_size": 50288, "state_size": 128, "head_dim": 64,
            "num_heads": 80, "n_groups": 1,
        },
    ),
    "RWKV7-2.9B": (
        "rwkv7",
        {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "vocab_size": 65536,
            "head_dim": 64, "num_heads": 40, "value_dim": [2560] * 32,
        },
    ),
}  # fmt: skip
CACHES = ("f16", "q8_0", "q8_0/q4_0")
EXACT = CacheTypes("f32", "f32", flash_attention=False)


def shaped(name: str, folder: Path) -> Path:
    """The config and tokenizer of a model of that shape; no weights."""
    family, numbers = SHAPES[name]
    every_case()[family].make(folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(numbers)))
    return folder


def settings(contexts: Sequence[int]) -> Iterator[Setting]:
    """What is asked of each model: as llama-server runs it, as the C API does, and without flash attention."""
    for context in contexts:
        yield from (Setting(context, CacheTypes.parse(word), outputs=1) for word in CACHES)
    yield Setting(contexts[-1], full_window=True)
    yield Setting(contexts[0], EXACT, outputs=1)
    yield Setting(contexts[0], texts=4, outputs=4)


def parts(model: ModelFile, setting: Setting, said: Said) -> dict[str, tuple[int, int]]:
    """What was calculated and what llama.cpp said, by part."""
    found = estimate(model, setting)
    return {
        "cache": (sum(layer.keys + layer.values for layer in found.layers), said.cache),
        "state": (sum(layer.state for layer in found.layers), said.state),
        "compute": (found.compute, said.compute),
        "output": (found.output, said.output),
    }


def _line(name: str, setting: Setting, found: Mapping[str, tuple[int, int]], weights: int) -> str:
    calculated, measured = (weights + sum(pair[i] for pair in found.values()) for i in (0, 1))
    flash = "" if setting.cache.flash_attention else " no fa"
    how = f"{setting.texts} texts" if setting.texts > 1 else "all logits" if setting.outputs is None else ""
    shown = " | ".join(f"{ours / MIB:.1f} / {theirs / MIB:.1f}" for ours, theirs in found.values())
    off = calculated - measured
    return (
        f"| {name} | {setting.context} | {setting.cache}{flash} | {how} | {shown} | {calculated / MIB:.0f} | "
        f"{measured / MIB:.0f} | {off / MIB:+.1f} | {off / measured:+.2%} |"
    )


def compare(name: str, kind: str, contexts: Sequence[int], scratch: Path) -> Iterator[str]:
    """A line for each way that the model is run in."""
    plan = planned(shaped(name, scratch / "model"), kind).text.plans[0]
    model = planned_file(plan)
    weights = sum(weight.nbytes for weight in model.weights)
    with unallocated(plan, scratch) as peer:
        for setting in settings(contexts):
            try:
                yield _line(name, setting, parts(model, setting, peer.ask(setting)), weights)
            except RuntimeFailure as error:
                yield f"| {name} | {setting.context} | {setting.cache} | {error} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--contexts", nargs="+", type=int, default=[4096, 32768])
    parser.add_argument("--type", default="Q4_K_M")
    options = parser.parse_args()
    print("In MiB, calculated / llama.cpp's own word. All is with the weights.\n")
    print("| model | context | cache | | keys, values | states | compute | output | all | llama.cpp | off | |")
    print("| :-- | --: | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for name in options.only:
        with TemporaryDirectory() as scratch:
            for line in compare(name, options.type, options.contexts, Path(scratch)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
