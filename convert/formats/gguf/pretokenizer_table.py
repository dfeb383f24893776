"""The pre-tokenizers llama.cpp knows by name, as data: the regular expressions each cuts a text by.

In one canonical spelling, so that what a tokenizer.json says can be looked up (convert/gguf/pretokenizers.py). The
names and what each does are facts of llama.cpp (src/llama-vocab.cpp: the regex switch, and the flags set beside each
name in llama_vocab::impl::load); the pipelines are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- the regular expressions, in canonical spelling -------------------------------------------------------------------

ANY_CASE = "<contractions, any case>"  # 's 't 're 've 'm 'll 'd, and 'S 'T ...
LOWER_CASE = "<contractions>"

GPT2 = LOWER_CASE + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
QWEN2 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
LLAMA3 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
QWEN35 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
SEED_CODER = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)"
BAILING = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)"
NO_CONTRACTIONS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_SPACES = "".join(rf"|\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")) + r"|\s{1}"
JAIS2 = LLAMA3.removesuffix(r"|\s+(?!\S)") + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)"


def _cased(ending: str) -> str:
    """Words cut where upper case follows lower: `camelCase` -> `camel`, `Case`."""
    return rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{ending}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{ending}"


TEKKEN = _cased("") + r"|\p{N}" + _CASED_TAIL
GPT4O = _cased(ANY_CASE + "?") + r"|\p{N}{1,3}" + _CASED_TAIL
YOUTU = _cased(ANY_CASE + "?") + r"|\p{N}" + _CASED_TAIL


def _ascii_cased(ending: str, letters: str = r"\p{L}") -> str:
    """What llama.cpp makes of _cased: it knows the case of a-z alone."""
    upper, lower = rf"((?=[{letters}])([^a-z]))", rf"((?=[{letters}])([^A-Z]))"
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"


TEKKEN_CUT = _ascii_cased("") + r"|\p{N}" + _CASED_TAIL
GPT4O_CUT = _ascii_cased(ANY_CASE + "?") + r"|\p{N}{1,3}" + _CASED_TAIL
_CASELESS = (rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+{ANY_CASE}?", _CASED_TAIL)
YOUTU_CUT = r"|\p{N}".join(_CASELESS)  # Lu, Lt, Ll, Lm and Lo are all L to llama.cpp (src/unicode.cpp)
TINY_AYA_CUT = r"|\p{N}{1,3}".join(_CASELESS)
MARKED_CUT = _ascii_cased(ANY_CASE + "?", r"\p{L}\p{M}") + r"|\p{N}{1,3}" + _CASED_TAIL

EXAONE_MOE = (
    ANY_CASE + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)"
)
MINICPM5 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + _TAIL
LINES = r"[^\n]+|[\n]+"

DIGIT, DIGITS, DIGITS3 = r"\p{N}", r"\p{N}+", r"\p{N}{1,3}"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK3 = (
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT)
CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅ"
    "ὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-"
    "ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)  # letters with case, as Unicode 12 has them
DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{CASED}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
)
CHAMELEON = ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )")
THREES_FROM_RIGHT = r"\d{1,3}(?=(?:\d{3})*\b)"
SUPERBPE = (r"\p{N}+", r"(?=(\d{3})+(?!\d))")
SPARK = _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)"
YOUTU_CJK = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
THREE_DIGITS = "[0-9][0-9][0-9]"
PUNCTUATION_RUNS = "<punctuation, contiguous>"
PUNCTUATION_EACH = "<punctuation, each>"
FALCON_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
BYTES = "<bytes>"  # only where something follows it


@dataclass(frozen=True)
class Entry:
    """One name llama.cpp knows. `note` says where it is known to cut otherwise than the pipeline it stands for."""

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    note: str = ""
    cuts: tuple[str, ...] = ()  # the expressions llama.cpp cuts by, where they are not those of `steps`


_CASED_NOTE = (
    "llama.cpp knows the case of a-z alone, and splits at combining marks: other scripts may encode differently"
)
_CASELESS_NOTE = "llama.cpp does not split where upper case follows lower: camelCase may encode differently"
SPACE_NOTE = "llama.cpp splits differently at spaces that are not ASCII"
_DIGIT_NOTE = (
    "llama.cpp does not split a space from the digits after it; merges learned with this pipeline never join them"
)

TABLE: tuple[Entry, ...] = (
    Entry("gpt-2", (GPT2,)),
    Entry("qwen2", (QWEN2,)),
    Entry("qwen35", (QWEN35,)),
    Entry("llama-bpe", (LLAMA3,), ignore_merges=True),
    Entry("dbrx", (LLAMA3,)),
    Entry("starcoder", (DIGIT, GPT2)),
    Entry("deepseek-v3", (DIGITS3, CJK, DEEPSEEK3)),
    Entry("deepseek-coder", DEEPSEEK_CODER, note=SPACE_NOTE),
    Entry("tekken", (TEKKEN,), ignore_merges=True, note=_CASED_NOTE, cuts=(TEKKEN_CUT,)),
    Entry("gpt-4o", (GPT4O,), note=_CASED_NOTE, cuts=(GPT4O_CUT,)),
    Entry("granite-embed-multi-97m", (GPT4O,), ignore_merges=True, note=_CASED_NOTE, cuts=(MARKED_CUT,)),
    Entry(
        "falcon",
        (PUNCTUATION_RUNS, GPT2, BYTES, DIGITS, THREE_DIGITS),
        note=_DIGIT_NOTE,
        cuts=(FALCON_PUNCTUATION, GPT2, THREE_DIGITS),
    ),
    Entry("deepseek-llm", (*DEEPSEEK_LLM, DIGIT), note=SPACE_NOTE),
    Entry("spark2_5", (DIGITS3, CJK, SPARK, DIGIT)),
    Entry("youtu", (YOUTU_CJK, YOUTU), ignore_merges=True, note=_CASELESS_NOTE, cuts=(YOUTU_CJK, YOUTU_CUT)),
    Entry("tiny_aya", (THREES_FROM_RIGHT, GPT4O), note=_CASELESS_NOTE, cuts=(THREES_FROM_RIGHT, TINY_AYA_CUT)),
    Entry("superbpe", SUPERBPE),
    Entry("chameleon", (*CHAMELEON, DIGIT, PUNCTUATION_EACH, GPT2)),
    Entry("bloom", (BLOOM,)),
    Entry("viking", (BLOOM, DIGIT)),
    Entry("seed-coder", (SEED_CODER,)),
    Entry("bailingmoe", (BAILING,)),
    Entry("exaone-moe", (EXAONE_MOE,)),
    Entry("minicpm5", (DIGITS3, MINICPM5), ignore_merges=True),
    Entry("laguna", (LINES, QWEN2)),
    Entry("ufakzeka", (NO_CONTRACTIONS,)),
    Entry("jais-2", (JAIS2,)),
)
"""Preferred name first among those that cut alike. Not here: kimi-k2 and afmoe, which are code in llama.cpp and no
expression, and the names whose texts are not spelled in bytes (gemma4, sarvam-moe, whitespace)."""

_WRITTEN = {ANY_CASE: "(?i:'s|'t|'re|'ve|'m|'ll|'d)", LOWER_CASE: "'s|'t|'re|'ve|'m|'ll|'d"}


def written(step: str) -> str:
    """A canonical expression as one that a library of regular expressions takes."""
    for placeholder, expression in _WRITTEN.items():
        step = step.replace(placeholder, expression)
    return step
