"""Mixes as data: which ggml type a tensor gets in a file of which type, and by which rule.

Files of plain types are those of llama.cpp's converter; all others are those of llama-quantize.
Source: src/llama-quant.cpp of llama.cpp; conversion/base.py (prepare_tensors) for what stays float32.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantize.blocks import TYPES, BlockType

GUESSED = 1024  # llama.h, LLAMA_FTYPE_GUESSED: of a type that no usual file is named after
QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION: the layout of the block types


@dataclass(frozen=True)
class Tensor:
    """What a rule may look at: the GGUF name and the shape, rows last but one."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Hyper:
    """What the rules ask about a model."""

    architecture: str = ""  # general.architecture
    layers: int = 0
    heads: int = 1
    kv_heads: int = 1
    experts: int = 0

    @property
    def query_group(self) -> int:
        """How many query heads share a key and value head."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """What llama.cpp takes for a model of 70 billion weights."""
        if self.layers != 80:
            return False
        return self.architecture == "qwen2" or (self.architecture == "llama" and self.heads != self.kv_heads)


@dataclass(frozen=True)
class Asked:
    """What a user asks for beyond the file type. All types are names in blocks.TYPES."""

    output_tensor: str = ""  # of output.weight, or of the embedding where that is the output
    token_embedding: str = ""
    overrides: tuple[tuple[str, str], ...] = ()  # regular expression found in a tensor's name, type
    pure: bool = False  # no rules: every tensor in the file's main type
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


# -- the roles ---------------------------------------------------------------------------------------------------------

ROLES: tuple[tuple[str, str], ...] = (  # what a name is or holds -> role; the first that fits
    (r"^output\.weight$", "output"),
    (r"^(per_layer_)?token_embd\.weight$", "token_embd"),
    (r"attn_(qkv|kv_b|v)\.weight", "attn_v"),  # what holds the values, fused or not
    (r"attn_k\.weight", "attn_k"),
    (r"attn_output\.weight", "attn_output"),
    (r"ffn_down", "ffn_down"),
)
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

# -- the conditions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A tensor as the conditions see it: number `index` of `count` with its role, in which model."""

    index: int
    count: int
    model: Hyper
    imatrix: bool


def _more_bits(place: Place) -> bool:
    first = place.count // 8
    return place.index < first or place.index >= 7 * place.count // 8 or (place.index - first) % 3 == 2


ALWAYS = ""
FIRST_2 = "the first 2 layers"
FIRST_4 = "the first 4 layers"
FIRST_SIXTEENTH = "the first sixteenth of the layers"
FIRST_EIGHTH = "the first eighth of the layers"
EIGHTH_WITH = "the first eighth of the layers, with an imatrix"
EIGHTH_WITHOUT = "the first eighth of the layers, without an imatrix"
MORE_BITS = "the first and last eighth of the layers and every third between them"
SHARED_BY_4 = "at least 4 query heads share a value head"
EXPERTS_8 = "8 experts"
NOT_EXPERTS_8 = "not 8 experts"
FALCON = "Falcon"
FALCON_SIXTEENTH = "Falcon, the first sixteenth of the layers"
FALCON_MORE_BITS = "Falcon, the first and last eighth of the layers and every third between them"

CONDITIONS: Mapping[str, Callable[[Place], bool]] = {
    ALWAYS: lambda place: True,
    FIRST_2: lambda place: place.index < 2,
    FIRST_4: lambda place: place.index < 4,
    FIRST_SIXTEENTH: lambda place: place.index < place.count // 16,
    FIRST_EIGHTH: lambda place: place.index < place.count // 8,
    EIGHTH_WITH: lambda place: place.imatrix and place.index < place.count // 8,
    EIGHTH_WITHOUT: lambda place: not place.imatrix and place.index < place.count // 8,
    MORE_BITS: _more_bits,
    SHARED_BY_4: lambda place: place.model.query_group >= 4,
    EXPERTS_8: lambda place: place.model.experts == 8,
    NOT_EXPERTS_8: lambda place: place.model.experts != 8,
    FALCON: lambda place: place.model.architecture == "falcon",
    FALCON_SIXTEENTH: lambda place: place.model.architecture == "falcon" and place.index < place.count // 16,
    FALCON_MORE_BITS: lambda place: place.model.architecture == "falcon" and _more_bits(place),
}

# -- the rules ---------------------------------------------------------------------------------------------------------

ANY = "*"

RULES: tuple[tuple[str, str, str, str], ...] = (
    # role          file types          where                   type
    ("attn_v",      ANY,                EXPERTS_8,              "Q8_0"),
    ("attn_v",      "Q2_K",             SHARED_BY_4,            "Q4_K"),
    ("attn_v",      "Q2_K",             ALWAYS,                 "Q3_K"),
    ("attn_v",      "Q2_K_S",           SHARED_BY_4,            "Q4_K"),
    ("attn_v",      "Q3_K_M",           FIRST_2,                "Q5_K"),
    ("attn_v",      "Q3_K_M",           ALWAYS,                 "Q4_K"),
    ("attn_v",      "Q3_K_L",           ALWAYS,                 "Q5_K"),
    ("attn_v",      "Q4_K_S",           FIRST_4,                "Q5_K"),
    ("attn_v",      "Q4_K_M Q5_K_M",    MORE_BITS,              "Q6_K"),
    ("attn_v",      "IQ4_NL IQ4_XS",    SHARED_BY_4,            "Q5_K"),
    ("attn_k",      ANY,                EXPERTS_8,              "Q8_0"),
    ("attn_output", "Q2_K",             FALCON,                 "Q2_K"),
    ("attn_output", "Q3_K_M",           FALCON,                 "Q3_K"),
    ("attn_output", "Q3_K_L",           FALCON,                 "Q4_K"),
    ("attn_output", "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ4_NL IQ4_XS", EXPERTS_8, "Q5_K"),
    ("attn_output", "Q2_K",             NOT_EXPERTS_8,          "Q3_K"),
    ("attn_output", "Q3_K_M",           NOT_EXPERTS_8,          "Q4_K"),
    ("attn_output", "Q3_K_L",           NOT_EXPERTS_8,          "Q5_K"),
    ("ffn_down",    "Q3_K_M",           FALCON_SIXTEENTH,       "Q5_K"),
    ("ffn_down",    "Q3_K_M",           FALCON_MORE_BITS,       "Q4_K"),
    ("ffn_down",    "Q3_K_M",           FALCON,                 "Q3_K"),
    ("ffn_down",    "Q3_K_L",           FALCON,                 "Q4_K"),
    ("ffn_down",    "Q4_K_S",           FALCON,                 "Q4_K"),
    ("ffn_down",    "Q4_K_M",           FALCON_SIXTEENTH,       "Q6_K"),
    ("ffn_down",    "Q4_K_M",           FALCON_MORE_BITS,       "Q5_K"),
    ("ffn_down",    "Q4_K_M",           FALCON,                 "Q4_K"),
    ("ffn_down",    "Q2_K",             ALWAYS,                 "Q3_K"),
    ("ffn_down",    "Q2_K_S",           FIRST_EIGHTH,           "Q4_K"),
    ("ffn_down",    "Q3_K_M",           FIRST_SIXTEENTH,        "Q5_K"),
    ("ffn_down",    "Q3_K_M",           ALWAYS,                 "Q4_K"),
    ("ffn_down",    "Q3_K_L",           ALWAYS,                 "Q5_K"),
    ("ffn_down",    "Q4_0",             EIGHTH_WITH,            "Q4_1"),
    ("ffn_down",    "Q5_0",             EIGHTH_WITH,            "Q5_1"),
    ("ffn_down",    "Q4_K_S",           FIRST_EIGHTH,           "Q5_K"),
    ("ffn_down",    "Q4_K_M Q5_K_M",    MORE_BITS,              "Q6_K"),
    ("ffn_down",    "IQ4_NL IQ4_XS",    EIGHTH_WITHOUT,         "Q5_K"),
    ("output",      ANY,                FALCON,                 "Q8_0"),
    ("output",      "Q8_0",             ALWAYS,                 "Q8_0"),
    ("output",      ANY,                ALWAYS,                 "Q6_K"),
)  # fmt: skip
"""Of the rules for a tensor's role and file type the first whose condition holds decides."""

VALUES_IN_70B = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}
"""attn_v of a model with 70 billion weights, an eighth of the size of attn_q: what the rules say becomes this."""

FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
"""The type of a tensor whose rows are no multiple of 256 values; F16 where they are no multiple of 32 either."""

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
        Mix("Q2_K", 10, "Q2_K", "Q2_K"),
        Mix("Q2_K_S", 21, "Q2_K", "Q2_K_S"),
        Mix("Q2_K_L", 10, "Q2_K", "Q2_K", ends="Q8_0"),
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


def needs_imatrix(mix: Mix, tensor: Tensor, kind: BlockType) -> bool:
    """Whether llama.cpp refuses to make this tensor of the file without importance weights."""
    return mix.rules == "Q2_K_S" and kind.name == "Q2_K" and _role(tensor.name) not in ("output", "token_embd")


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
    patterns = [(re.compile(pattern), kind) for pattern, kind in asked.overrides]
    tied = not any(_role(tensor.name) == "output" for tensor in tensors)
    values = sum(_role(tensor.name) == "attn_v" for tensor in tensors)
    ruled: Counter[str] = Counter()  # tensors of each role the rules were asked about so far
    for tensor in sorted(tensors, key=lambda t: (_layer(t.name), t.name)):
        if choice := _kept(mix, tensor) or _asked_for(mix, asked, patterns, tensor, tied):
            yield tensor, choice
            continue
        role = _role(tensor.name)
        if mix.is_plain or asked.pure:
            choice = Choice(TYPES[mix.main], "pure" if asked.pure and not mix.is_plain else "all other weights")
        else:
            by_name = role == "ffn_down" and model.experts > 1  # there may be several of them in a layer
            index = _layer(tensor.name) if by_name else ruled[role]
            place = Place(index, values if role == "attn_v" else model.layers, model, asked.imatrix)
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


def _asked_for(
    mix: Mix, asked: Asked, patterns: Sequence[tuple[re.Pattern[str], str]], tensor: Tensor, tied: bool
) -> Choice | None:
    """What the recipe says about this very tensor, or an _L variant of its embedding and output."""
    role = _role(tensor.name)
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
        if rule_role == role and (files == ANY or mix.rules in files.split()) and CONDITIONS[condition](place):
            kind, why = rule_kind, f"{role}: {condition}" if condition else role
            break
    if role == "attn_v" and place.model.is_70b and kind in VALUES_IN_70B:
        kind, why = VALUES_IN_70B[kind], "attn_v of a 70B model"
    return Choice(TYPES[kind], why)


def _fitting(choice: Choice, tensor: Tensor) -> Choice:
    """The choice, or what takes its place where the rows are no whole number of its blocks."""
    row = tensor.shape[-1]
    if choice.type.fits(row):
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
