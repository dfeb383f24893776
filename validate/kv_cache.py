"""Types of llama.cpp's key-value cache: their names, and what was found out about each.

CacheTypes.parse("q8_0")         -ctk q8_0 -ctv q8_0 -fa on
CacheTypes.parse("q8_0/q4_0")    -ctk q8_0 -ctv q4_0 -fa on
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

FORMAT = "gguf"  # whose runtime has such a cache
NAMES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What `-ctk` and `-ctv` take (kv_cache_types in llama.cpp's common/arg.cpp)."""


@dataclass(frozen=True)
class CacheTypes:
    """The types of K and of V. Quantized V needs flash attention, so that all but EXACT have it."""

    k: str
    v: str
    flash_attention: bool = True

    @classmethod
    def parse(cls, word: str) -> CacheTypes:
        """One type for both, or two around a slash as -ctk and -ctv have them. Raises ValueError for what is none."""
        k, _, v = word.partition("/")
        for name in (k, v or k):
            if name not in NAMES:
                near = difflib.get_close_matches(name.lower(), NAMES, 1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"'{word}': llama.cpp has no cache of type '{name}', only {', '.join(NAMES)}{hint}")
        return cls(k, v or k)

    def __str__(self) -> str:
        return self.k if self.k == self.v else f"{self.k}/{self.v}"


EXACT = CacheTypes("f32", "f32", flash_attention=False)
"""What every other cache of a file is compared with."""

SIZED_TOKENS = 1024  # of the cache whose bytes are told beside those of the model's limit

PLAIN = CacheTypes("f16", "f16")
"""Measured whatever is asked: what llama.cpp takes when nothing is said, and what flash attention does by itself,
before which llama.cpp turns K and V of an F32 cache into F16 too."""


@dataclass(frozen=True)
class CacheSize:
    """What a context of so many tokens takes, as llama.cpp says; `refused` is why it makes none."""

    cache_bytes: int
    compute_bytes: int = 0  # beside the cache
    refused: str = ""


@dataclass(frozen=True)
class CacheQuestion:
    """The types that a recipe asks for; `longest` text with needles in tokens, the model's own limit when None."""

    types: Sequence[CacheTypes]
    longest: int | None = None

    @property
    def rows(self) -> list[CacheTypes]:
        """What is measured, in order, EXACT aside."""
        return list(dict.fromkeys((PLAIN, *self.types)))


# ---- what was found


@dataclass(frozen=True)
class Needles:
    """Facts in a text of `tokens` tokens that were asked for at its end.

    One is found when every token of its answer is the likeliest behind those before it.
    """

    tokens: int
    asked: int
    found: int
    log_probability: float  # of an answer, mean
    kl: float | None  # of its tokens from the exact cache's, mean; None of that itself


@dataclass(frozen=True)
class CacheRow:
    """One pair of types. `reason` is why llama.cpp makes no such cache; nothing else is known then."""

    k: str
    v: str
    flash_attention: bool
    asked: bool  # by the recipe; the others are what those are read beside
    reason: str = ""
    bytes_1k: int | None = None  # of a cache for 1,024 tokens
    bytes_limit: int | None = None  # and for as many as the model reads
    kl: float | None = None  # from the exact cache, mean over the positions of the windows; None of that itself
    kl_low: float | None = None  # its 95 % confidence interval
    kl_high: float | None = None
    top1: float | None = None  # share of those positions whose likeliest token is the exact cache's
    needles: Sequence[Needles] = ()


@dataclass(frozen=True)
class CacheDrift:
    """The cache types of one output against the exact cache of the same file, which is the first row."""

    limit: int  # tokens that the model was made for
    positions: int  # of the windows
    rows: Sequence[CacheRow]
    stopped: str  # why no longer text was read; empty where the model's limit was reached
