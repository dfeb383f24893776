"""The rules of llama-quantize's mixes: what decides the type of a tensor, in the order in which it is asked.

Source: src/llama-quant.cpp of llama.cpp, llama_tensor_get_type_impl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


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


# -- the roles ---------------------------------------------------------------------------------------------------------

ROLES: tuple[tuple[str, str], ...] = (  # what a name is or holds -> role; the first that fits
    (r"^output\.weight$", "output"),
    (r"^(per_layer_)?token_embd\.weight$", "token_embd"),
    (r"attn_(qkv|kv_b|v)\.weight", "attn_v"),  # what holds the values, fused or not
    (r"attn_k\.weight", "attn_k"),
    (r"attn_q\.weight", "attn_q"),
    (r"attn_output\.weight", "attn_output"),
    (r"ffn_up", "ffn_up"),
    (r"ffn_gate", "ffn_gate"),
    (r"ffn_down", "ffn_down"),
)

# -- the conditions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A tensor as the conditions see it: number `index` of `count` with its role, in which model."""

    index: int
    count: int
    model: Hyper
    imatrix: bool
    stacked: bool = False  # the matrices of several experts in one tensor


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
WITHOUT = "without an imatrix"
MIDDLE = "all layers but the first and the last eighth"
STACKED = "matrices of experts"
MORE_BITS = "the first and last eighth of the layers and every third between them"
SHARED_BY_4 = "at least 4 query heads share a value head"
SHARED_BY_4_OR_EXPERTS = "at least 4 query heads share a value head, or at least 4 experts"
EXPERTS_8 = "8 experts"
EXPERTS_8_MORE_BITS = "8 experts, the first and last eighth of the layers and every third between them"
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
    WITHOUT: lambda place: not place.imatrix,
    MIDDLE: lambda place: place.count // 8 <= place.index < 7 * place.count // 8,
    STACKED: lambda place: place.stacked,
    MORE_BITS: _more_bits,
    SHARED_BY_4: lambda place: place.model.query_group >= 4,
    SHARED_BY_4_OR_EXPERTS: lambda place: place.model.query_group >= 4 or place.model.experts >= 4,
    EXPERTS_8: lambda place: place.model.experts == 8,
    EXPERTS_8_MORE_BITS: lambda place: place.model.experts == 8 and _more_bits(place),
    NOT_EXPERTS_8: lambda place: place.model.experts != 8,
    FALCON: lambda place: place.model.architecture == "falcon",
    FALCON_SIXTEENTH: lambda place: place.model.architecture == "falcon" and place.index < place.count // 16,
    FALCON_MORE_BITS: lambda place: place.model.architecture == "falcon" and _more_bits(place),
}

# -- the rules ---------------------------------------------------------------------------------------------------------

ANY = "*"

LOWEST = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"

RULES: tuple[tuple[str, str, str, str], ...] = (
    # role          file types          where                   type
    ("output",      "MXFP4_MOE",        ALWAYS,                 "Q8_0"),
    (ANY,           "MXFP4_MOE",        STACKED,                "MXFP4"),
    (ANY,           "MXFP4_MOE",        ALWAYS,                 "Q8_0"),
    ("token_embd",  "IQ1_S IQ1_M IQ2_XXS IQ2_XS", ALWAYS,       "Q2_K"),
    ("token_embd",  "IQ2_S IQ2_M IQ3_XXS", ALWAYS,              "IQ3_S"),
    ("token_embd",  "TQ1_0 TQ2_0",      ALWAYS,                 "Q4_K"),
    ("attn_v",      LOWEST,             SHARED_BY_4_OR_EXPERTS, "Q4_K"),
    ("attn_v",      "IQ2_S IQ2_M",      ALWAYS,                 "IQ3_S"),
    ("attn_v",      LOWEST,             ALWAYS,                 "Q2_K"),
    ("attn_v",      ANY,                EXPERTS_8,              "Q8_0"),
    ("attn_v",      "Q2_K",             SHARED_BY_4,            "Q4_K"),
    ("attn_v",      "Q2_K",             ALWAYS,                 "Q3_K"),
    ("attn_v",      "Q2_K_S IQ3_XXS IQ3_XS IQ3_S", SHARED_BY_4, "Q4_K"),
    ("attn_v",      "IQ3_XXS",          WITHOUT,                "IQ3_S"),
    ("attn_v",      "IQ3_M",            ALWAYS,                 "Q4_K"),
    ("attn_v",      "Q3_K_M",           FIRST_2,                "Q5_K"),
    ("attn_v",      "Q3_K_M",           ALWAYS,                 "Q4_K"),
    ("attn_v",      "Q3_K_L",           ALWAYS,                 "Q5_K"),
    ("attn_v",      "Q4_K_S",           FIRST_4,                "Q5_K"),
    ("attn_v",      "Q4_K_M Q5_K_M",    MORE_BITS,              "Q6_K"),
    ("attn_v",      "IQ4_NL IQ4_XS",    SHARED_BY_4,            "Q5_K"),
    ("attn_k",      LOWEST,             EXPERTS_8,              "Q4_K"),
    ("attn_k",      ANY,                EXPERTS_8,              "Q8_0"),
    ("attn_k",      "IQ3_XS",           ALWAYS,                 "IQ3_XXS"),
    ("attn_k",      "IQ3_XXS",          ALWAYS,                 "IQ2_S"),
    ("attn_q",      "IQ3_XS",           ALWAYS,                 "IQ3_XXS"),
    ("attn_q",      "IQ3_XXS",          ALWAYS,                 "IQ2_S"),
    ("attn_output", LOWEST,             EXPERTS_8,              "Q5_K"),
    ("attn_output", "IQ1_S IQ1_M",      ALWAYS,                 "IQ2_XXS"),
    ("attn_output", "IQ2_S IQ2_M",      ALWAYS,                 "IQ3_S"),
    ("attn_output", "Q2_K",             FALCON,                 "Q2_K"),
    ("attn_output", "IQ3_XXS",          FALCON,                 "IQ3_XXS"),
    ("attn_output", "IQ3_M",            FALCON,                 "IQ3_S"),
    ("attn_output", "Q3_K_M",           FALCON,                 "Q3_K"),
    ("attn_output", "Q3_K_L",           FALCON,                 "Q4_K"),
    ("attn_output", "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ4_NL IQ4_XS", EXPERTS_8, "Q5_K"),
    ("attn_output", "IQ3_XXS IQ3_XS IQ3_S IQ3_M", EXPERTS_8,    "Q5_K"),
    ("attn_output", "Q2_K",             NOT_EXPERTS_8,          "Q3_K"),
    ("attn_output", "IQ3_XXS",          NOT_EXPERTS_8,          "IQ3_S"),
    ("attn_output", "Q3_K_M IQ3_M",     NOT_EXPERTS_8,          "Q4_K"),
    ("attn_output", "Q3_K_L",           NOT_EXPERTS_8,          "Q5_K"),
    ("ffn_up",      "IQ3_XS",           MIDDLE,                 "IQ3_XXS"),
    ("ffn_gate",    "IQ3_XS",           MIDDLE,                 "IQ3_XXS"),
    ("ffn_down",    "IQ1_S IQ1_M IQ2_XXS IQ2_XS", FIRST_EIGHTH, "Q2_K"),
    ("ffn_down",    "IQ2_S IQ2_M",      FIRST_EIGHTH,           "IQ3_S"),
    ("ffn_down",    "IQ3_XXS",          EIGHTH_WITHOUT,         "Q4_K"),
    ("ffn_down",    "IQ3_XXS",          WITHOUT,                "Q3_K"),
    ("ffn_down",    "IQ3_M",            FIRST_EIGHTH,           "Q4_K"),
    ("ffn_down",    "IQ3_M",            EXPERTS_8_MORE_BITS,    "Q4_K"),
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
    ("output",      LOWEST,             ALWAYS,                 "Q5_K"),
    ("output",      "IQ3_XXS",          ALWAYS,                 "Q5_K"),
    ("output",      "Q8_0",             ALWAYS,                 "Q8_0"),
    ("output",      ANY,                ALWAYS,                 "Q6_K"),
)  # fmt: skip
"""Of the rules for a tensor's role and file type the first whose condition holds decides."""

VALUES_IN_70B = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}
"""attn_v of a model with 70 billion weights, an eighth of the size of attn_q: what the rules say becomes this."""
