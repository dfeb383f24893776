"""Tiny checkpoints in the layout of the hub, with weights that make every part of a model matter.

    build(folder, LLAMA, config)                  a tokenizer, config.json, weights drawn for transformers' own class
    build(folder, QWEN, config, hub=..., scales={"q_proj.weight": 12})

Equal arguments give equal files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from tests import tiny

Tensors = dict[str, Any]
Hub = Callable[[str, Any], Tensors]
"""From a parameter of transformers (name, torch tensor) to the tensors it is on the hub."""

Layout = Callable[[Tensors], Tensors]
"""From all tensors of a checkpoint to those of another writer of the same model."""
KEPT = ("torch_dtype", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Words:
    """A tokenizer and what its model's config says of it."""

    vocab: int  # rows of the embedding
    tokenizer: Callable[[], str]  # tokenizer.json
    tokenizer_config: Mapping[str, Any]
    config: Mapping[str, Any]
    sentencepiece: bool = False  # a tokenizer.model beside it, as it was made from


LLAMA = Words(
    384,
    lambda: tiny.sentencepiece_tokenizer(384),
    tiny.LLAMA_TOKENIZER_CONFIG,
    {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    sentencepiece=True,
)
"""Sentencepiece with byte fallback, <s> in front."""

QWEN = Words(
    512,
    lambda: tiny.qwen_tokenizer(496),
    tiny.QWEN_TOKENIZER_CONFIG,
    {"bos_token_id": 480, "eos_token_id": 482, "pad_token_id": 480},
)
"""Byte-level BPE; 16 rows of the embedding belong to no token."""

GLM = replace(QWEN, tokenizer=lambda: with_token(tiny.qwen_tokenizer(496), "<|user|>"))
"""The same with the token that GLM's converter asks for."""


def with_token(tokenizer: str, token: str) -> str:
    """The tokenizer.json with one more special token."""
    made = json.loads(tokenizer)
    last = made["added_tokens"][-1]
    made["added_tokens"].append({**last, "id": last["id"] + 1, "content": token, "special": True})
    return json.dumps(made)


def with_last_tokens(words: Words, *texts: str) -> Words:
    """The words, their last pieces given up for special tokens: a piece is no placeholder of an image, nor an end."""

    def tokenizer() -> str:
        made = json.loads(words.tokenizer())
        model, first = made["model"], words.vocab - len(texts)
        drop_pieces(model, first)
        last = made["added_tokens"][-1]
        made["added_tokens"] += [{**last, "id": first + i, "content": text} for i, text in enumerate(texts)]
        return json.dumps(made)

    return replace(words, tokenizer=tokenizer)


def drop_pieces(model: dict[str, Any], first: int) -> None:
    """Take the pieces from an id on out of a BPE, and the merges that need or make one."""
    gone = {text for text, number in model["vocab"].items() if number >= first}
    for text in gone:
        del model["vocab"][text]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    model["merges"] = [pair for pair in pairs if not gone & {*pair, "".join(pair)}]


SHARP: Mapping[str, float] = {
    "q_proj.weight": 12,
    "k_proj.weight": 12,
    "embed_tokens.weight": 12,
}
"""Random weights attend to everything alike, and wrong positions go unnoticed; these do not.
Endings of names -> factor."""

TINY_SHARP = {**SHARP, "q_norm.weight": 12}

SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
"""What most configs call their sizes."""


def same(name: str, values: Any) -> Tensors:
    """The tensor as transformers has it."""
    return {name: values}


def experts_apart(
    name: str, values: Any, parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> Tensors:
    """All experts' `….experts.gate_up_proj` or `….experts.down_proj` as one tensor each; any other tensor as it is.

    `parts` are the hub's words for gate, up and down.
    """
    base, _, kind = name.rpartition(".experts.")
    if not base:
        return {name: values}
    gate, up, down = parts
    if kind == "down_proj":
        return {f"{base}.experts.{i}.{down}.weight": one.clone() for i, one in enumerate(values)}
    halves = [one.chunk(2) for one in values]
    return {
        f"{base}.experts.{i}.{word}.weight": half.clone()
        for i, pair in enumerate(halves)
        for word, half in zip((gate, up), pair, strict=True)
    }


def build(
    folder: Path,
    words: Words,
    config: Mapping[str, Any],
    *,
    hub: Hub = tiny.hub_tensors,
    scales: Mapping[str, float] = SHARP,
    drawn_as: str = "",
) -> Path:
    """Write a checkpoint whose config.json is `config` and what the tokenizer adds to it; returns its folder.

    `drawn_as` is transformers' class whose parameters it has, where that of the config is none of transformers'.
    Every tensor is drawn around 0, those called norm or ln_… .weight around 1; then `scales`.
    """
    _write_words(folder, words, config)
    tiny.write_weights(folder, draw(folder, hub, scales, drawn_as=drawn_as), 1)
    return folder


def write(folder: Path, words: Words, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """As `build`, of these tensors: for classes that transformers does not have."""
    _write_words(folder, words, config)
    tiny.write_weights(folder, tensors, 1)
    return folder


def drawn(
    shapes: Mapping[str, tuple[int, ...]],
    norms: Iterable[str],
    biased: Callable[[str], bool] | None,
    scales: Mapping[str, float],
    ending: str = ".weight",
) -> Tensors:
    """Weights of these modules and shapes, a bias beside each that is `biased`; norms are as wide as the last axis."""
    import torch

    generator = torch.Generator().manual_seed(len(shapes))
    made: Tensors = {}
    for name, shape in shapes.items():
        values = torch.empty(shape).normal_(0.0, 0.05, generator=generator)
        made[name + ending] = values * _factor(name + ending, scales)
        if biased is not None and biased(name):
            made[f"{name}.bias"] = torch.empty(shape[0]).normal_(0.0, 0.05, generator=generator)
    width = next(iter(shapes.values()))[-1]
    for name in norms:
        made[f"{name}.weight"] = 1 + torch.empty(width).normal_(0.0, 0.05, generator=generator)
        made[f"{name}.bias"] = torch.empty(width).normal_(0.0, 0.05, generator=generator)
    return made


def _write_words(folder: Path, words: Words, config: Mapping[str, Any]) -> None:
    """The tokenizer and config.json."""
    tiny._save_tokenizer(folder, words.tokenizer(), dict(words.tokenizer_config))
    if words.sentencepiece:
        (folder / "tokenizer.model").write_bytes(tokenizer_model(json.loads(words.tokenizer())))
    whole = {"torch_dtype": "bfloat16", "vocab_size": words.vocab, **words.config, **config}
    (folder / "config.json").write_text(json.dumps(whole, indent=2))


def tokenizer_model(tokenizer: Mapping[str, Any]) -> bytes:
    """The sentencepiece model that such a tokenizer.json is made from (sentencepiece_model.proto)."""
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    ranks = {piece: i for i, piece in enumerate(dict.fromkeys("".join(merge) for merge in merges))}
    control = {token["content"]: 3 for token in tokenizer["added_tokens"]} | {"<unk>": 2}
    made = []
    for text in sorted(vocab, key=vocab.__getitem__):
        kind = control.get(text, 6 if text.startswith("<0x") else 1)
        score = -float(ranks.setdefault(text, len(ranks))) if kind == 1 else 0.0
        piece = _bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind)
        made.append(_bytes(1, piece))
    trainer = b"\x18\x02\x20" + _varint(len(vocab)) + _varint(35 << 3) + b"\x01"  # BPE, its size, byte fallback
    normalizer = _bytes(1, b"identity") + b"\x18\x01\x20\x00"  # a space in front, no spaces dropped
    return b"".join(made) + _bytes(2, trainer) + _bytes(3, normalizer)


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, more = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(more) if more else bytes([low])


def drawn_by_shape(
    shapes: Mapping[str, tuple[int, ...]], scales: Mapping[str, float], dtype: str = "bfloat16", seed: int = 0
) -> Tensors:
    """Name -> torch tensor, drawn as `build` draws: for checkpoints that transformers has no class for."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, shape in sorted(shapes.items()):
        values = torch.empty(shape).normal_(0.0, 0.05, generator=generator)
        values = values + 1 if _is_norm(name) else values
        tensors[name] = (values * _factor(name, scales)).to(getattr(torch, dtype)).contiguous()
    return tensors


def sharpened(folder: Path) -> Path:
    """A folder of tests.tiny, its weights times SHARP's factors."""
    from tests.fixtures_gguf import edit_weights

    def sharpen(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] *= _factor(name, TINY_SHARP)

    edit_weights(folder, sharpen)
    return folder


def draw(folder: Path, hub: Hub, scales: Mapping[str, float], seed: int = 0, drawn_as: str = "") -> Tensors:
    """Name on the hub -> torch tensor, of a model with the config in `folder`."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    given = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        model = getattr(transformers, drawn_as or given["architectures"][0])(config)
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, given["torch_dtype"])
    tensors: Tensors = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=True)):
        values = torch.empty(parameter.shape).normal_(0.0, 0.05, generator=generator)
        values = values + 1 if _is_norm(name) else values
        tensors |= hub(name, (values * _factor(name, scales)).to(dtype))
    return {name: values.contiguous() for name, values in tensors.items()}


def published(folder: Path, config: Mapping[str, Any], layout: Layout = lambda tensors: tensors) -> Path:
    """The checkpoint in `folder` as its publishers have it: their config.json, tensors by the names and shapes there.

    What the tokenizer adds to a config stays in it.
    """
    from tests.fixtures_gguf import edit_weights

    old = json.loads((folder / "config.json").read_text())
    kept = {key: old[key] for key in KEPT if key in old}
    (folder / "config.json").write_text(json.dumps({**kept, **config}, indent=2))
    edit_weights(folder, lambda tensors: {name: values.contiguous() for name, values in layout(tensors).items()})
    return folder


def _factor(name: str, scales: Mapping[str, float]) -> float:
    return next((factor for ending, factor in scales.items() if name.endswith(ending)), 1)


def _is_norm(name: str) -> bool:
    *_, module, kind = name.split(".")
    return kind == "weight" and ("norm" in module.lower() or module.startswith("ln_"))


def as_llama(folder: Path, words: Words = LLAMA, **config: Any) -> Path:
    """A Llama that a checkpoint of another writer is the equal of."""
    given = {
        **SIZES,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, words, given | config)


def renamed(*renames: tuple[str, str]) -> Layout:
    """The layout of a writer who has other pieces of names."""

    def layout(tensors: Tensors) -> Tensors:
        return {reduce(lambda name, pair: name.replace(*pair), renames, name): t for name, t in tensors.items()}

    return layout
