"""Mixes as data: which ggml type a tensor gets in a file of which type, and by which rule.

A mix is a list of rules tried in order; the first that matches decides. The rules for the plain types are those of
llama.cpp's converter (conversion/base.py, prepare_tensors); llama-quantize gives the same for Q8_0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantize.blocks import F16, TYPES, BlockType


@dataclass(frozen=True)
class Tensor:
    """What a rule may look at: the GGUF name and the shape, rows last but one."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """A condition, the type that follows from it, and why, in words for `convert plan -v`."""

    applies: Callable[[Tensor], bool]
    type: str
    why: str


@dataclass(frozen=True)
class Choice:
    """The type a tensor gets and the rule that picked it."""

    type: BlockType
    why: str


@dataclass(frozen=True)
class Mix:
    """A file type. `file_type` is general.file_type (llama.h, enum llama_ftype)."""

    name: str
    file_type: int
    rules: tuple[Rule, ...]
    otherwise: str
    fallback: str = "F16"  # for rows that are no whole number of blocks

    def choose(self, name: str, shape: tuple[int, ...]) -> Choice:
        """The type of the tensor called `name` in a file of this mix."""
        tensor = Tensor(name, shape)
        rule = next((r for r in self.rules if r.applies(tensor)), None)
        kind, why = (TYPES[rule.type], rule.why) if rule else (TYPES[self.otherwise], "all other weights")
        if not kind.fits(shape[-1]):
            return Choice(TYPES[self.fallback], f"rows of {shape[-1]} values are no multiple of {kind.values}")
        return Choice(kind, why)


VECTORS = Rule(lambda t: len(t.shape) < 2, "F32", "vectors stay float32")
NORMS = Rule(lambda t: t.name.endswith("_norm.weight"), "F32", "norms stay float32")
NOT_WEIGHTS = Rule(lambda t: not t.name.endswith(".weight"), "F32", "what is not named .weight stays float32")


def _patches(kind: str) -> Rule:
    """The convolution that cuts an image into patches (two of them where the model takes two frames at once)."""
    return Rule(lambda t: ".patch_embd.weight" in t.name, kind, f"patch embeddings are {kind} in such a file")


def _mix(name: str, file_type: int, patches: str = "F32") -> Mix:
    return Mix(name, file_type, (VECTORS, NORMS, _patches(patches), NOT_WEIGHTS), name)


MIXES: Mapping[str, Mix] = {
    mix.name: mix for mix in (_mix("F32", 0), _mix("F16", 1, patches="F16"), _mix("Q8_0", 7), _mix("BF16", 32))
}
"""File type by the name a recipe uses."""

QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION: the layout of the block types
assert F16.values == 1, "every row fits the fallback"
