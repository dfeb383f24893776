"""Contexts of llama.cpp whose cache is of another type than the session's own: F32, without flash attention.

What a cache takes is llama.cpp's own word, from its log: a second model of the same file, for which nothing is
allocated, makes a context of any length at no cost, and says how large its cache and its buffers would be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from validate.errors import RuntimeFailure
from validate.kv_cache import CacheSize, CacheTypes
from validate.runtimes import _llama_api as api
from validate.runtimes._llama_log import Log

READ_AT_ONCE = 512  # llama.cpp's own n_ubatch
GGML_TYPES = MappingProxyType(
    {
        "f32": api.GGML_TYPE_F32,
        "f16": api.GGML_TYPE_F16,
        "q4_0": 2,
        "q4_1": 3,
        "q5_0": 6,
        "q5_1": 7,
        "q8_0": 8,
        "iq4_nl": 20,
        "bf16": 30,
    }
)
# of llama_kv_cache; a model with a sliding window has two caches, and a line for each
_CACHE = re.compile(r"size = +([\d.]+) MiB \( *\d+ cells.*\bK \((\w+)\): +[\d.]+ MiB, V \((\w+)\)")
_BUFFER = re.compile(r"(?:compute|output) buffer size = +([\d.]+) MiB")
_MIB = 1 << 20


class Caches:
    """The contexts with other caches of one model; there is one at a time."""

    def __init__(self, path: Path, model: int | None, threads: int | None, log: Log) -> None:
        self._lib, self._path, self._model, self._threads, self._log = api.library(), path, model, threads, log
        self._unallocated: int | None = None  # the model without its weights, once a size was asked for
        self._context: int | None = None
        self._types: CacheTypes | None = None
        self._room = self._position = 0

    def size(self, types: CacheTypes, tokens: int) -> CacheSize:
        """What a context for so many tokens would take; nothing is allocated."""
        if self._unallocated is None:
            params = api.unallocated_params()
            self._unallocated = self._lib.llama_model_load_from_file(os.fsencode(self._path), params)
            if not self._unallocated:
                raise self._log.failure("could not read the file without its weights")
        context = self._make(self._unallocated, types, tokens)
        if not context:
            return CacheSize(0, 0, self._log.taken() or "llama.cpp does not say why")
        self._lib.llama_free(context)
        compute = sum(float(found[1]) for line in self._log.lines if (found := _BUFFER.search(line)))
        return CacheSize(self._cache_bytes(types), int(compute * _MIB))

    def open(self, types: CacheTypes, tokens: int) -> None:
        """An empty cache of these types for so many tokens, in place of the one before."""
        self._position = 0
        if types == self._types and tokens <= self._room:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
            return
        self._free()
        self._context = self._make(self._model, types, tokens)
        if not self._context:
            raise self._log.failure(f"could not make a context of {tokens} tokens with a cache of type {types}")
        self._cache_bytes(types)
        self._types, self._room = types, tokens

    def read(self, tokens: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
        """Logits float32 (wanted, vocab) behind the places of `tokens` that are wanted; they go into the open cache."""
        if self._position + len(tokens) > self._room:
            raise RuntimeFailure(f"{self._position + len(tokens)} tokens for a cache of {self._room}")
        vocab = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        found = np.empty((len(wanted), vocab), np.float32)
        places = {place: row for row, place in enumerate(wanted)}
        for start in range(0, len(tokens), READ_AT_ONCE):
            part = tokens[start : start + READ_AT_ONCE]
            here = [i for i in range(len(part)) if start + i in places]
            read = [(token, self._position + i, 0, start + i in places) for i, token in enumerate(part)]
            if api.decode(self._context, read):
                raise self._log.failure(f"could not decode {len(part)} tokens at position {self._position}")
            for i in here:
                row = self._lib.llama_get_logits_ith(self._context, i)
                found[places[start + i]] = np.ctypeslib.as_array(row, (vocab,))
            self._position += len(part)
        return found

    def state_bytes(self) -> int:
        """What llama.cpp would save of the cells in use: K, V and each cell's position."""
        return int(self._lib.llama_state_seq_get_size(self._context, 0))

    def close(self) -> None:
        """Free the context, and the model without weights."""
        self._free()
        if self._unallocated:
            self._lib.llama_model_free(self._unallocated)
        self._unallocated = None

    def _free(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        self._context = self._types = None
        self._room = 0

    def _make(self, model: int | None, types: CacheTypes, tokens: int) -> int | None:
        """A context, None where llama.cpp makes none; only what it says of this one is in the log then."""
        params = api.context_params()
        params.n_ctx = -(-tokens // 256) * 256  # llama.cpp rounds to 256 itself
        params.n_batch = params.n_ubatch = READ_AT_ONCE
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k, params.type_v = GGML_TYPES[types.k], GGML_TYPES[types.v]
        params.flash_attn_type = api.FLASH_ATTENTION_ON if types.flash_attention else api.FLASH_ATTENTION_OFF
        self._log.lines.clear()
        self._log.taken()
        context: int | None = self._lib.llama_init_from_model(model, params)
        return context

    def _cache_bytes(self, types: CacheTypes) -> int:
        """The size of the cache that was made last. Raises RuntimeFailure where it is of other types than asked."""
        found = [match for line in self._log.lines if (match := _CACHE.search(line))]
        for match in found:
            if match.group(2, 3) != (types.k, types.v):
                raise RuntimeFailure(f"llama.cpp was asked for a cache of type {types} and made another: {match[0]}")
        return int(sum(float(match[1]) for match in found) * _MIB)
