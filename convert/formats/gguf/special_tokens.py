"""Special tokens of a GGUF file: which ids are BOS, EOS, EOT ..., and which of them a prompt gets by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from convert.errors import InputError
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.companions import Companions, token_text

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "bos": "tokenizer.ggml.bos_token_id",
        "eos": "tokenizer.ggml.eos_token_id",
        "eot": "tokenizer.ggml.eot_token_id",  # ends a turn of a conversation
        "eom": "tokenizer.ggml.eom_token_id",  # ends a message, a tool's answer follows
        "unk": "tokenizer.ggml.unknown_token_id",
        "sep": "tokenizer.ggml.seperator_token_id",  # the format's own spelling
        "pad": "tokenizer.ggml.padding_token_id",
        "cls": "tokenizer.ggml.cls_token_id",
        "mask": "tokenizer.ggml.mask_token_id",
        "fim_pre": "tokenizer.ggml.fim_pre_token_id",  # fill in the middle
        "fim_suf": "tokenizer.ggml.fim_suf_token_id",
        "fim_mid": "tokenizer.ggml.fim_mid_token_id",
        "fim_pad": "tokenizer.ggml.fim_pad_token_id",
        "fim_rep": "tokenizer.ggml.fim_rep_token_id",
        "fim_sep": "tokenizer.ggml.fim_sep_token_id",
    }
)

BY_TEXT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "eot": (
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<EOT>",
            "[EOT]",
            "<end_of_utterance>",
            "<|plamo:op|>",
        ),
        "eom": ("<|eom_id|>",),
        "fim_pre": (
            "<|fim_prefix|>",
            "<fim_prefix>",
            "<fim-prefix>",
            "<｜fim▁begin｜>",
            "▁<PRE>",
            "<PRE>",
            "<|code_prefix|>",
        ),
        "fim_suf": (
            "<|fim_suffix|>",
            "<fim_suffix>",
            "<fim-suffix>",
            "<｜fim▁hole｜>",
            "▁<SUF>",
            "<SUF>",
            "<|code_suffix|>",
        ),
        "fim_mid": (
            "<|fim_middle|>",
            "<fim_middle>",
            "<fim-middle>",
            "<｜fim▁end｜>",
            "▁<MID>",
            "<MID>",
            "<|code_middle|>",
        ),
        "fim_pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
        "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>"),
        "fim_sep": ("<|file_sep|>",),
    }
)
"""Tokens no config names; known by their text, the first that exists. llama.cpp searches for the same texts when a file
does not say, in no fixed order: where a tokenizer has several, as Qwen's has, only the file can decide."""

EMPTY_LINE = "\\n\\n"  # as RWKV's tokens are spelled
ENDS_BY_TEXT = frozenset(
    (
        *(*BY_TEXT["eot"], *BY_TEXT["eom"], "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "_<EOT>"),
        *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>", "[e~["),
        "<｜end▁of▁sentence｜>",
    )
)
"""Texts at which llama.cpp stops whatever the file says (src/llama-vocab.cpp, special_eog_ids)."""


@dataclass(frozen=True)
class SpecialTokens:
    """Kind -> id, and whether BOS goes before and EOS after an encoded text. `notes`: what GGUF cannot say."""

    ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    notes: tuple[str, ...] = ()

    def fields(self) -> list[Field]:
        """As GGUF metadata, in the order of KEYS."""
        return [
            *(Field.uint32(key, self.ids[kind]) for kind, key in KEYS.items() if kind in self.ids),
            Field.boolean("tokenizer.ggml.add_bos_token", self.add_bos),
            Field.boolean("tokenizer.ggml.add_eos_token", self.add_eos),
        ]


def find(
    companions: Companions,
    texts: Mapping[str, int],
    unknown: int | None = None,
    *,
    model: str = "",
    add_bos: bool | None = None,
) -> SpecialTokens:
    """The special tokens of a vocabulary `texts` (token text -> id); `unknown` is the id of its unknown token.

    `model` is the kind's name in the file; `add_bos` is what a file of tokens says itself, before any config.

    Raises InputError where the tokenizer adds a token that it does not have.
    """
    if model == "rwkv":  # its configs name others; a text starts with 0 and ends there, a turn by an empty line
        turn = {"eot": texts[EMPTY_LINE]} if EMPTY_LINE in texts else {}
        return SpecialTokens({"bos": 0, "eos": 0, **turn}, add_bos=False, add_eos=False)
    last = max(texts.values(), default=-1)
    ids = {kind: number for kind, number in companions.special_ids.items() if number <= last}
    notes = [
        f"{kind}_token_id {number} is not in the vocabulary; left out"
        for kind, number in companions.special_ids.items()
        if number > last
    ]
    # a sentencepiece model without tokenizer.json: its config names tokens that only the vocabulary knows
    for kind in ("bos", "eos", "unk", "pad", *(["sep"] if model == "plamo2" else [])):
        named = token_text(companions.tokenizer_config.get(f"{kind}_token"))
        if named is not None and named in texts:
            ids.setdefault(kind, texts[named])
    if unknown is not None:
        ids.setdefault("unk", unknown)
    if add_bos is not None or model == "bert":
        _by_usual_names(ids, texts)
    for kind, names in BY_TEXT.items():
        number = next((texts[name] for name in names if name in texts), None)
        if number is not None:
            ids.setdefault(kind, number)
    before, after = _added(companions, ids, texts) if model != "bert" else _around_bert(companions, ids, texts)
    if before and companions.tokenizer_config.get("add_bos_token") is False:
        notes.append(_BOS_DISPUTED)
    if add_bos and not before and "bos" in ids:
        before = [ids["bos"]]
    if model == "bert" and after:
        ids["sep"] = after[-1]  # what llama.cpp puts behind a text of this kind, whatever the flags say
    notes += _apply(ids, before, after)
    ends = set(companions.end_ids)
    notes += _more_ends(companions, ids, {number: text for text, number in texts.items() if number in ends})
    return SpecialTokens(ids, add_bos=bool(before), add_eos=bool(after), notes=tuple(notes))


_BOS_DISPUTED = (
    "tokenizer_config.json says add_bos_token: false and tokenizer.json puts a BOS before a text: transformers 5 and "
    "this file do as tokenizer.json says, transformers 4 adds none"
)
_USUAL = {
    "bos": ("<s>", "[CLS]"),
    "eos": ("</s>",),
    "unk": ("<unk>", "[UNK]"),
    "sep": ("[SEP]",),
    "pad": ("<pad>", "[PAD]"),
}


def _by_usual_names(ids: dict[str, int], texts: Mapping[str, int]) -> None:
    """Fill in what no config names: tekken.json and vocab.txt come without one and have fixed names."""
    for kind, names in _USUAL.items():
        number = next((texts[name] for name in names if name in texts), None)
        if number is not None:
            ids.setdefault(kind, number)


def _around_bert(
    companions: Companions, ids: Mapping[str, int], texts: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """What goes around a text of WordPiece: by the post-processor, else CLS and SEP, which is what llama.cpp does."""
    before, after = _added(companions, ids, texts)
    if before and after:
        return before, after
    lacking = [kind for kind in ("bos", "sep") if kind not in ids]
    if lacking:
        where = str(companions.files.get("tokenizer_config.json", "tokenizer_config.json"))
        raise InputError(where, f"no {' and no '.join(lacking)} token", "[CLS] and [SEP], which llama.cpp puts around")
    return [ids["bos"]], [ids["sep"]]


def _apply(ids: dict[str, int], before: list[int], after: list[int]) -> list[str]:
    """Make BOS and EOS the tokens a prompt gets, as far as one of each can say it; notes on the rest."""
    notes = []
    if len(before) > 1 or len(after) > 1:
        notes.append(
            f"the tokenizer adds {before} before and {after} after a text; llama.cpp adds one token at each end"
        )
    if before and ids.get("bos") != before[0]:
        if "bos" in ids:
            notes.append(f"BOS is written as {before[0]}, which the tokenizer puts before a text, not {ids['bos']}")
        ids["bos"] = before[0]
    if after and ids.get("eos") != after[-1]:
        if "eos" in ids:
            notes.append(f"EOS is written as {after[-1]}, which the tokenizer puts after a text, not {ids['eos']}")
            ids.setdefault("eot", ids["eos"])
        ids["eos"] = after[-1]
    return notes


def _more_ends(companions: Companions, ids: dict[str, int], texts: Mapping[int, str]) -> list[str]:
    """Every further token that ends a generation into a free place that llama.cpp stops at; notes on what has none."""
    notes = []
    for number in companions.end_ids:
        stops = {ids.get(kind) for kind in ("eos", "eot", "eom")}
        if number not in texts or number in stops or texts[number] in ENDS_BY_TEXT:
            continue
        free = next((kind for kind in ("eot", "eom") if kind not in ids), None)
        if free is not None:
            ids[free] = number
        else:
            notes.append(f"llama.cpp will not stop at {texts[number]!r} ({number}): GGUF has no place for one more end")
    return notes


def _added(companions: Companions, ids: Mapping[str, int], texts: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Ids put before and after an encoded text: by tokenizer.json's post-processor, or where it has none, the config.

    transformers 5 reads the post-processor and ignores add_bos_token where there is a tokenizer.json
    (tokenization_utils_base.py, _from_pretrained).
    """
    tokenizer = companions.tokenizer_json
    processor = tokenizer.get("post_processor") if tokenizer is not None else None
    if isinstance(processor, Mapping):
        before: list[int] = []
        after: list[int] = []
        parts = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
        for part in parts if isinstance(parts, list) else []:
            head: list[int] = []
            tail: list[int] = []
            if isinstance(part, Mapping) and part.get("type") == "TemplateProcessing":
                head, tail = _template(part, companions, texts)
            elif isinstance(part, Mapping) and part.get("type") in ("BertProcessing", "RobertaProcessing"):
                head, tail = ([_named(part.get(key), texts, companions)] for key in ("cls", "sep"))
            before, after = head + before, after + tail
        return before, after
    config = companions.tokenizer_config
    is_llama = companions.sentencepiece is not None and tokenizer is None  # LlamaTokenizer adds BOS unless told not to
    flags = {"bos": config.get("add_bos_token", is_llama), "eos": config.get("add_eos_token", False)}
    for kind, flag in flags.items():
        if flag is True and kind not in ids:
            where = str(companions.files.get("tokenizer_config.json", "tokenizer_config.json"))
            raise InputError(where, f"add_{kind}_token is true and there is no {kind}_token", f"a {kind}_token")
    return [ids["bos"]] if flags["bos"] is True else [], [ids["eos"]] if flags["eos"] is True else []


def _named(pair: object, texts: Mapping[str, int], companions: Companions) -> int:
    """The id of ["[CLS]", 101], as tokenizer.json writes a token that a processor adds."""
    text = pair[0] if isinstance(pair, list) and len(pair) == 2 else None
    if not isinstance(text, str) or text not in texts:
        where = str(companions.files.get("tokenizer.json", "tokenizer.json"))
        raise InputError(where, f"post_processor adds {str(pair)[:60]!r}, which is no token")
    return texts[text]


def _template(processor: JsonObject, companions: Companions, texts: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Ids a TemplateProcessing puts before and after a single text."""
    where = str(companions.files.get("tokenizer.json", "tokenizer.json"))
    head: list[int] = []
    tail: list[int] = []
    ends = head
    single = processor.get("single")
    for item in single if isinstance(single, list) else []:
        special = item.get("SpecialToken") if isinstance(item, Mapping) else None
        if not isinstance(special, Mapping):
            ends = tail  # the text itself
            continue
        number = texts.get(str(special.get("id")))
        if number is None:
            raise InputError(where, f"post_processor adds {special.get('id')!r}, which is no token")
        ends.append(number)
    return head, tail
