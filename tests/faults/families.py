"""Damage that only some families can have: experts, softcaps, sliding windows, scores, tied heads, rotary factors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from convert.errors import InputError
from tests import tiny
from tests.faults.gguf_metadata import without
from tests.faults.gguf_tensors import copied, damaged, edit, unpermuted, zero
from tests.faults.grid import DOWN
from tests.faults.kinds import SUITE, Damaged, Honest
from tests.fixtures_gguf import LLAMA3_ROPE
from tests.fixtures_validate import rewritten

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
TURN_END = 300  # a token that nothing but the generation config and the file calls an end
Q4_0, Q4_K = 2, 12  # ggml.h, enum ggml_type: both 4.5 bits a weight


def tiny_llama_of_two_ends(folder: Path) -> Path:
    """A Llama 3's positions, and a second end of text that no runtime knows by its name."""
    tiny.tiny_llama(folder, rope_scaling=LLAMA3_ROPE)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, TURN_END]}))
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "moe": tiny.tiny_qwen3_moe,
    "gemma2": lambda folder: tiny.tiny_gemma2(folder, query_pre_attn_scalar=24),
    "llama": tiny_llama_of_two_ends,
    "yarn": lambda folder: tiny.tiny_qwen2(folder, rope_scaling=YARN),
    "longrope": lambda folder: tiny.tiny_phi3(folder, longrope=True, original_max_position_embeddings=256),
}


def duplicated(data: np.ndarray) -> np.ndarray:
    data[1] = data[0]
    return data


def field(name: str, model: str, key: str, value: object, place: str = "", fast: bool = False) -> None:
    SUITE.add(name, lambda h, out: damaged(h, out, "f16", {}, **{key: value}), place or key, model=model, fast=fast)


def head_of_its_own(h: Honest, out: Path) -> Damaged:
    """A tied head written once more, and twice as large."""
    import gguf

    reader = gguf.GGUFReader(h.outputs["f16"])
    extra = next(t for t in reader.tensors if t.name == "token_embd.weight")
    writer_class = gguf.GGUFWriter

    class Writer(writer_class):  # type: ignore[misc, valid-type]
        def write_header_to_file(self, path: Path | None = None) -> None:
            self.add_tensor("output.weight", np.array(extra.data) * np.float16(2), raw_dtype=extra.tensor_type)
            super().write_header_to_file(path)

    gguf.GGUFWriter = Writer
    try:
        return Damaged(rewritten(h.outputs["f16"], out / "damaged.gguf", {}))
    finally:
        gguf.GGUFWriter = writer_class


def recorded_as(name: str, wrong: int) -> Callable[[Honest, Path], Damaged]:
    """The header says another type of a tensor's blocks, of as many bytes."""

    def make(h: Honest, out: Path) -> Damaged:
        raw = bytearray(h.outputs["q4"].read_bytes())
        at = raw.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
        (dimensions,) = struct.unpack_from("<I", raw, at)
        at += 4 + 8 * dimensions
        if struct.unpack_from("<I", raw, at) != (Q4_K,):
            raise ValueError(f"{name} is not Q4_K")
        struct.pack_into("<I", raw, at, wrong)
        (out / "damaged.gguf").write_bytes(raw)
        return Damaged(out / "damaged.gguf", h.projector)

    return make


def other_values(data: np.ndarray) -> np.ndarray:
    draw = np.random.default_rng(5).standard_normal(data.shape) * float(np.asarray(data, np.float32).std())
    return draw.astype(data.dtype)


def projector_of_another(h: Honest, out: Path) -> Damaged:
    assert h.projector is not None
    file = out / "sound.gguf"
    file.hardlink_to(h.outputs["f16"])
    change = lambda name, data: other_values(data)  # noqa: E731
    return Damaged(file, rewritten(h.projector, out / "mmproj.gguf", {}, change))


def shard_of_another(h: Honest, out: Path) -> Damaged:
    """Layers 2 and 3 with another model's values, as where a second shard was taken from its folder."""
    from gguf import GGUFReader

    names = [t.name for t in GGUFReader(h.outputs["f16"]).tensors if t.name.startswith(("blk.2.", "blk.3."))]
    return damaged(h, out, "f16", dict.fromkeys(names, other_values))


def _imatrix(path: Path, name: str, sums: np.ndarray) -> Path:
    """A matrix in llama.cpp's format, of one tensor."""
    import gguf

    writer = gguf.GGUFWriter(path, "imatrix", use_temp_file=False)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["other.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor(f"{name}.in_sum2", sums)
    writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def imatrix_of_another(h: Honest, out: Path) -> Damaged:
    """Asked for with a matrix of another model: nothing is made, the plan says why."""
    from convert.plan import plan
    from convert.recipe import recipe_of

    matrix = _imatrix(out / "other.gguf", "blk.1.ffn_down.weight", np.ones((1, 96), np.float32))
    words = {
        "name": "other",
        "model": {"path": str(h.source)},
        "stages": {"gguf": {"use": "gguf", "types": ["Q2_K"], "imatrix": str(matrix), "mmproj": False}},
    }
    problems = plan(recipe_of(words, Path("faults")), out / "out").problems
    if problems:
        raise InputError("imatrix", "; ".join(map(str, problems)))
    return Damaged(h.outputs["f16"])


edit("one expert duplicated", DOWN, duplicated, model="moe")
edit("router zeroed", "blk.0.ffn_gate_inp.weight", zero, model="moe")
edit("k norm zeroed", "blk.0.attn_k_norm.weight", zero, model="moe")
field("experts used wrong", "moe", "qwen3moe.expert_used_count", 1)
field("attention softcap lost", "gemma2", "gemma2.attn_logit_softcapping", None)
field("final softcap wrong", "gemma2", "gemma2.final_logit_softcapping", 30.0)
field("sliding window off", "gemma2", "gemma2.attention.sliding_window", 4096)
edit("norm without its one", "blk.1.attn_norm.weight", lambda data: data - np.float32(1), model="gemma2")
edit("q permutation missing", "blk.0.attn_q.weight", unpermuted(4), model="llama", fast=True)
edit("rope factors wrong", "rope_freqs.weight", lambda data: data * np.float32(2), model="llama")
edit("k permutation missing", "blk.1.attn_k.weight", unpermuted(2), model="llama")
SUITE.add("rope factors lost", without("rope_freqs.weight"), "rope_type", model="llama", fast=True)
field("missing end of turn", "llama", "tokenizer.ggml.eot_token_id", None, "ends of generation", fast=True)
field("space prefix lost", "llama", "tokenizer.ggml.add_space_prefix", False, "token ids")
field("BOS lost", "llama", "tokenizer.ggml.add_bos_token", False, "BOS")
field("rope scaling lost", "yarn", "qwen2.rope.scaling.type", None, "rope_type")
field("rope scaling factor wrong", "yarn", "qwen2.rope.scaling.factor", 8.0, "rope_factor")
field("length before scaling wrong", "yarn", "qwen2.rope.scaling.original_context_length", 512, "original_max_position")
copied(
    "long rope factors are the short ones", "rope_factors_long.weight", "rope_factors_short.weight", model="longrope"
)
SUITE.add("tied head doubled", head_of_its_own, "output.weight", model="llama")
SUITE.add(
    "scores lost",
    lambda h, out: damaged(h, out, "f16", {}, **{"tokenizer.ggml.scores": [0.0] * 384}),
    "tokenizer.ggml.scores",
    model="llama",
)
SUITE.add("wrong type recorded", recorded_as("blk.1.attn_q.weight", Q4_0), "blk.1.attn_q.weight")
SUITE.add("projector of another model", projector_of_another, "v.blk.0.")
SUITE.add("a shard of another model", shard_of_another, "blk.2.")
SUITE.add("imatrix of another model", imatrix_of_another, "blk.1.ffn_down.weight")
