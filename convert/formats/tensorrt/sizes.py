"""How large engines will be: the weights of their own graph, once for each way they are laid out, and kernels.

Measured with TensorRT for RTX 1.7 on fara-nano's fp16 decoder, 7.6 MB of weights: one profile for many tokens 12.8 MB,
two such 16.3 MB, one beside a profile for a single token 24.3 MB, two beside that 29.1 MB. So profiles for many tokens
share the weights, those for a single token share another copy of them, and a profile adds about 4 MB of kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from convert.bundle import Artifact
from convert.formats.tensorrt.profiles import Profile
from convert.source.safetensors import Entry, read_header

KERNEL_BYTES = 4 << 20  # of a profile
TABLE_BYTES = 150_000  # of an engine that only looks tokens up
EMBEDDING, VISION = "embed_tokens", "vision_encoder"
TABLE, HEAD = "embed_tokens.weight", "lm_head.weight"
TOWERS = ("visual", "vision_tower", "vision_model", "multi_modal_projector")
WIDTH = {"fp32": 4}  # bytes of a weight; 2 where nothing is said


def engine_bytes(graph: Artifact, data: Sequence[Artifact], precision: str, profiles: Sequence[Profile]) -> int:
    """The size of the engine that will be built of a graph, from the files that hold weights."""
    weights = engine_weights(graph, data, precision, profiles)
    if graph.path.stem.startswith(EMBEDDING):
        return weights + TABLE_BYTES
    if graph.path.stem.startswith(VISION):
        return weights + KERNEL_BYTES
    return weights + KERNEL_BYTES * len(_largest(profiles))


def engine_weights(graph: Artifact, data: Sequence[Artifact], precision: str, profiles: Sequence[Profile]) -> int:
    """Of an engine's bytes those that are weights: what one that is stripped has not."""
    layouts = len({size > 1 for size in _largest(profiles)})
    once = graph.path.stem.startswith((EMBEDDING, VISION))
    return _weight_bytes(graph, data, precision) * (1 if once else layouts)


def _largest(profiles: Sequence[Profile]) -> list[int]:
    """The most tokens at once of each profile for text; prefill and decode, where none are named."""
    texts = [profile.ranges["sequence"] for profile in profiles if "sequence" in profile.ranges]
    return [sizes[-1] for sizes in texts] or [2, 1]


def _weight_bytes(graph: Artifact, data: Sequence[Artifact], precision: str) -> int:
    """Of a graph's own data file; else of its part of the checkpoint's files, which are shared."""
    own = [a.size for a in data if a.type != "shared" and a.path.name.startswith(graph.path.name)]
    if own:
        return sum(own)
    files = [a.path for a in data if a.type == "shared" and a.path.is_file() and a.path.suffix == ".safetensors"]
    entries = list(_entries(files))
    width = WIDTH.get(precision, 2)
    if graph.path.stem.startswith(EMBEDDING):  # the table stays as it is stored
        return sum(e.stop - e.start for e in entries if e.name.endswith(TABLE))
    if graph.path.stem.startswith(VISION):
        return width * sum(prod(e.shape) for e in entries if _of_tower(e))
    tied = not any(e.name.endswith(HEAD) for e in entries)  # the head is the table, in the decoder's graph again
    return width * sum(prod(e.shape) for e in entries if not _of_tower(e) and (tied or not e.name.endswith(TABLE)))


def _entries(files: Sequence[Path]) -> Iterator[Entry]:
    for file in files:
        yield from read_header(file).entries


def _of_tower(entry: Entry) -> bool:
    return any(part in TOWERS for part in entry.name.split("."))
