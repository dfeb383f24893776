"""Every pre-tokenizer is recognized by its pipeline and proven by encoding, on llama.cpp, what `tokenizers` encodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.errors import InputError
from convert.formats.gguf.pretokenizer_table import CASED, TABLE
from convert.formats.gguf.pretokenizers import canonical, cuts, recognize, steps
from convert.formats.gguf.vocabulary import vocabulary_metadata
from tests.fixtures_vocabulary import LlamaTokenizer, companions_of, train_byte_level, write_gguf
from validate.samples import HARD_STRINGS

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
)
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_JAIS = "".join(rf"|\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")) + r"|\s{1}"
_DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

# name -> the regexes as the models' own tokenizer.json spell them; None is ByteLevel's own
FAMILIES: dict[str, tuple[Any, ...]] = {
    "gpt-2": (None,),
    "qwen2": (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,),
    "qwen35": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    ),
    "llama-bpe": (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL,),
    "dbrx": (_CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL,),
    "starcoder": ("digits", None),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", "digits"),
    "tekken": (_CASED % ("", "") + r"\p{N}" + _CASED_TAIL,),
    "gpt-4o": (_CASED % (_CONTRACTIONS + "?", _CONTRACTIONS + "?") + r"\p{N}{1,3}" + _CASED_TAIL,),
    "falcon": ("punctuation", None, "digit runs", "[0-9][0-9][0-9]"),
    "bloom": (" ?[^(\\s|[.,!?…。，、।۔،])]+",),
    "viking": (" ?[^(\\s|[.,!?…。，、।۔،])]+", "digits"),
    "seed-coder": (
        _CONTRACTIONS + "|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "exaone-moe": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "minicpm5": (r"\p{N}{1,3}", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+" + _TAIL),
    "laguna": (r"[^\n]+|[\n]+", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL),
    "ufakzeka": (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,),
    "jais-2": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL.removesuffix(r"|\s+(?!\S)|\s+") + _JAIS,
    ),
}


_ASCII = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
_GPT4O = FAMILIES["gpt-4o"][0]
FAMILIES |= {
    "granite-embed-multi-97m": (_GPT4O,),
    "deepseek-llm": (
        "[\r\n]",
        rf"\s?[{CASED}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        "[一-龥ࠀ-一가-퟿]+",
        "digits",
    ),
    "spark2_5": (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        _ASCII + "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+|[\r\n]|\\s+(?!\\S)|\\s+",
        "digits",
    ),
    "youtu": (
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}"),
    ),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        "([\t\n]|    |  )",
        "digits",
        "each punctuation",
        None,
    ),
}


def pipeline(parts: tuple[Any, ...]) -> Any:
    from tokenizers import Regex, pre_tokenizers

    made = []
    for part in parts:
        if part is None:
            made.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
        elif part.startswith("digit"):
            made.append(pre_tokenizers.Digits(individual_digits=part == "digits"))
        elif part.endswith("punctuation"):
            made.append(pre_tokenizers.Punctuation("isolated" if part.startswith("each") else "contiguous"))
        else:
            made.append(pre_tokenizers.Split(Regex(part), "isolated"))
    if None not in parts:
        made.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(made)


STRINGS = [*HARD_STRINGS, "ΑλφαΒήτα СловоСлово ÉcoleÉcole"]  # upper case after lower, beyond a-z


def test_every_name_is_proven() -> None:
    assert FAMILIES.keys() == {entry.name for entry in TABLE}


def differing(tokenizer: dict[str, Any], folder: Path, cuts: Sequence[str] = ()) -> list[str]:
    """The hard strings that llama.cpp encodes differently; `cuts` in place of the tokenizer's own pre-tokenizer."""
    from tokenizers import Tokenizer

    companions = companions_of(folder / "model", tokenizer_json=tokenizer, config_json={})
    size = len(companions.token_ids)
    llama = LlamaTokenizer(write_gguf(folder / "t.gguf", vocabulary_metadata(companions, size), size))
    reference = Tokenizer.from_str(json.dumps(tokenizer))
    if cuts:
        reference.pre_tokenizer = pipeline(tuple(cuts))
    encoded = {text: (llama.encode(text), reference.encode(text).ids) for text in STRINGS}
    llama.close()
    assert len(encoded) >= 60
    return [text for text, (got, wanted) in encoded.items() if got != wanted]


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_cuts_as_tokenizers_does(name: str, tmp_path: Path) -> None:
    """With merges across every cut, any difference in cutting shows; an entry says in its note that there is one."""
    entry = next(entry for entry in TABLE if entry.name == name)
    made = pipeline(FAMILIES[name])
    tokenizer = train_byte_level(made, STRINGS, 6000, ignore_merges=entry.ignore_merges)
    assert recognize(tokenizer).name == name
    wrong = differing(tokenizer, tmp_path / "own")
    assert bool(wrong) == bool(entry.note), wrong
    assert len(wrong) <= 16
    if entry.cuts:  # then llama.cpp cuts as the table says it does
        assert differing(tokenizer, tmp_path / "theirs", cuts(name)) == []


def test_a_wrong_pre_tokenizer_is_seen(tmp_path: Path) -> None:
    """The proof above can fail: GPT-2's merges under Qwen's name encode differently."""
    tokenizer = train_byte_level(pipeline((None,)), HARD_STRINGS, 6000)
    companions = companions_of(tmp_path / "model", tokenizer_json=tokenizer, config_json={})
    size = len(companions.token_ids)
    fields = vocabulary_metadata(companions, size, pre_tokenizer="qwen2")
    llama = LlamaTokenizer(write_gguf(tmp_path / "t.gguf", fields, size))
    right = vocabulary_metadata(companions, size)
    rightly = LlamaTokenizer(write_gguf(tmp_path / "right.gguf", right, size))
    different = [text for text in HARD_STRINGS if llama.encode(text) != rightly.encode(text)]
    llama.close()
    rightly.close()
    assert len(different) > 10


@pytest.mark.parametrize(
    "spelled",
    [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\r\n]*"
        "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
)
def test_spellings_of_one_expression(spelled: str, tmp_path: Path) -> None:
    assert canonical(spelled) == canonical(FAMILIES["qwen2"][0])
    assert recognize(train_byte_level(pipeline((spelled,)))).name == "qwen2"


@pytest.mark.parametrize(
    "nearly",
    [
        FAMILIES["qwen2"][0].replace(r"\p{N}|", r"\p{N}{1,2}|"),
        FAMILIES["qwen2"][0].replace(r"[\r\n]*", r"[\r\n]?"),
        FAMILIES["qwen2"][0].removesuffix(r"|\s+(?!\S)|\s+") + r"|\s+",
    ],
)
def test_a_small_difference_is_not_recognized(nearly: str) -> None:
    with pytest.raises(InputError, match=r"llama\.cpp has no name for") as caught:
        recognize(train_byte_level(pipeline((nearly,))), where="model/tokenizer.json")
    message = str(caught.value)
    assert message.startswith("model/tokenizer.json")
    assert canonical(nearly) in message
    assert "`pre_tokenizer: <name>`" in message


def test_an_override_is_taken_and_told() -> None:
    tokenizer = train_byte_level(pipeline((r"\w+|\W+",)))
    found = recognize(tokenizer, override="llama-bpe")
    assert found.name == "llama-bpe"
    assert "set by hand" in found.notes[-1]
    with pytest.raises(InputError, match="a name llama"):
        recognize(tokenizer, override="../x")


def test_removed_and_inverted_is_isolated_where_no_gap_is_left() -> None:
    split = {"type": "Split", "pattern": {"Regex": FAMILIES["qwen2"][0]}, "behavior": "Removed", "invert": True}
    assert steps(split) == steps(split | {"behavior": "Isolated", "invert": False})
    gaps = split | {"pattern": {"Regex": r"\p{L}+"}}
    assert steps(gaps) != (r"\p{L}+",)


def test_nfc_is_a_note_and_other_normalizers_are_refused() -> None:
    tokenizer = train_byte_level(pipeline(FAMILIES["qwen2"]))
    assert recognize(tokenizer).notes == ()
    (note,) = recognize(tokenizer | {"normalizer": {"type": "NFC"}}).notes
    assert "NFC" in note
    with pytest.raises(InputError, match="Lowercase"):
        recognize(tokenizer | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}})


def test_ignore_merges_picks_the_name_that_does_so() -> None:
    llama3 = train_byte_level(pipeline(FAMILIES["llama-bpe"]), ignore_merges=True)
    assert recognize(llama3).name == "llama-bpe"
    llama3["model"]["ignore_merges"] = False
    assert recognize(llama3).name == "dbrx"


def test_ignore_merges_that_llama_cpp_lacks_matters_only_for_tokens_no_merge_makes() -> None:
    tokenizer = train_byte_level(pipeline(FAMILIES["qwen2"]), ignore_merges=True)
    assert recognize(tokenizer).name == "qwen2"
    tokenizer["model"]["vocab"]["unmergeable"] = 599
    with pytest.raises(InputError, match="unmergeable"):
        recognize(tokenizer)


@pytest.mark.parametrize(
    "broken",
    [3, "ByteLevel", [], {"type": "Sequence"}, {"type": "Sequence", "pretokenizers": [1]}, {"type": "Split"}, {}],
)
def test_a_broken_pipeline_is_one_error(broken: Any) -> None:
    with pytest.raises(InputError):
        recognize({"model": {"type": "BPE"}, "pre_tokenizer": broken})
