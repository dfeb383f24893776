"""What an image becomes: on llama.cpp as mtmd cuts and encodes it, in transformers by the checkpoint's processor."""

from __future__ import annotations

import ctypes as C
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from validate.runtimes import _llama_api as api
from validate.runtimes.llama_cpp import LlamaSession
from validate.runtimes.transformers import TransformersSession


def llama_images(session: LlamaSession, prompt: str, pixels: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The prompt's tokens, -1 where an image has one, and the embeddings of all images, (token, value).

    With deepstack the values of later layers stand behind those of the first.
    """
    lib, width = session._lib, _width(session)
    ids: list[int] = []
    images: list[np.ndarray] = []
    with session._chunks(prompt, pixels) as chunks:
        for chunk in _each(lib, chunks):
            count = lib.mtmd_input_chunk_get_n_tokens(chunk)
            if lib.mtmd_input_chunk_get_type(chunk) != api.IMAGE_CHUNK:
                ids += _text(lib, chunk)
                continue
            assert lib.mtmd_encode_chunk(session._vision, chunk) == 0
            values = np.ctypeslib.as_array(lib.mtmd_get_output_embd(session._vision), (count, width))
            images.append(values.copy())
            ids += [-1] * count
    return ids, np.concatenate(images)


def _width(session: LlamaSession) -> int:
    """Values of what llama.cpp takes for a token's embedding."""
    read = session._lib.llama_model_n_embd_inp
    read.argtypes, read.restype = (C.c_void_p,), C.c_int32
    return int(read(session._model))


def _each(lib: Any, chunks: Any) -> Iterator[Any]:
    yield from (lib.mtmd_input_chunks_get(chunks, i) for i in range(lib.mtmd_input_chunks_size(chunks)))


def _text(lib: Any, chunk: Any) -> list[int]:
    read = lib.mtmd_input_chunk_get_tokens_text
    read.argtypes, read.restype = (C.c_void_p, C.POINTER(C.c_size_t)), C.POINTER(C.c_int32)
    count = C.c_size_t()
    tokens = read(chunk, C.byref(count))
    return list(tokens[: count.value])


def torch_inputs(folder: Path, pixels: np.ndarray) -> dict[str, Any]:
    """What the checkpoint's own image processor makes of an image."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return dict(processor(Image.fromarray(pixels), return_tensors="pt"))


Rows = tuple[int, int]  # tokens in a row of an image, and the id of the token that ends each row but the last


def torch_images(session: TransformersSession, inputs: dict[str, Any], rows: Rows | None = None) -> np.ndarray:
    """The embeddings of all images and parts of images, (token, value), deepstack's behind the others.

    With `rows`, of one image and of the tokens that end its rows.
    """
    import torch

    model: Any = session.model
    owner = model if hasattr(model, "get_image_features") else model.model
    with torch.inference_mode():
        out = owner.get_image_features(**inputs)
    layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
    flat = [torch.cat([part.reshape(-1, part.shape[-1]) for part in layer]) for layer in layers]
    found: np.ndarray = torch.cat(flat, -1).numpy()
    if rows is None:
        return found
    row, end = rows
    between = session.model.get_input_embeddings().weight[end].detach().float().numpy()
    return np.insert(found, range(row, len(found), row), between, axis=0)


def torch_logits(
    session: TransformersSession, ids: list[int], inputs: dict[str, Any], rows: Rows | None = None
) -> np.ndarray:
    """The logits after a prompt with images, whose tokens are -1 in `ids`; with `rows`, those that end rows too."""
    import torch

    if rows is not None:
        row, end = rows
        for place in [at for at, token in enumerate(ids) if token == -1][row :: row + 1]:
            ids = [*ids[:place], end, *ids[place + 1 :]]
    tokens = torch.tensor([ids])
    image = tokens == -1
    tokens = tokens.masked_fill(image, session.model.config.image_token_id)
    kinds = image.long()
    with torch.inference_mode():
        out = session.model(input_ids=tokens, mm_token_type_ids=kinds, token_type_ids=kinds, use_cache=False, **inputs)
    return out.logits[0, -1].numpy()  # type: ignore[no-any-return]
