"""What a sound becomes: on llama.cpp as mtmd cuts and encodes it, in transformers by the checkpoint's own extractor."""

from __future__ import annotations

import contextlib
import ctypes as C
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.sight import _each, _text, _width
from validate.runtimes import IMAGE_MARK
from validate.runtimes import _llama_api as api
from validate.runtimes.llama_cpp import READ_AT_ONCE, LlamaSession

RATE = 16000  # samples a second
SOUND_CHUNK = 2  # mtmd.h, MTMD_INPUT_CHUNK_TYPE_AUDIO


def sound(seconds: float) -> np.ndarray:
    """Two tones that rise, one of them coming and going, in noise: something in every band, at every moment."""
    at = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(2).normal(0.0, 0.05, len(at))
    low = np.sin(2 * np.pi * (200 + 10 * at) * at)
    high = np.sin(2 * np.pi * (1500 + 40 * at) * at) * (np.sin(2 * np.pi * 0.7 * at) > 0)
    return np.asarray(0.3 * low + 0.2 * high + noise, np.float32)


@contextlib.contextmanager
def _chunks(session: LlamaSession, prompt: str, samples: np.ndarray) -> Iterator[Any]:
    lib = session._lib
    make = lib.mtmd_bitmap_init_from_audio
    make.argtypes, make.restype = (C.c_size_t, C.c_void_p), C.c_void_p
    raw = prompt.replace(IMAGE_MARK, lib.mtmd_default_marker().decode()).encode()
    bitmap, chunks = make(len(samples), samples.ctypes.data), lib.mtmd_input_chunks_init()
    try:
        text = api.Text(raw, len(raw), False, True)
        assert not lib.mtmd_tokenize(session._vision, chunks, C.byref(text), (C.c_void_p * 1)(bitmap), 1)
        yield chunks
    finally:
        lib.mtmd_input_chunks_free(chunks)
        lib.mtmd_bitmap_free(bitmap)


def llama_sounds(session: LlamaSession, prompt: str, samples: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The prompt's tokens, -1 where the sound has one, and the embeddings of the sound, (token, value)."""
    lib, width = session._lib, _width(session)
    ids: list[int] = []
    sounds: list[np.ndarray] = []
    with _chunks(session, prompt, samples) as chunks:
        for chunk in _each(lib, chunks):
            count = lib.mtmd_input_chunk_get_n_tokens(chunk)
            if lib.mtmd_input_chunk_get_type(chunk) != SOUND_CHUNK:
                ids += _text(lib, chunk)
                continue
            assert lib.mtmd_encode_chunk(session._vision, chunk) == 0
            values = np.ctypeslib.as_array(lib.mtmd_get_output_embd(session._vision), (count, width))
            sounds.append(values.copy())
            ids += [-1] * count
    return ids, np.concatenate(sounds)


def llama_logits(session: LlamaSession, prompt: str, samples: np.ndarray) -> np.ndarray:
    """The logits after a prompt with a sound."""
    lib = session._lib
    with _chunks(session, prompt, samples) as chunks:
        session._make_room(lib.mtmd_helper_get_n_tokens(chunks) + 1)
        session._clear_cache()
        past = C.c_int32()
        assert not lib.mtmd_helper_eval_chunks(
            session._vision, session._context, chunks, 0, 0, READ_AT_ONCE, True, C.byref(past)
        )
        return session._last_logits().copy()


def torch_inputs(folder: Path, samples: np.ndarray) -> dict[str, Any]:
    """What the checkpoint's own feature extractor makes of a sound."""
    from transformers import AutoFeatureExtractor

    extract = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    return dict(extract(samples, sampling_rate=RATE, return_tensors="pt"))


def torch_sounds(case: Any, model: Any, inputs: dict[str, Any]) -> np.ndarray:
    """The embeddings of a sound, (token, value), by the case's word for how its model makes them."""
    import torch

    with torch.inference_mode():
        found = case.heard(model, inputs)
    found = found if isinstance(found, torch.Tensor) else found.pooler_output
    rows: np.ndarray = found.reshape(-1, found.shape[-1]).numpy()
    return rows


def torch_logits(model: Any, ids: list[int], sounds: np.ndarray) -> np.ndarray:
    """The logits after a prompt with a sound, whose tokens are -1 in `ids` and have these embeddings."""
    import torch

    tokens = torch.tensor([ids])
    with torch.inference_mode():
        values = model.get_input_embeddings()(tokens.clamp(min=0)).clone()
        values[tokens == -1] = torch.from_numpy(sounds)
        out = model(inputs_embeds=values, attention_mask=torch.ones_like(tokens), use_cache=False)
    logits: np.ndarray = out.logits[0, -1].numpy()
    return logits
