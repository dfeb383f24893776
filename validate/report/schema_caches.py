"""The words of report.json for the types of llama.cpp's key-value cache; schema.py has the others."""

from __future__ import annotations

from typing_extensions import TypedDict


class NeedlesEntry(TypedDict):
    """Facts in a text of about `tokens` tokens, asked for at its end; `found`: the whole answer is the likeliest."""

    tokens: int
    asked: int
    found: int
    log_probability: float | None  # of an answer, mean
    kl: float | None  # of the answers' tokens from the exact cache's, mean; null of that itself


class CacheRowEntry(TypedDict):
    """One pair of cache types. `reason` is why llama.cpp makes no such cache; nothing else is known then."""

    k: str  # as -ctk has it
    v: str  # as -ctv has it
    flash_attention: bool
    asked: bool  # by the recipe; the others are what those are read beside
    reason: str
    bytes_1k: int | None  # of a cache for 1,024 tokens, as llama.cpp says
    bytes_limit: int | None  # of one for as many as the model was made for
    kl: float | None  # mean over `positions` from the exact cache of the same file; null of that itself
    kl_low: float | None  # its 95 % confidence interval
    kl_high: float | None
    top1: float | None  # share of those positions whose most likely token is the exact cache's
    needles: list[NeedlesEntry]


class KvCacheEntry(TypedDict):
    """Cache types of one output. The first row is exact: F32 without flash attention, what all are compared with."""

    limit: int  # tokens that the model was made for
    positions: int
    rows: list[CacheRowEntry]
    stopped: str  # why no longer text was read; empty where the last was as long as was asked
