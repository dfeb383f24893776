"""Checkpoints whose weights are stored quantized: every matrix as float32, a few of its rows at a time.

One module a layout, each with a function from stored tensors to `Matrix`es; which one reads a checkpoint is decided by
`quant_method` of its config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source import quantized
from convert.source.unpack.unreadable import UnreadableError

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor
    from convert.source.unpack.matrix import Matrix

Reader = Callable[[Mapping[str, "LazyTensor"], JsonObject], Iterable["Matrix"]]

READ = ("fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "gptq", "awq", "bitsandbytes")
"""Each quant_method that is read here."""

STORED = dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), np.dtype("u1"))
"""Types that only quantized weights have -> how their bytes are loaded."""


def reads(words: object) -> bool:
    """Whether weights with this quantization_config are read here."""
    return quantized.method(words) in READ


def note(words: object) -> str:
    """What to say of such a checkpoint."""
    return f"the weights are quantized: {quantized.description(words)}; they are made whole while they are read"


def unpacked(raw: Mapping[str, LazyTensor], words: JsonObject, where: str) -> dict[str, LazyTensor]:
    """The checkpoint's tensors with whole matrices in the place of what they are packed into.

    A matrix stands where its `weight` stands; where that has another name stored, behind all others. Raises InputError
    for a scheme that is not read here.
    """
    try:
        found = list(_reader(quantized.method(words))(raw, words))
        if not found:
            raise UnreadableError("none of the tensors is packed as it says")
        spent = {name for matrix in found for name in matrix.spent}
        if strange := [name for name, t in raw.items() if t.dtype in STORED and name not in spent]:
            raise UnreadableError(f"{strange[0]} is {raw[strange[0]].dtype} and has no scale")
    except UnreadableError as error:
        said = quantized.problem(words, where, reason=str(error))
        raise InputError(said.where, said.got, said.wanted, said.remedy) from None
    made = {matrix.name: matrix.tensor() for matrix in found}
    kept = {name: made.pop(name, tensor) for name, tensor in raw.items() if name in made or name not in spent}
    return {**kept, **made}


def _reader(method: str) -> Reader:
    """Who reads it; imported here, as they bring a compiler."""
    from convert.source.unpack import awq, bitsandbytes, compressed, fp8, gptq

    own = {"fp8": fp8.matrices, "gptq": gptq.matrices, "awq": awq.matrices, "bitsandbytes": bitsandbytes.matrices}
    return own.get(method, compressed.matrices)
