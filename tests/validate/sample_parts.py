"""The parts of a made report's row: slices, worst positions, contract, tensors."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from validate.flips import mcnemar
from validate.measurement import Measurement
from validate.report.schema import (
    CheckEntry,
    ChoiceChange,
    ChoiceCounts,
    ChoiceEntry,
    DifferenceEntry,
    FileEntry,
    GreedyEntry,
    GuessEntry,
    ImageEntry,
    QuantileEntry,
    SliceEntry,
    SpeedEntry,
    TensorEntry,
    VisionEntry,
    WindowEntry,
    WorstEntry,
)
from validate.report.schema_caches import CacheRowEntry, KvCacheEntry

PARAMETERS = 4_460_800
POSITIONS = 10_200
WINDOWS = 20
PPL = 2.9479

SETS = (("prose", 0.8), ("code", 0.9), ("tools", 1.6), ("multilingual", 0.7))
_CLASSES = (("words", 0.9), ("whitespace", 0.3), ("JSON punctuation", 0.5), ("digits", 3.1), ("special", 0.1))
_PLACES = (("0-15", 2.1), ("16-63", 1.3), ("64-255", 0.9), ("256-511", 0.8))
_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0)

NOT_RUN = "tensorrt/fp32"
BROKEN = "genai/int4"  # its template is another


@dataclass(frozen=True)
class Made:
    """A row to be: what it is called, what it weighs, how far it drifts, how it clicks and what it does a second."""

    label: str
    format: str
    type: str
    runtime: str
    size: int
    kl: float
    top1: float
    clicks: float | None
    decode: float


def quantiles(median: float, largest: float) -> list[QuantileEntry]:
    """A straight line on logarithmic axes, which is near what real ones look like, with a longer upper end."""

    def kl(share: float) -> float:
        if share >= 1:
            return largest
        odds = math.log10(share / (1 - share))
        return min(largest, median * 10 ** (odds * (1.15 if odds > 0 else 1.6)))

    return [{"share": share, "kl": kl(share)} for share in _SHARES]


def slices(row: Made, chance: random.Random) -> list[SliceEntry]:
    kinds = (("set", SETS), ("class", _CLASSES), ("position", _PLACES))
    found: list[SliceEntry] = []
    for kind, parts in kinds:
        for name, factor in parts:
            kl = row.kl * factor * chance.uniform(0.8, 1.25)
            found.append(
                {
                    "kind": kind,  # type: ignore[typeddict-item]
                    "name": name,
                    "positions": POSITIONS // len(parts),
                    "kl_mean": kl,
                    "kl_low": kl * 0.7,
                    "kl_high": kl * 1.4,
                    "top1": max(0.0, 1 - (1 - row.top1) * factor),
                    "ppl_ratio": 1 + kl * 0.5,
                }
            )
    return found


# set, what was read, next token, reference's three guesses, candidate's
_Three = tuple[str, str, str]
_SPOTS: tuple[tuple[str, str, str, _Three, _Three], ...] = (
    ("tools", '"arguments": {"action": "left_click", "coordinate": [', "1", ("1", "2", "8"), ("2", "1", " ")),
    ("prose", "The committee met on the third of", " March", (" March", " May", " the"), (" the", " March", " June")),
    ("code", "def area(width: float) ->", " float", (" float", " int", ":"), (" int", " float", " None")),
    ("tools", '<tool_call>\n{"name": "computer_use', '"', ('"', '",', "_"), ("_", '"', "\n")),
    ("multilingual", "Съешь же ещё этих мягких фран", "ц", ("ц", "к", "т"), ("к", "ц", "\ufffd")),
    ("code", "    for index, value in enumerate(values)", ":", (":", ")", ":\n"), (")", ":", " if")),
    ("prose", "not the house but the", " garden", (" garden", " people", " street"), (" people", " garden", " sea")),
    ("tools", "press Submit<|im_end|>\n", "<|im_start|>", ("<|im_start|>", "\n", " "), ("\n", "<|im_start|>", " ")),
    ("multilingual", "敏捷的棕色狐狸跳过了", "懒", ("懒", "那", "一"), ("一", "懒", "那")),
    ("code", "return {key: value for key in items if key !=", " None", (" None", " '", ' "'), (' "', " None", " '")),
)


def worst(largest: float, chance: random.Random) -> list[WorstEntry]:
    found: list[WorstEntry] = []
    for rank, (where, before, word, ours, theirs) in enumerate(_SPOTS):
        found.append(
            {
                "set": where,
                "window": chance.randrange(WINDOWS),
                "position": chance.randrange(16, 511),
                "kl": largest / (1 + rank) ** 0.7,
                "before": before,
                "next": word,
                "reference": _guesses(ours, 0.83 - 0.03 * rank),
                "candidate": _guesses(theirs, 0.61 - 0.02 * rank),
            }
        )
    return found


def _guesses(texts: tuple[str, ...], first: float) -> list[GuessEntry]:
    return [{"text": text, "probability": first * 0.27**i} for i, text in enumerate(texts)]


def windows(row: Made, chance: random.Random) -> list[WindowEntry]:
    size = POSITIONS // WINDOWS
    nll = math.log(PPL) * (size - 1)
    return [
        {
            "positions": size,
            "scored": size - 1,
            "kl": row.kl * size * chance.uniform(0.6, 1.4),
            "top1": round(row.top1 * size),
            "nll": nll * (1 + row.kl * chance.uniform(0, 1)),
            "nll_reference": nll,
        }
        for _ in range(WINDOWS)
    ]


def contract(row: Made) -> dict[str, CheckEntry]:
    llama, broken = row.format == "gguf", row.label == BROKEN
    checks = {
        "special_ids": _check("special tokens", 15, 15, "special_ids_equal"),
        "vocabulary": _check("text of every token id", 2512, 2512, "vocabulary_equal"),
        "tokens": _check("token ids of hard strings", 164, 164, "tokens_equal"),
        "templates": _check(
            "chat template of the file, rendered by jinja2",
            20,
            18 if broken else 20,
            "templates_equal",
            differences=_TEMPLATES if broken else (),
        ),
        "stops": _check("stop tokens that end a generation", 12, 12, "stops_equal"),
    }
    if llama:
        note = "the source puts text into normal form (NFC) before it cuts it, this runtime does not: send NFC"
        checks["normalization"] = _check("strings that are not in normal form", 4, 0, None, note, _NORMAL)
        note = "left out: images, for which the runtime has a marker of its own"
        title = "chat template, rendered by the runtime itself"
        checks["templates_runtime"] = _check(title, 13, 12, "templates_runtime_equal", note, _PARTS)
    if row.clicks is not None:
        checks["image_tokens"] = _check("image tokens of a size", 9, 9, "image_tokens_equal")
    return checks


_TEMPLATES: tuple[DifferenceEntry, ...] = (
    {"what": "system and user", "reference": "…'<|im_end|>\\n'", "candidate": "…'<|im_end|>'"},
    {"what": "tools", "reference": "…'# Tools\\n\\nYou may call'", "candidate": "…'You may call'"},
)
_PARTS: tuple[DifferenceEntry, ...] = (
    {
        "what": "text parts",
        "reference": "…'user\\nonetwo<|im_end|>\\n'",
        "candidate": "…'user\\none\\ntwo<|im_end|>\\n'",
    },
)
_NORMAL: tuple[DifferenceEntry, ...] = (
    {"what": "'cafe\\u0301 nai\\u0308ve'", "reference": "423 69 672 461 64", "candidate": "423 1734 136 223 461 64 72"},
    {
        "what": "'\\uac01 \\u1100\\u1161\\u11a8'",
        "reference": "166 108 223 220 166",
        "candidate": "166 108 223 220 157 226",
    },
)


def _check(
    title: str,
    total: int,
    equal: int,
    metric: str | None,
    note: str = "",
    differences: tuple[DifferenceEntry, ...] = (),
) -> CheckEntry:
    return {
        "title": title,
        "total": total,
        "equal": equal,
        "metric": metric,
        "note": note,
        "differences": list(differences),
    }


def greedy(row: Made, chance: random.Random) -> GreedyEntry:
    lengths = [64 if row.kl < 1e-6 else chance.choice((64, 64, 41, 20, 9)) for _ in range(8)]
    return {"prompts": 8, "prompt_tokens": 256, "tokens": 512, "equal": sum(lengths), "lengths": lengths}


def vision(row: Made, projector: FileEntry, chance: random.Random) -> VisionEntry:
    if row.clicks is None:
        reason = "" if row.label == NOT_RUN else "this format holds the text model alone"
        return {"reason": reason, "projector": None, "projector_type": "", "images": [], "clicks": None}
    images: list[ImageEntry] = [
        {
            "name": name,
            "width": width,
            "height": height,
            "resized": resized,
            "tokens": width * height // 784,
            "cosine_min": 0.99982 if resized else 0.9999995,
            "cosine_mean": 0.99995 if resized else 0.9999999,
            "max_error": 0.0189,
            "kl": row.kl * chance.uniform(0.005, 0.02),
            "next_reference": 2504,
            "next_candidate": 2504,
        }
        for name, width, height, resized in (("000.png", 224, 224, False), ("our drawing", 280, 196, False))
    ]
    clicks = {
        "tasks": 100,
        "accuracy_reference": 0.95,
        "accuracy": row.clicks,
        "same": round(row.top1 - 0.1, 2),
        "well_formed": 1.0,
        "distance": row.kl * 900,
    }
    return {
        "reason": "",
        "projector": projector,
        "projector_type": "F16",
        "images": images,
        "clicks": clicks,  # type: ignore[typeddict-item]
    }


_ITEMS = (
    ("ours", "The glass fell off the table and", " broke", " broke", " flew"),
    ("ours", "# Python\nwords = text.", "split", "split", "append"),
    ("arc_easy.jsonl", "Question: Which of these is a source of light?\nAnswer:", " the sun", " a cloud", " a stone"),
)


def choices(row: Made) -> ChoiceEntry:
    """Two sets of items; the more an output drifts, the more of them it answers otherwise."""
    lost = 0 if row.kl < 1e-5 else 1 if row.kl < 1e-2 else 9
    won, astray = lost // 3, min(lost, 2)
    ours, theirs = _counts("ours", 82, 61, lost, won, astray), _counts("arc_easy.jsonl", 100, 58, 0, won, 0)
    whole = _counts("", 182, 119, lost, 2 * won, astray)
    rows = _ITEMS[: min(3, lost)]
    changes: list[ChoiceChange] = [
        {"set": set_, "shown": shown, "right": right, "reference": source, "candidate": candidate}
        for set_, shown, right, source, candidate in rows
    ]
    return {"all": whole, "normalized": {**whole, "right": whole["right"] - 1}, "sets": [ours, theirs]} | {
        "changes": changes
    }  # type: ignore[return-value]


def _counts(name: str, items: int, right: int, lost: int, won: int, astray: int) -> ChoiceCounts:
    return {
        "name": name,
        "items": items,
        "right_reference": right,
        "right": right - lost + won,
        "right_to_wrong": lost,
        "wrong_to_right": won,
        "wrong_to_wrong": astray,
        "p": mcnemar(lost, won),
    }


def kv_cache() -> KvCacheEntry:
    """What five pairs of types come to; K of iq4_nl is one that its head size does not allow."""
    made = [("f32", "f32", 4.0, None), ("f16", "f16", 2.0, 2e-6), ("q8_0", "q8_0", 1.0625, 8e-5)]
    rows = [_cache(*one) for one in [*made, ("q8_0", "q4_0", 0.8125, 7e-3), ("q4_0", "q4_0", 0.5625, 3e-2)]]
    refused: CacheRowEntry = {**rows[0], "k": "iq4_nl", "bytes_1k": None, "bytes_limit": None, "needles": []}
    refused["reason"] = "K cache type iq4_nl with block size 32 does not divide n_embd_head_k=24"
    return {"limit": 8192, "positions": 2048, "rows": [*rows, refused], "stopped": "8,192 tokens would take long"}


def _cache(k: str, v: str, bytes_: float, kl: float | None) -> CacheRowEntry:
    found = 10 - int(100 * (kl or 0))
    return {
        "k": k,
        "v": v,
        "flash_attention": kl is not None,
        "asked": kl is not None,
        "reason": "",
        "bytes_1k": int(bytes_ * 11520 * 1024),
        "bytes_limit": int(bytes_ * 11520 * 8192),
        "kl": kl,
        "kl_low": None if kl is None else 0.8 * kl,
        "kl_high": None if kl is None else 1.3 * kl,
        "top1": None if kl is None else 1 - kl,
        "needles": [
            {"tokens": tokens, "asked": 10, "found": found, "log_probability": -1.5, "kl": kl}
            for tokens in (1024, 2048)
        ],
    }


def measurements(rows: Sequence[Made]) -> list[Measurement]:
    """What a ranking needs: draws of each row's KL, all alike but for a hundredth."""
    shared, own = np.random.default_rng(0).normal(1, 0.1, 1000), np.random.default_rng(1)
    return [
        Measurement(draws={} if row.label == NOT_RUN else {"kl_mean": row.kl * shared * own.normal(1, 0.01, 1000)})
        for row in rows
    ]


def speed(row: Made, chance: random.Random) -> SpeedEntry:
    return {
        "load_seconds": round(chance.uniform(0.1, 2.4), 3),
        "prefill_tokens_per_second": row.decode * chance.uniform(7, 12),
        "decode_tokens_per_second": row.decode * chance.uniform(0.95, 1.05),
        "peak_memory_bytes": row.size * 3 + 180_000_000,
        "threads": 2,
    }


_ERRORS = {"F16": 2.1e-4, "BF16": 1.7e-3, "Q8_0": 5.2e-3, "Q6_K": 1.8e-2, "Q5_K": 3.6e-2, "Q4_K": 7.3e-2}
_ERRORS |= {"Q3_K": 0.143, "Q2_K": 0.287}
_SHAPES = {"attn_q": 65536, "attn_k": 32768, "attn_v": 32768, "attn_output": 65536}
_SHAPES |= {"ffn_gate": 196608, "ffn_up": 196608, "ffn_down": 196608}


def tensors(row: Made, chance: random.Random) -> list[TensorEntry]:
    main = row.type.removesuffix("_M")
    finer = "Q6_K" if row.type.endswith("_M") else {"Q2_K": "Q3_K"}.get(main, main)

    def one(name: str, type_: str, values: int) -> TensorEntry:
        error = _ERRORS[type_] * chance.uniform(0.9, 1.15) if type_ in _ERRORS else 0.0
        return {"name": name, "type": type_, "values": values, "error": error}

    found = [one("token_embd.weight", main, 655360), one("output.weight", finer, 655360)]
    for layer in range(4):
        found.append(one(f"blk.{layer}.attn_norm.weight", "F32", 256))
        for role, values in _SHAPES.items():
            better = role in ("attn_v", "ffn_down") and layer >= 2
            found.append(one(f"blk.{layer}.{role}.weight", finer if better else main, values))
        found += [one(f"blk.{layer}.{role}.bias", "F32", 256) for role in ("attn_q", "attn_k", "attn_v")]
        found.append(one(f"blk.{layer}.ffn_norm.weight", "F32", 256))
    return [*found, one("output_norm.weight", "F32", 256)]


def file(path: str, size: int) -> FileEntry:
    return {"path": path, "size_bytes": size, "sha256": digest(path)}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
