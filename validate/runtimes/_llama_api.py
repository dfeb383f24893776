"""llama.cpp's C API, called through ctypes in the shared library of the xllamacpp wheel. No compiler needed.

The environment variable CONVERT_LLAMA_CPP names another build to call instead: a folder with libllama in it, beside it
libmtmd where images are to be shown. One made for this machine reads twice as fast as the wheel, which is for any.

Structs that are passed by value are declared as llama.h and mtmd.h of build 11549 lay them out, with room behind for
fields a later build adds, and are filled by llama.cpp's own `*_default_params()`. Before a field is set, `defaults`
compares what came back with the defaults those headers document: a build that moved a field is refused by name
instead of being handed a wrong number.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from validate.errors import RuntimeFailure

if TYPE_CHECKING:
    from ctypes import _CDataType

OWN_BUILD = "CONVERT_LLAMA_CPP"
GGML_TYPE_F32 = 0
GGML_TYPE_F16 = 1
GGUF_UINT32, GGUF_FLOAT32, GGUF_ARRAY = 4, 6, 9  # gguf_type
FLASH_ATTENTION_OFF, FLASH_ATTENTION_ON = 0, 1
LOAD_MODE_NONE = 0  # not mapped: what llama.cpp wants of a model that it allocates nothing for
AUTO = -1
IMAGE_CHUNK = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE
LOG_DEBUG, LOG_WARNING, LOG_CONTINUED = 1, 3, 5  # ggml_log_level

_Params = TypeVar("_Params", bound=C.Structure)
_SPARE = ("spare", C.c_uint8 * 512)


class ModelParams(C.Structure):
    """llama_model_params."""

    _fields_ = (
        *((name, C.c_void_p) for name in ("devices", "tensor_buft_overrides")),
        *((name, C.c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, C.c_void_p) for name in ("tensor_split", "progress_callback", "progress_data", "kv_overrides")),
        *((name, C.c_bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc")),
        _SPARE,
    )


class ContextParams(C.Structure):
    """llama_context_params."""

    _fields_ = (
        *((name, C.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, C.c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, C.c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, C.c_int32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, C.c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, C.c_float) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", C.c_uint32),
        ("defrag_thold", C.c_float),
        *((name, C.c_void_p) for name in ("cb_eval", "cb_eval_user_data")),
        *((name, C.c_int32) for name in ("type_k", "type_v")),
        _SPARE,
    )


class ImageParams(C.Structure):
    """mtmd_context_params."""

    _fields_ = (
        ("use_gpu", C.c_bool),
        ("device", C.c_void_p),
        ("print_timings", C.c_bool),
        ("n_threads", C.c_int32),
        *((name, C.c_void_p) for name in ("image_marker", "media_marker")),
        ("flash_attn_type", C.c_int32),
        ("warmup", C.c_bool),
        *((name, C.c_int32) for name in ("image_min_tokens", "image_max_tokens")),
        *((name, C.c_void_p) for name in ("cb_eval", "cb_eval_user_data")),
        ("batch_max_tokens", C.c_int32),
        _SPARE,
    )


class FileParams(C.Structure):
    """gguf_init_params of gguf.h."""

    _fields_ = (("no_alloc", C.c_bool), ("context", C.c_void_p))


class Batch(C.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", C.c_int32),
        ("token", C.POINTER(C.c_int32)),
        ("embd", C.POINTER(C.c_float)),
        ("pos", C.POINTER(C.c_int32)),
        ("n_seq_id", C.POINTER(C.c_int32)),
        ("seq_id", C.POINTER(C.POINTER(C.c_int32))),
        ("logits", C.POINTER(C.c_int8)),
    )


class Text(C.Structure):
    """mtmd_input_text."""

    _fields_ = (("text", C.c_char_p), ("length", C.c_size_t), ("add_special", C.c_bool), ("parse_special", C.c_bool))


# The defaults that show a struct is laid out as above: those that are not zero, and a neighbour or two.
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1, "rope_scaling_type": -1,
    "pooling_type": -1, "attention_type": -1, "flash_attn_type": AUTO, "rope_freq_base": 0.0, "yarn_ext_factor": -1.0,
    "yarn_beta_slow": -1.0, "yarn_orig_ctx": 0, "defrag_thold": -1.0, "cb_eval": None, "type_k": GGML_TYPE_F16,
    "type_v": GGML_TYPE_F16,
}  # fmt: skip
_MODEL_DEFAULTS = {
    "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1, "load_mode": AUTO,
    "main_gpu": 0, "tensor_split": None, "kv_overrides": None, "vocab_only": False, "check_tensors": False,
    "use_extra_bufts": True, "no_host": False, "no_alloc": False,
}  # fmt: skip
_IMAGE_DEFAULTS = {
    "use_gpu": True, "device": None, "print_timings": True, "n_threads": 4, "image_marker": None,
    "flash_attn_type": AUTO, "warmup": True, "image_min_tokens": -1, "image_max_tokens": -1, "cb_eval": None,
    "batch_max_tokens": 1024,
}  # fmt: skip

LogCallback = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)

_P, _I, _B, _F, _S = C.c_void_p, C.c_int32, C.c_bool, C.POINTER(C.c_float), C.c_char_p
_IS = C.POINTER(C.c_int32)
_SIGNATURES: tuple[tuple[str, type[_CDataType] | None, list[type[_CDataType]]], ...] = (  # name, result, arguments
    ("llama_backend_init", None, []),
    ("llama_log_set", None, [_P, _P]),
    ("llama_model_default_params", ModelParams, []),
    ("llama_model_load_from_file", _P, [_S, ModelParams]),
    ("llama_model_free", None, [_P]),
    ("llama_model_get_vocab", _P, [_P]),
    ("llama_model_n_embd_inp", _I, [_P]),
    ("llama_model_n_embd_out", _I, [_P]),
    ("llama_model_has_encoder", _B, [_P]),
    ("llama_model_has_decoder", _B, [_P]),
    ("llama_model_n_cls_out", C.c_uint32, [_P]),
    ("llama_model_n_params", C.c_uint64, [_P]),
    ("llama_model_meta_count", _I, [_P]),
    ("llama_model_meta_key_by_index", _I, [_P, _I, _S, C.c_size_t]),
    ("llama_model_meta_val_str", _I, [_P, _S, _S, C.c_size_t]),
    ("llama_vocab_n_tokens", _I, [_P]),
    ("llama_vocab_bos", _I, [_P]),
    ("llama_vocab_eos", _I, [_P]),
    ("llama_vocab_eot", _I, [_P]),
    ("llama_vocab_pad", _I, [_P]),
    ("llama_vocab_get_add_bos", _B, [_P]),
    ("llama_vocab_get_add_eos", _B, [_P]),
    ("llama_vocab_is_eog", _B, [_P, _I]),
    ("llama_vocab_get_text", _S, [_P, _I]),
    ("llama_vocab_get_attr", _I, [_P, _I]),
    ("llama_tokenize", _I, [_P, _S, _I, _IS, _I, _B, _B]),
    ("llama_detokenize", _I, [_P, _IS, _I, _S, _I, _B, _B]),
    ("llama_context_default_params", ContextParams, []),
    ("llama_init_from_model", _P, [_P, ContextParams]),
    ("llama_free", None, [_P]),
    ("llama_get_memory", _P, [_P]),
    ("llama_memory_clear", None, [_P, _B]),
    ("llama_state_seq_get_size", C.c_size_t, [_P, _I]),
    ("llama_batch_init", Batch, [_I, _I, _I]),
    ("llama_batch_free", None, [Batch]),
    ("llama_decode", _I, [_P, Batch]),
    ("llama_encode", _I, [_P, Batch]),
    ("llama_pooling_type", _I, [_P]),
    ("llama_set_embeddings", None, [_P, _B]),
    ("llama_get_embeddings_ith", _F, [_P, _I]),
    ("llama_get_embeddings_seq", _F, [_P, _I]),
    ("llama_get_logits", _F, [_P]),
    ("llama_get_logits_ith", _F, [_P, _I]),
    ("gguf_init_from_file", _P, [_S, FileParams]),
    ("gguf_free", None, [_P]),
    ("gguf_find_key", C.c_int64, [_P, _S]),
    ("gguf_get_kv_type", C.c_int, [_P, C.c_int64]),
    ("gguf_get_val_u32", C.c_uint32, [_P, C.c_int64]),
    ("gguf_get_arr_type", C.c_int, [_P, C.c_int64]),
    ("gguf_get_arr_n", C.c_size_t, [_P, C.c_int64]),
    ("gguf_get_arr_data", _P, [_P, C.c_int64]),
    ("gguf_find_tensor", C.c_int64, [_P, _S]),
    ("mtmd_log_set", None, [_P, _P]),
    ("mtmd_helper_log_set", None, [_P, _P]),
    ("mtmd_context_params_default", ImageParams, []),
    ("mtmd_init_from_file", _P, [_S, _P, ImageParams]),
    ("mtmd_free", None, [_P]),
    ("mtmd_support_vision", _B, [_P]),
    ("mtmd_default_marker", _S, []),
    ("mtmd_bitmap_init", _P, [C.c_uint32, C.c_uint32, _S]),
    ("mtmd_bitmap_free", None, [_P]),
    ("mtmd_input_chunks_init", _P, []),
    ("mtmd_input_chunks_free", None, [_P]),
    ("mtmd_input_chunks_size", C.c_size_t, [_P]),
    ("mtmd_input_chunks_get", _P, [_P, C.c_size_t]),
    ("mtmd_input_chunk_get_type", C.c_int, [_P]),
    ("mtmd_input_chunk_get_n_tokens", C.c_size_t, [_P]),
    ("mtmd_tokenize", _I, [_P, _P, C.POINTER(Text), C.POINTER(_P), C.c_size_t]),
    ("mtmd_encode_chunk", _I, [_P, _P]),
    ("mtmd_get_output_embd", _F, [_P]),
    ("mtmd_helper_get_n_tokens", C.c_size_t, [_P]),
    ("mtmd_helper_eval_chunks", _I, [_P, _P, _P, _I, _I, _I, _B, _IS]),
)


def own_build() -> Path | None:
    """The library of the build that the user names: libmtmd, which brings libllama along, else libllama itself.

    None where none is named; RuntimeFailure where there is no library at the place named.
    """
    named = os.environ.get(OWN_BUILD)
    if not named:
        return None
    folder = Path(named).absolute()
    for name in ("mtmd", "llama"):
        for suffix in (".so", ".dylib", ".dll"):
            path = folder / f"lib{name}{suffix}"
            if path.is_file():
                return path
    raise RuntimeFailure(
        f"{OWN_BUILD} is {named}: there is no libllama.so in it; name the folder of a llama.cpp build's libraries "
        "(build/bin, built with -DBUILD_SHARED_LIBS=ON)"
    )


def library_path() -> Path | None:
    """The shared library with llama.cpp in it: the user's own build, else that of xllamacpp, which is not imported.

    None when xllamacpp is not installed.
    """
    if own := own_build():
        return own
    spec = importlib.util.find_spec("xllamacpp")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((found for folder in folders for found in Path(folder).glob("xllamacpp*.so")), None)


@functools.cache
def library() -> C.CDLL:
    """The loaded library with every signature declared."""
    path = library_path()
    if path is None:
        raise RuntimeFailure("xllamacpp is not installed")
    try:
        lib = C.CDLL(str(path))
    except OSError as error:
        raise RuntimeFailure(f"{path} does not load: {error}") from error
    for name, result, arguments in _SIGNATURES:
        if name.startswith("mtmd") and path.stem == "libllama":
            continue  # a build without it shows no images
        try:
            function = getattr(lib, name)
        except AttributeError as error:
            raise RuntimeFailure(
                f"{path.name} has no function {name}: not the llama.cpp build this was made for"
            ) from error
        function.restype, function.argtypes = result, arguments
    return lib


def shows_images() -> bool:
    """Whether the library has mtmd in it."""
    path = library_path()
    return path is not None and path.stem != "libllama"


def context_params() -> ContextParams:
    """llama.cpp's default context parameters, their layout verified."""
    return _verified(library().llama_context_default_params(), _CONTEXT_DEFAULTS)  # type: ignore[no-any-return]


def unallocated_params() -> ModelParams:
    """Parameters of a model whose weights are not read: its contexts tell what they would take, and take nothing."""
    params: ModelParams = _verified(library().llama_model_default_params(), _MODEL_DEFAULTS)
    params.load_mode, params.no_alloc = LOAD_MODE_NONE, True
    return params


Place: TypeAlias = tuple[int, int, int, bool]
"""A token to read, where in its text it stands, which text that is, and whether it has logits then."""


def decode(context: int | None, places: Sequence[Place], *, encode: bool = False) -> int:
    """What llama_decode answers, 0 when all is well; or llama_encode, for the encoder of an encoder-decoder."""
    lib = library()
    batch = lib.llama_batch_init(len(places), 0, 1)
    try:
        batch.n_tokens = len(places)
        for i, (token, position, text, logits) in enumerate(places):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
            batch.seq_id[i][0] = text
        return int((lib.llama_encode if encode else lib.llama_decode)(context, batch))
    finally:
        lib.llama_batch_free(batch)


def image_params() -> ImageParams:
    """mtmd's default parameters, their layout verified."""
    return _verified(library().mtmd_context_params_default(), _IMAGE_DEFAULTS)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _header(path: Path) -> Iterator[int | None]:
    """gguf_context of a file without its tensors; None where it cannot be read."""
    lib = library()
    file = lib.gguf_init_from_file(os.fsencode(path), FileParams(True, None))
    try:
        yield file
    finally:
        if file:
            lib.gguf_free(file)


def pixel_limits(projector: Path) -> tuple[int, int] | None:
    """The least and the most pixels of an image that a projector file names; None where it names none."""
    lib = library()
    with _header(projector) as file:
        if not file:
            return None
        found = [lib.gguf_find_key(file, f"clip.vision.image_{name}_pixels".encode()) for name in ("min", "max")]
        if any(key < 0 or lib.gguf_get_kv_type(file, key) != GGUF_UINT32 for key in found):
            return None  # to read a number of another type ends the process
        least, most = (lib.gguf_get_val_u32(file, key) for key in found)
        return least, most


def image_numbers(projector: Path, key: str) -> tuple[float, ...]:
    """A float32 array of a projector file, such as clip.vision.image_mean; empty where it has none of that name."""
    lib = library()
    with _header(projector) as file:
        place = lib.gguf_find_key(file, key.encode()) if file else -1
        if place < 0 or lib.gguf_get_kv_type(file, place) != GGUF_ARRAY:
            return ()
        if lib.gguf_get_arr_type(file, place) != GGUF_FLOAT32:
            return ()
        data = C.cast(lib.gguf_get_arr_data(file, place), _F)
        return tuple(data[: lib.gguf_get_arr_n(file, place)])


def has_tensor(path: Path, name: str) -> bool:
    """Whether a file has a tensor of that name; of a model in shards, whether this shard has it."""
    lib = library()
    with _header(path) as file:
        return bool(file) and lib.gguf_find_tensor(file, name.encode()) >= 0


def _verified(params: _Params, defaults: Mapping[str, object]) -> _Params:
    for name, wanted in defaults.items():
        got = getattr(params, name)
        if got != wanted:
            raise RuntimeFailure(
                f"{type(params).__name__}.{name} is {got} by default, wanted {wanted}: this build of llama.cpp lays "
                "its parameters out in another way; install xllamacpp==2026.10.11549"
            )
    return params
