"""Mixes as data: which ggml type a tensor gets in a file of which type, and by which rule.

Files of plain types are those of llama.cpp's converter; all others are those of llama-quantize.
Source: src/llama-quant.cpp of llama.cpp; conversion/base.py (prepare_tensors) for what stays float32.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantize.blocks import TYPES, BlockType
from quantize.mix_rules import ANY, CONDITIONS, LOWEST, ROLES, RULES, VALUES_IN_70B, Hyper, Place

__all__ = ["CONDITIONS", "MIXES", "ROLES", "RULES", "Asked", "Choice", "Hyper", "Mix", "Tensor", "choose"]

GUESSED = 1024  # llama.h, LLAMA_FTYPE_GUESSED: of a type that no usual file is named after
QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION: the layout of the block types


@dataclass(frozen=True)
class Tensor:
    """What a rule may look at: the GGUF name and the shape, rows last but one; `stored`, what the source has."""

    name: str
    shape: tuple[int, ...]
    stored: str = "BF16"


@dataclass(frozen=True)
class Asked:
    """What a user asks for beyond the file type. All types are names in blocks.TYPES."""

    output_tensor: str = ""  # of output.weight, or of the embedding where that is the output
    token_embedding: str = ""
    overrides: tuple[tuple[str, str], ...] = ()  # regular expression found in a tensor's name, type
    pure: bool = False  # no rules: every tensor in the file's main type
    leave_output: bool = False  # output.weight as it is in the source
    in_file_order: bool = False  # the rules count layers in the order of the tensors given, as where shards are kept
    imatrix: bool = False  # there are importance weights


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
    main: str  # type of what no rule is about
    rules: str = ""  # the name in the table below; of an _L variant the one it is a variant of
    ends: str = ""  # type of embedding and output in an _L variant

    @property
    def is_plain(self) -> bool:
        """Whether the main type is a float and not blocks: then no rule of the table and no override applies."""
        return TYPES[self.main].values == 1


# -- names -------------------------------------------------------------------------------------------------------------

_ROLES = tuple((re.compile(pattern), role) for pattern, role in ROLES)

KEPT: tuple[tuple[str, str], ...] = (  # names of tensors that stay float32, and why
    (r"(?<!\.weight)$", "what is not named .weight stays float32"),
    (r"_norm\.weight$", "norms stay float32"),
    (r"ffn_gate_inp(_shexp)?\.weight", "what chooses the experts stays float32"),
    (r"altup_(correct|predict)_coef\.weight", "coefficients of alternating updates stay float32"),
    (r"indexer\.proj\.weight", "what weighs the heads that choose tokens stays float32"),
    (r"^([va]\.)?position_embd\.weight", "position embeddings stay float32"),
    (r"^token_types\.weight", "the embeddings of the parts of a pair stay float32"),
    (r"\.patch_embd", "patch embeddings stay float32"),
    (r"\.patch_merger\.weight", "what merges patches stays float32"),
    (r"ssm_conv1d|shortconv\.conv\.weight", "short convolutions stay float32"),
    (r"time_mix_((decay_)?w[12]|lerp_fused|first)\.weight", "small matrices of time mixing stay float32"),
)
_KEPT = tuple((re.compile(pattern), why) for pattern, why in KEPT)
_SMALL = re.compile(r"altup|laurel|per_layer_model_proj")  # left alone by llama-quantize, not by the converter's Q8_0
_PATCHES = re.compile(r"\.patch_(embd|merger)\.weight")  # the second of two frames is called .patch_embd.weight.1

FALLBACK = {
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    **{"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"},
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}
"""The type of a tensor whose rows are no multiple of 256 values; F16 where they are no multiple of 32 either."""

NO_FALLBACK = ("NVFP4",)
"""Nothing takes the place of these, in llama-quantize either: rows that are no whole blocks cannot be made."""

NEVER_PLAIN = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
"""ggml encodes these with importance weights only (ggml.c, ggml_quantize_requires_imatrix)."""
GARBAGE_PLAIN = ("IQ1_M", "IQ2_S", "IQ3_XXS")
"""llama-quantize asks for weights of these too, but for the embedding and the output."""

MIXES: Mapping[str, Mix] = {
    mix.name: mix
    for mix in (
        Mix("F32", 0, "F32"),
        Mix("F16", 1, "F16"),
        Mix("BF16", 32, "BF16"),
        Mix("Q8_0", 7, "Q8_0", "Q8_0"),
        Mix("Q6_K", 18, "Q6_K", "Q6_K"),
        Mix("Q6_K_L", 18, "Q6_K", "Q6_K", ends="Q8_0"),
        Mix("Q5_K_M", 17, "Q5_K", "Q5_K_M"),
        Mix("Q5_K_S", 16, "Q5_K", "Q5_K_S"),
        Mix("Q5_K_L", 17, "Q5_K", "Q5_K_M", ends="Q8_0"),
        Mix("Q5_1", 9, "Q5_1", "Q5_1"),
        Mix("Q5_0", 8, "Q5_0", "Q5_0"),
        Mix("Q4_K_M", 15, "Q4_K", "Q4_K_M"),
        Mix("Q4_K_S", 14, "Q4_K", "Q4_K_S"),
        Mix("Q4_K_L", 15, "Q4_K", "Q4_K_M", ends="Q8_0"),
        Mix("Q4_1", 3, "Q4_1", "Q4_1"),
        Mix("Q4_0", 2, "Q4_0", "Q4_0"),
        Mix("IQ4_NL", 25, "IQ4_NL", "IQ4_NL"),
        Mix("IQ4_XS", 30, "IQ4_XS", "IQ4_XS"),
        Mix("Q3_K_L", 13, "Q3_K", "Q3_K_L"),
        Mix("Q3_K_M", 12, "Q3_K", "Q3_K_M"),
        Mix("Q3_K_S", 11, "Q3_K", "Q3_K_S"),
        Mix("Q3_K_XL", 13, "Q3_K", "Q3_K_L", ends="Q8_0"),
        Mix("MXFP4_MOE", 38, "MXFP4", "MXFP4_MOE"),
        Mix("IQ3_M", 27, "IQ3_S", "IQ3_M"),
        Mix("IQ3_S", 26, "IQ3_S", "IQ3_S"),
        Mix("IQ3_XS", 22, "IQ3_S", "IQ3_XS"),
        Mix("IQ3_XXS", 23, "IQ3_XXS", "IQ3_XXS"),
        Mix("Q2_K", 10, "Q2_K", "Q2_K"),
        Mix("Q2_K_S", 21, "Q2_K", "Q2_K_S"),
        Mix("Q2_K_L", 10, "Q2_K", "Q2_K", ends="Q8_0"),
        Mix("IQ2_M", 29, "IQ2_S", "IQ2_M"),
        Mix("IQ2_S", 28, "IQ2_XS", "IQ2_S"),
        Mix("IQ2_XS", 20, "IQ2_XS", "IQ2_XS"),
        Mix("IQ2_XXS", 19, "IQ2_XXS", "IQ2_XXS"),
        Mix("IQ1_M", 31, "IQ1_M", "IQ1_M"),
        Mix("IQ1_S", 24, "IQ1_S", "IQ1_S"),
        Mix("TQ2_0", 37, "TQ2_0", "TQ2_0"),
        Mix("TQ1_0", 36, "TQ1_0", "TQ1_0"),
    )
}
"""File type by the name a recipe uses. The _L and _XL ones are the community's: no file type of llama.cpp, but its
--output-tensor-type and --token-embedding-type with Q8_0."""

# -- putting them together ---------------------------------------------------------------------------------------------


def choose(mix: Mix, tensors: Sequence[Tensor], model: Hyper, asked: Asked | None = None) -> tuple[Choice, ...]:
    """The types of a file's `tensors`, in the same order."""
    asked = asked or Asked()
    choices = {tensor.name: choice for tensor, choice in _choices(mix, tensors, model, asked)}
    return tuple(choices[tensor.name] for tensor in tensors)


def override_pattern(text: str) -> re.Pattern[str]:
    """What an override's pattern looks for: in names, which have no capitals, in either case, as llama-quantize."""
    return re.compile(text, re.IGNORECASE)


def kinds_of(mix: Mix) -> frozenset[str]:
    """The block types that tensors of such a file may have, whatever the model."""
    rules = {kind for _, files, _, kind in RULES if files == ANY or mix.rules in files.split()} if mix.rules else set()
    kinds = {mix.main, *rules, *filter(None, [mix.ends])}
    kinds |= {VALUES_IN_70B[kind] for kind in kinds & VALUES_IN_70B.keys()}
    return frozenset(kinds | {FALLBACK.get(kind, "F16") for kind in kinds} | {"F32"})


def wants_importance(mix: Mix) -> bool:
    """Whether llama.cpp refuses to make such files of most models without importance weights."""
    return mix.rules == "Q2_K_S" or not kinds_of(mix).isdisjoint((*NEVER_PLAIN, *GARBAGE_PLAIN))


def needs_imatrix(mix: Mix, tensor: Tensor, kind: BlockType) -> bool:
    """Whether llama.cpp refuses to make this tensor of the file without importance weights."""
    if kind.name in NEVER_PLAIN:
        return True
    asks = kind.name in GARBAGE_PLAIN or (mix.rules == "Q2_K_S" and kind.name == "Q2_K")
    return asks and _role(tensor.name) not in ("output", "token_embd")


def is_free(mix: Mix, tensor: Tensor) -> bool:
    """Whether the type of a tensor is one to choose: it does not stay float32 in every file."""
    return _kept(mix, tensor) is None


def role_of(name: str) -> str:
    """What a tensor is for, by its name; empty for what no rule is about."""
    return _role(name)


def file_type_of(kind: str) -> int:
    """general.file_type of a file most of whose weights are of this type of blocks."""
    by_main: dict[str, Mix] = {}
    for mix in MIXES.values():
        by_main.setdefault(mix.main, mix)
    usual = MIXES.get(f"{kind}_M") or MIXES.get(kind) or by_main.get(kind)
    return usual.file_type if usual else GUESSED


def _choices(mix: Mix, tensors: Sequence[Tensor], model: Hyper, asked: Asked) -> Iterator[tuple[Tensor, Choice]]:
    patterns = [(override_pattern(pattern), kind) for pattern, kind in asked.overrides]
    tied = not any(_role(tensor.name) == "output" for tensor in tensors)
    values = sum(_role(tensor.name) == "attn_v" for tensor in tensors)
    ruled: Counter[str] = Counter()  # tensors of each role the rules were asked about so far
    order = tensors if asked.in_file_order else sorted(tensors, key=lambda t: (_layer(t.name), t.name))
    for tensor in order:
        if choice := _kept(mix, tensor) or _left(asked, tensor) or _asked_for(mix, asked, patterns, tensor, tied):
            yield tensor, choice
            continue
        role = _role(tensor.name)
        if mix.is_plain or asked.pure:
            choice = Choice(TYPES[mix.main], "pure" if asked.pure and not mix.is_plain else "all other weights")
        else:
            # there may be several of them in a layer
            by_name = role.startswith("ffn_") and model.experts > 1 and mix.rules not in LOWEST.split()
            index = _layer(tensor.name) if by_name else ruled[role]
            count = values if role == "attn_v" else model.layers
            place = Place(index, count, model, asked.imatrix, _is_stacked(tensor, role, model))
            choice = _ruled(mix, tensor, "output" if tied and role == "token_embd" else role, place)
            ruled[role] += 1
        yield tensor, _fitting(choice, tensor)


def _kept(mix: Mix, tensor: Tensor) -> Choice | None:
    """Float32, for what no file type is about."""
    if mix.main == "F16" and _PATCHES.search(tensor.name):
        return Choice(TYPES["F16"], "patch embeddings are F16 in such a file")
    if len(tensor.shape) < 2:
        return Choice(TYPES["F32"], "vectors stay float32")
    if not mix.is_plain and mix.name != "Q8_0" and _SMALL.search(tensor.name):
        return Choice(TYPES["F32"], "too small to be worth it: stays float32")
    return next((Choice(TYPES["F32"], why) for pattern, why in _KEPT if pattern.search(tensor.name)), None)


def _left(asked: Asked, tensor: Tensor) -> Choice | None:
    """The output as it is in the source, where the recipe says so."""
    if asked.leave_output and _role(tensor.name) == "output":
        return Choice(TYPES[tensor.stored], "the recipe's leave_output_tensor: as it is in the source")
    return None


def _asked_for(
    mix: Mix, asked: Asked, patterns: Sequence[tuple[re.Pattern[str], str]], tensor: Tensor, tied: bool
) -> Choice | None:
    """What the recipe says about this very tensor, or an _L variant of its embedding and output."""
    role = _role(tensor.name)
    # the table of the embeddings by layer follows token_embedding, unless an override names it
    named = tensor.name.startswith("per_layer_") and any(pattern.search(tensor.name) for pattern, _ in patterns)
    role = "" if named else role
    ends = [("token_embedding", asked.token_embedding)] if role == "token_embd" else []
    ends += [("output_tensor", asked.output_tensor)] if role == "output" else []
    for option, kind in ends:
        if kind or mix.ends:
            why = f"the recipe's {option}" if kind else f"embedding and output are {mix.ends} in {mix.name}"
            return _fitting(Choice(TYPES[kind or mix.ends], why), tensor)
    if mix.is_plain:
        return None
    for pattern, kind in patterns:
        if pattern.search(tensor.name):
            return _fitting(Choice(TYPES[kind], f"the recipe's override {pattern.pattern}"), tensor)
    if role == "token_embd" and tied and asked.output_tensor and not asked.pure:
        why = "the recipe's output_tensor: the embedding is the output too"
        return _fitting(Choice(TYPES[asked.output_tensor], why), tensor)
    return None


def _ruled(mix: Mix, tensor: Tensor, role: str, place: Place) -> Choice:
    """What the first rule that applies says."""
    if role == "output" and not TYPES[mix.main].fits(tensor.shape[-1]):
        return Choice(TYPES["Q8_0"], f"output: rows of {tensor.shape[-1]} values are no whole {mix.main} blocks")
    kind, why = mix.main, "all other weights"
    for rule_role, files, condition, rule_kind in RULES:
        if rule_role in (ANY, role) and (files == ANY or mix.rules in files.split()) and CONDITIONS[condition](place):
            words = (condition or "all other weights",) if rule_role == ANY else (role, condition)
            kind, why = rule_kind, ": ".join(filter(None, words))
            break
    if role == "attn_v" and place.model.is_70b and kind in VALUES_IN_70B and mix.rules not in LOWEST.split():
        kind, why = VALUES_IN_70B[kind], "attn_v of a 70B model"
    return Choice(TYPES[kind], why)


def _is_stacked(tensor: Tensor, role: str, model: Hyper) -> bool:
    """Whether llama.cpp takes a tensor for the matrices of several experts: of BailingMoE 3, others have three axes."""
    many = len(tensor.shape) > 2 and tensor.shape[-3] > 1
    return many and (model.architecture != "bailingmoe3" or role.startswith("ffn_"))


def _fitting(choice: Choice, tensor: Tensor) -> Choice:
    """The choice, or what takes its place where the rows are no whole number of its blocks."""
    row = tensor.shape[-1]
    if choice.type.fits(row) or choice.type.name in NO_FALLBACK:
        return choice
    instead = TYPES[FALLBACK.get(choice.type.name, "F16")]
    if not instead.fits(row):
        instead = TYPES["F16"]
    why = f"{choice.why}, {choice.type.name}: but rows of {row} values are no multiple of {choice.type.values}"
    return Choice(instead, why)


def _role(name: str) -> str:
    return next((role for pattern, role in _ROLES if pattern.search(name)), "")


def _layer(name: str) -> int:
    """The layer a tensor is of, -1 for all others."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1
