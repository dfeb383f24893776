"""The settings that a GGUF file states, as llama.cpp reads its keys.

Defaults are llama.cpp's own where a file says nothing (common.h, common_params_sampling; llama-hparams.h).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from validate.runtimes import _llama_api as api
from validate.runtimes._folder_settings import IMAGES, POSITIONS
from validate.runtimes.base import ModelSettings, Setting

SAMPLING: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "general.sampling.temp",
        "top_k": "general.sampling.top_k",
        "top_p": "general.sampling.top_p",
        "min_p": "general.sampling.min_p",
        "repetition_penalty": "general.sampling.penalty_repeat",
    }
)
DEFAULTS: Mapping[str, Setting] = MappingProxyType(
    {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty": 1.0,
        "rope_theta": 10000.0,
        "rope_type": "default",
    }
)
NO_PLACE: Mapping[str, str] = MappingProxyType(
    {
        "typical_p": "pass --typical {value}",
        "max_length": "pass --predict with what is left of it behind the prompt",
        "max_new_tokens": "pass --predict {value}",
        "min_length": "llama.cpp has no such option",
        "min_new_tokens": "llama.cpp has no such option",
        "stop_strings": "send them as `stop` with each request, or pass each with --reverse-prompt",
        "suppress_tokens": "pass --logit-bias ID-inf for each",
        "no_repeat_ngram_size": "llama.cpp has no such sampler; --dry-multiplier is the nearest",
        "num_beams": "llama.cpp has no beam search",
        "length_penalty": "llama.cpp has no beam search",
        "diversity_penalty": "llama.cpp has no beam search",
    }
)
NO_WINDOW = "llama.cpp's graph of this architecture sees all tokens: texts longer than that get other answers"
WINDOWED = frozenset(
    {
        *("phi3", "gemma2", "gemma3", "gemma3n", "gemma-embedding", "cohere2", "exaone4", "exaone-moe", "olmo2"),
        *("modern-bert", "gpt-oss", "llama4", "smallthinker", "plamo3", "afmoe", "mimo2", "step35"),
    }
)
"""Architectures whose graph reads a sliding window from the file (LLM_KV_ATTENTION_SLIDING_WINDOW)."""

BOTH_WAYS = frozenset({"modern-bert", "gemma-embedding"})
"""Architectures whose window in the file counts both sides of a token, where transformers' word is for one."""

FOLDED = frozenset({"hunyuan-dense", "hunyuan-moe"})
"""Architectures whose scaling of positions is worked into the base of the frequencies when a file is made."""

Read = Callable[[str], str]  # a key of the file -> its value as text, "" where there is none


def settings(read: Read, model: Path, projector: Path | None) -> ModelSettings:
    """What a file and its projector state; `read` gives a key of the loaded model as llama.cpp has it."""
    # llama3's scaling is kept as divisors of the frequencies, a tensor
    has_freqs = any(api.has_tensor(path, "rope_freqs.weight") for path in _volumes(model))
    images = None if projector is None else _images(projector)
    arch = read("general.architecture")
    values = {**dict(_sampling(read)), **dict(_positions(read, arch, has_freqs)), **(images or {})}
    elsewhere = {"bos_token_id", "pad_token_id"}  # compared with the special tokens
    if values["rope_type"] in ("llama3", "longrope"):
        elsewhere.add("rope_factor")  # in a tensor
    if values["rope_type"] == "llama3":
        elsewhere.add("original_max_position_embeddings")
    if arch in FOLDED:
        elsewhere |= set(POSITIONS)
    if images is None or "min_pixels" not in images:
        elsewhere |= {"min_pixels", "max_pixels"}  # a projector without limits has a note where images are counted
    if images is None:
        elsewhere |= set(IMAGES)
    lacking = {} if arch in WINDOWED else {"sliding_window": NO_WINDOW}
    return ModelSettings("GGUF", values, dict(DEFAULTS), {**NO_PLACE, **lacking}, frozenset(elsewhere))


def _images(projector: Path) -> dict[str, Setting]:
    stated = {name: api.image_numbers(projector, f"clip.vision.{name}") for name in ("image_mean", "image_std")}
    limits = dict(zip(("min_pixels", "max_pixels"), api.pixel_limits(projector) or (), strict=False))
    return {**{name: numbers for name, numbers in stated.items() if numbers}, **limits}


def _volumes(path: Path) -> list[Path]:
    """A model's files: name-00001-of-00003.gguf stands for all three."""
    return sorted(path.parent.glob(f"{path.name[: -len('00001-of-00001.gguf')]}*-of-*.gguf")) or [path]


def _sampling(read: Read) -> Iterator[tuple[str, Setting]]:
    stated = {word: _number(text) for word, key in SAMPLING.items() if (text := read(key))}
    yield from stated.items()
    if stated.get("temperature") == 0:
        yield "do_sample", False


def _positions(read: Read, arch: str, has_freqs: bool) -> Iterator[tuple[str, Setting]]:
    names = {
        "max_position_embeddings": f"{arch}.context_length",
        "sliding_window": f"{arch}.attention.sliding_window",
        "rope_theta": f"{arch}.rope.freq_base",
        "rope_factor": f"{arch}.rope.scaling.factor",
        "original_max_position_embeddings": f"{arch}.rope.scaling.original_context_length",
    }
    stated = {name: _number(text) for name, key in names.items() if (text := read(key))}
    window, context = stated.get("sliding_window"), stated.get("max_position_embeddings")
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        del stated["sliding_window"]  # none that is ever felt
    elif isinstance(window, int) and arch in BOTH_WAYS:
        stated["sliding_window"] = window // 2
    yield from stated.items()
    kind = read(f"{arch}.rope.scaling.type")
    yield "rope_type", ("llama3" if has_freqs else "default") if kind in ("", "none") else kind


def _number(text: str) -> Setting:
    """llama.cpp writes every number as text, six digits behind the point."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return text
