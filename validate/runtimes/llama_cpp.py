"""GGUF files on llama.cpp, text and (with a projector file) images, through its C API.

Settings that matter to numbers: the KV cache is F32 and flash attention is off, so that what is measured is the
weights' drift, not the cache's. llama.cpp's CPU kernels still round activations to the weight's companion type (F16
for F16 weights, Q8_0 for Q8_0): that is how people will run the file, and it is part of the drift.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from validate.distribution import install_command
from validate.errors import RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.kv_cache import CacheSize, CacheTypes
from validate.runtimes import _llama_api as api
from validate.runtimes import _llama_settings
from validate.runtimes._llama_cache import Caches
from validate.runtimes._llama_embeddings import Embedder, as_bert_spells
from validate.runtimes._llama_log import Log
from validate.runtimes._llama_server import LlamaServer
from validate.runtimes._threads import useful_threads
from validate.runtimes.base import IMAGE_MARK, Identity, ModelSettings, Runtime, Session

READ_AT_ONCE = 512  # tokens of a prompt with an image
Handle: TypeAlias = int  # a pointer of the C API, as ctypes gives one back


class LlamaSession(Session):
    """A GGUF model in this process; see Session for the methods."""

    _vocab: Handle
    _n_vocab: int
    _projector: Path

    def __init__(self, model: Path, projector: Path | None, context: int, threads: int | None) -> None:
        self._lib = api.library()
        self._log = Log()
        self._path, self.threads = model, threads or useful_threads(model)
        self._model = self._context = self._vision = None
        self._room, self._rows = 0, 1  # tokens that fit into the context, of each of so many texts
        self._server: LlamaServer | None = None  # once one was needed
        self._caches: Caches | None = None  # once other types of the cache were asked for
        self._embedder: Embedder | None = None  # once an embedding was
        self._pixel_limits: tuple[int, int] | None = None
        self._lib.llama_backend_init()
        try:
            with self.loading():
                self._open(model, projector, context)
        except BaseException:
            self.close()
            raise

    # ---- loading and freeing

    def _open(self, model: Path, projector: Path | None, context: int) -> None:
        self._model = self._lib.llama_model_load_from_file(os.fsencode(model), self._lib.llama_model_default_params())
        if not self._model:
            raise self._log.failure("could not load the file")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self._n_vocab = self._lib.llama_vocab_n_tokens(self._vocab)
        self._make_room(context)
        if projector is not None:
            self._open_projector(projector)

    def _make_room(self, tokens: int, rows: int = 1) -> None:
        """A context for at least `tokens` positions of each of `rows` texts, all of which may ask for logits."""
        if self._room >= tokens and self._rows == rows:
            return
        params = api.context_params()
        params.n_batch = params.n_ubatch = -(-tokens // 256) * 256  # llama.cpp rounds to 256 itself
        params.n_ctx, params.n_seq_max = rows * params.n_batch, rows
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.FLASH_ATTENTION_OFF
        if self._context:
            self._lib.llama_free(self._context)
        self._context, self._room = self._lib.llama_init_from_model(self._model, params), 0
        if not self._context:
            raise self._log.failure(f"could not make a context of {tokens} tokens")
        cache = [line for line in self._log.lines if "K (" in line and "V (" in line]
        if cache and "K (f32)" not in cache[-1]:
            raise RuntimeFailure(f"llama.cpp was asked for an F32 cache and made another: {cache[-1]}")
        self._room, self._rows = params.n_batch, rows

    def _open_projector(self, projector: Path) -> None:
        if not api.shows_images():
            raise Unsupported(f"{api.library_path()} has no libmtmd beside it, which shows images to llama.cpp")
        params = api.image_params()
        params.n_threads, params.print_timings, params.warmup = self.threads, False, False
        params.flash_attn_type = api.FLASH_ATTENTION_OFF
        self._vision = self._lib.mtmd_init_from_file(os.fsencode(projector), self._model, params)
        if not self._vision:
            raise self._log.failure(f"could not load the projector {projector.name}")
        self._projector, self._pixel_limits = projector, api.pixel_limits(projector)

    def close(self) -> None:
        self._server = None  # its destructor stops it
        for contexts in (self._caches, self._embedder):
            if contexts is not None:
                contexts.close()
        lib = self._lib
        if self._vision:
            lib.mtmd_free(self._vision)
        for free, handle in ((lib.llama_free, self._context), (lib.llama_model_free, self._model)):
            if handle:
                free(handle)
        self._vision = self._context = self._model = None

    # ---- the vocabulary

    def identity(self) -> Identity:
        lib, vocab = self._lib, self._vocab
        return Identity(
            self._n_vocab,
            bos=lib.llama_vocab_bos(vocab),
            eos=lib.llama_vocab_eos(vocab),
            eot=lib.llama_vocab_eot(vocab),
            pad=lib.llama_vocab_pad(vocab),
            end_of_generation=frozenset(i for i in range(self._n_vocab) if lib.llama_vocab_is_eog(vocab, i)),
            adds_bos=lib.llama_vocab_get_add_bos(vocab),
            adds_eos=lib.llama_vocab_get_add_eos(vocab),
            templates=self._templates(),
            has_vision=bool(self._vision and lib.mtmd_support_vision(self._vision)),
            parameters=lib.llama_model_n_params(self._model),
            pixel_limits=self._pixel_limits,
        )

    def settings(self) -> ModelSettings:
        return _llama_settings.settings(self._metadata, self._path, self._projector if self._vision else None)

    def _templates(self) -> dict[str, str]:
        prefix = "tokenizer.chat_template"
        keys = [key for key in self._metadata_keys() if key == prefix or key.startswith(f"{prefix}.")]
        return {key.removeprefix(prefix).removeprefix(".") or "default": self._metadata(key) for key in keys}

    def _metadata_keys(self) -> Iterator[str]:
        buffer = C.create_string_buffer(1024)
        for i in range(self._lib.llama_model_meta_count(self._model)):
            if self._lib.llama_model_meta_key_by_index(self._model, i, buffer, len(buffer)) >= 0:
                yield buffer.value.decode(errors="replace")

    def _metadata(self, key: str) -> str:
        size = self._lib.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        buffer = C.create_string_buffer(max(size, 0) + 1)
        self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.raw[: max(size, 0)].decode(errors="replace")

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        raw = text.encode(errors="surrogatepass")
        room = len(raw) + 8
        while True:
            ids = (C.c_int32 * room)()
            count = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, parse_special)
            if count >= 0:
                return ids[:count]
            if -count <= room:
                raise self._log.failure(f"could not tokenize {len(raw)} bytes")
            room = -count  # it says how many it needs

    def detokenize(self, tokens: Sequence[int]) -> str:
        ids = (C.c_int32 * len(tokens))(*tokens)
        room = 16 * len(tokens) + 16
        while True:
            buffer = C.create_string_buffer(room)
            count = self._lib.llama_detokenize(self._vocab, ids, len(tokens), buffer, room, False, False)
            if count >= 0:
                return buffer.raw[:count].decode(errors="replace")
            room = -count

    def pieces(self) -> list[str]:
        text = self._lib.llama_vocab_get_text
        found = [(text(self._vocab, i) or b"").decode(errors="replace") for i in range(self._n_vocab)]
        return as_bert_spells(self._vocab, found) if self._metadata("tokenizer.ggml.model") == "bert" else found

    # ---- text

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self._make_room(len(tokens))
        self._clear_cache()
        self._decode(tokens, 0, every=True)
        shape = (len(tokens), self._n_vocab)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), shape).copy()

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        self._make_room(len(tokens))
        self._clear_cache()
        rows = []
        for position, token in enumerate(tokens):
            self._decode([token], position)
            rows.append(self._last_logits().copy())
        return np.stack(rows)

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        self._make_room(len(tokens) + count)
        self._clear_cache()
        self._decode(tokens, 0)
        return self._continue(len(tokens), count)

    def generate_all(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """All in one context: what a token costs is mostly to read the weights, and they are read once for all."""
        self._make_room(max(map(len, prompts)) + count, len(prompts))
        self._clear_cache()
        written = list[list[int]]()
        for row, prompt in enumerate(prompts):
            self._decode(prompt, 0, row=row)
            written.append([int(self._last_logits().argmax())])
        for _ in range(1, count):
            going = [i for i, text in enumerate(written) if not self._lib.llama_vocab_is_eog(self._vocab, text[-1])]
            if not going:
                break
            self._decode_places([(written[i][-1], len(prompts[i]) + len(written[i]) - 1, i, True) for i in going])
            for place, i in enumerate(going):
                written[i].append(int(self._last_logits(place).argmax()))
        return written

    def _continue(self, position: int, count: int) -> list[int]:
        """Greedy tokens after what was decoded last."""
        out: list[int] = []
        while len(out) < count:
            token = int(self._last_logits().argmax())
            out.append(token)
            if self._lib.llama_vocab_is_eog(self._vocab, token):
                break
            if len(out) < count:
                self._decode([token], position)
                position += 1
        return out

    def _last_logits(self, place: int = -1) -> np.ndarray:
        """Of a token of the last decode, a view of llama.cpp's own buffer: the next decode overwrites it."""
        last = self._lib.llama_get_logits_ith(self._context, place)
        if not last:
            raise self._log.failure("has no logits for the last token")
        return np.ctypeslib.as_array(last, (self._n_vocab,))

    def _clear_cache(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise RuntimeFailure("there are no tokens to decode")
        wrong = [token for token in tokens if not 0 <= token < self._n_vocab]
        if wrong:
            raise RuntimeFailure(f"token id {wrong[0]} is outside of a vocabulary of {self._n_vocab}")

    def _decode(self, tokens: Sequence[int], position: int, every: bool = False, row: int = 0) -> None:
        """Read tokens of one text; `every` one of them has logits then, or the last."""
        last = len(tokens) - 1
        self._decode_places([(token, position + i, row, every or i == last) for i, token in enumerate(tokens)])

    def _decode_places(self, places: Sequence[api.Place]) -> None:
        self._check_ids([token for token, *_ in places])
        if api.decode(self._context, places):
            raise self._log.failure(f"could not decode {len(places)} tokens at position {places[0][1]}")

    # ---- other types of the cache

    def cache_size(self, types: CacheTypes, tokens: int) -> CacheSize:
        return self._other_caches().size(types, tokens)

    def open_cache(self, types: CacheTypes, tokens: int) -> None:
        self._other_caches().open(types, tokens)

    def read_cached(self, tokens: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
        self._check_ids(tokens)
        return self._other_caches().read(tokens, wanted)

    def _other_caches(self) -> Caches:
        self._caches = self._caches or Caches(self._path, self._model, self.threads, self._log)
        return self._caches

    # ---- embeddings

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        self._check_ids(tokens)
        return self.embedder.embed(tokens)

    @property
    def embedder(self) -> Embedder:
        """What reads texts as an encoder does, for who wants more than `embed` gives."""
        self._embedder = self._embedder or Embedder(self._model, self.threads, self._log)
        return self._embedder

    # ---- images

    @contextlib.contextmanager
    def _chunks(self, prompt: str, pixels: np.ndarray) -> Iterator[Handle]:
        """The prompt cut by mtmd into text and image chunks; freed at the end."""
        if not self._vision:
            raise Unsupported("no projector file was given")
        lib = self._lib
        raw = prompt.replace(IMAGE_MARK, lib.mtmd_default_marker().decode()).encode()
        pixels = np.ascontiguousarray(pixels, np.uint8)
        height, width, _ = pixels.shape
        bitmap, chunks = lib.mtmd_bitmap_init(width, height, pixels.tobytes()), lib.mtmd_input_chunks_init()
        try:
            text = api.Text(raw, len(raw), False, True)
            if lib.mtmd_tokenize(self._vision, chunks, C.byref(text), (C.c_void_p * 1)(bitmap), 1):
                raise self._log.failure("could not cut the prompt into text and image")
            yield chunks
        finally:
            lib.mtmd_input_chunks_free(chunks)
            lib.mtmd_bitmap_free(bitmap)

    @contextlib.contextmanager
    def _image_chunks(self, pixels: np.ndarray) -> Iterator[list[tuple[Handle, int]]]:
        """The chunks that mtmd makes of an image, one for each tile, and how many tokens each has."""
        lib = self._lib
        with self._chunks(IMAGE_MARK, pixels) as chunks:
            every = [lib.mtmd_input_chunks_get(chunks, i) for i in range(lib.mtmd_input_chunks_size(chunks))]
            found = [chunk for chunk in every if lib.mtmd_input_chunk_get_type(chunk) == api.IMAGE_CHUNK]
            if not found:
                raise RuntimeFailure("llama.cpp made no image chunk of an image")
            yield [(chunk, lib.mtmd_input_chunk_get_n_tokens(chunk)) for chunk in found]

    def image_tokens(self, width: int, height: int) -> int:
        with self._image_chunks(np.zeros((height, width, 3), np.uint8)) as chunks:
            return sum(count for _, count in chunks)

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        with self._image_chunks(pixels) as chunks:
            return np.concatenate([self._embed(chunk, count) for chunk, count in chunks])

    def _embed(self, chunk: Handle, count: int) -> np.ndarray:
        """Embeddings (image token, what the text model takes): its width, and more where deeper layers take some."""
        lib = self._lib
        if lib.mtmd_encode_chunk(self._vision, chunk):
            raise self._log.failure("could not encode the image")
        shape = (count, lib.llama_model_n_embd_inp(self._model))
        return np.ctypeslib.as_array(lib.mtmd_get_output_embd(self._vision), shape).copy()

    def _read(self, prompt: str, pixels: np.ndarray, more: int) -> int:
        """Decode a prompt with an image; the position of the next token."""
        with self._chunks(prompt, pixels) as chunks:
            self._make_room(self._lib.mtmd_helper_get_n_tokens(chunks) + more)
            self._clear_cache()
            past = C.c_int32()
            if self._lib.mtmd_helper_eval_chunks(
                self._vision, self._context, chunks, 0, 0, READ_AT_ONCE, True, C.byref(past)
            ):
                raise self._log.failure("could not evaluate the image prompt")
            return past.value

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        self._read(prompt, pixels, 1)
        return self._last_logits().copy()

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return [
            self._continue(self._read(prompt, pixels, count), count)
            for prompt, pixels in zip(prompts, images, strict=True)
        ]

    # ---- the template

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        """What llama.cpp's server makes of a conversation: its own template engine, not jinja2."""
        if self._server is None:
            try:
                self._server = LlamaServer(self._path, self._projector if self._vision else None)
            finally:
                self._log.install()
        return self._server.render(messages, tools, generation_prompt)


class LlamaCpp(Runtime):
    """llama.cpp, in the xllamacpp wheel, or a build of the user's own."""

    NAME = "llama.cpp"
    DISTRIBUTIONS = ("xllamacpp",)
    FORMATS = ("gguf",)

    def available(self) -> str | None:
        """Why llama.cpp cannot run here, or None."""
        try:
            missing = api.library_path() is None
        except RuntimeFailure as error:
            return str(error)
        return f"xllamacpp is not installed: {install_command('validate')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return self.build() or f"xllamacpp {importlib.metadata.version('xllamacpp')}"

    def build(self) -> str:
        """The user's own build by its place and what is in it; empty for xllamacpp's."""
        own = api.own_build()
        if own is None:
            return ""
        parts = (own, *sorted(own.parent.glob("libllama.*")), *sorted(own.parent.glob("libggml*.*")))
        digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in parts))
        return f"{own.parent}, sha256 {digest.hexdigest()[:12]}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> LlamaSession:
        """A session on a GGUF file; `context` is the longest window of tokens it will be asked for."""
        return LlamaSession(model, projector, context, threads)


RUNTIME = LlamaCpp()
