"""Contexts of llama.cpp that give what an encoder makes of a text: vectors of its tokens, one of it, or scores."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence

import numpy as np

from validate.errors import RuntimeFailure
from validate.runtimes import _llama_api as api
from validate.runtimes._llama_log import Log

NO_POOLING, RANK = 0, 4  # llama_pooling_type
AS_THE_FILE_SAYS = -1
NORMAL = 1 << 2  # LLAMA_TOKEN_ATTR_NORMAL


def as_bert_spells(vocab: int, pieces: Sequence[str]) -> list[str]:
    """WordPiece's pieces by their own spelling: llama.cpp marks where a word begins, BERT where one goes on."""
    kind = api.library().llama_vocab_get_attr
    return [_of_bert(piece) if kind(vocab, i) & NORMAL else piece for i, piece in enumerate(pieces)]


def _of_bert(piece: str) -> str:
    return piece[1:] if piece.startswith("▁") else f"##{piece}"


class Embedder:
    """The contexts for embeddings of one model; there is one at a time."""

    def __init__(self, model: int | None, threads: int | None, log: Log) -> None:
        self._lib, self._model, self._threads, self._log = api.library(), model, threads, log
        self._context: int | None = None
        self._made = (0, 0)  # for how many tokens, pooled how

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (width,): pooled as the file says, the mean of the tokens' vectors where it says nothing."""
        self._read(tokens, AS_THE_FILE_SAYS)
        pooling = self._lib.llama_pooling_type(self._context)
        if pooling == NO_POOLING:
            mean: np.ndarray = self._rows(len(tokens)).mean(0)
            return mean
        width = self._lib.llama_model_n_cls_out if pooling == RANK else self._lib.llama_model_n_embd_out
        return self._array(self._lib.llama_get_embeddings_seq(self._context, 0), int(width(self._model)))

    def token_vectors(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (token, width), not pooled."""
        self._read(tokens, NO_POOLING)
        return self._rows(len(tokens))

    def answer_logits(self, tokens: Sequence[int], answer: Sequence[int], vocab: int) -> np.ndarray:
        """float32 (token of the answer, vocab) of an encoder-decoder that has read `tokens`."""
        self._make(max(len(tokens), len(answer)), NO_POOLING, embeddings=False)
        self._decode(tokens, encode=True)
        self._decode(answer)
        return np.stack(
            [self._array(self._lib.llama_get_logits_ith(self._context, i), vocab) for i in range(len(answer))]
        )

    def close(self) -> None:
        """Free the context."""
        if self._context:
            self._lib.llama_free(self._context)
        self._context = None

    def _read(self, tokens: Sequence[int], pooling: int) -> None:
        if not tokens:
            raise RuntimeFailure("there are no tokens to embed")
        if self._made[0] < len(tokens) or self._made[1] != pooling:
            self._make(len(tokens), pooling)
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        alone = self._lib.llama_model_has_encoder(self._model) and not self._lib.llama_model_has_decoder(self._model)
        self._decode(tokens, encode=alone)

    def _decode(self, tokens: Sequence[int], encode: bool = False) -> None:
        places = [(token, position, 0, True) for position, token in enumerate(tokens)]
        if api.decode(self._context, places, encode=encode):
            raise self._log.failure(f"could not read {len(tokens)} tokens")

    def _make(self, tokens: int, pooling: int, embeddings: bool = True) -> None:
        """A context for so many tokens, all of which are read at once: each sees those behind it too."""
        self.close()
        params = api.context_params()
        params.n_ctx = params.n_batch = params.n_ubatch = -(-tokens // 256) * 256
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.FLASH_ATTENTION_OFF
        params.pooling_type = pooling
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise self._log.failure(f"could not make a context of {tokens} tokens for embeddings")
        self._lib.llama_set_embeddings(self._context, embeddings)
        self._made = (params.n_ctx, pooling)

    def _rows(self, count: int) -> np.ndarray:
        width = int(self._lib.llama_model_n_embd_out(self._model))
        return np.stack(
            [self._array(self._lib.llama_get_embeddings_ith(self._context, i), width) for i in range(count)]
        )

    def _array(self, found: C._Pointer[C.c_float], width: int) -> np.ndarray:
        if not found:
            raise self._log.failure("gave no embedding")
        return np.ctypeslib.as_array(found, (width,)).copy()
