"""Tokenizers of encoders: WordPiece as BERT's, unigram as XLM-RoBERTa's, byte-level BPE as RoBERTa's and ModernBERT's.

Equal arguments give equal tokenizers.
"""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

from tests import tiny
from tests.parity.build import Words

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


@cache
def wordpiece(size: int = 384) -> str:
    """tokenizer.json of a WordPiece in small letters of exactly `size` tokens, [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(BERT_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(tiny._text(), trainer)
    assert tokenizer.get_vocab_size() == size
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str(pretty=True)


@cache
def sentencepiece_unigram(size: int = 380, **ids: int) -> bytes:
    """A sentencepiece model of a unigram, with the normalization rules of most."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny._text()),
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
        **ids,
    )
    return model.getvalue()


def _pieces(model: bytes) -> tuple[list[tuple[str, float]], str]:
    """Pieces with their scores, and the normalization rules in base64."""
    import base64

    from sentencepiece import SentencePieceProcessor

    from convert.formats.gguf.sentencepiece import _fields

    processor = SentencePieceProcessor(model_proto=model)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    (normalizer,) = (value for number, value in _fields(memoryview(model)) if number == 3)
    assert isinstance(normalizer, memoryview)
    (rules,) = (value for number, value in _fields(normalizer) if number == 2)
    assert isinstance(rules, memoryview)
    return pieces, base64.b64encode(bytes(rules)).decode()


@cache
def xlm_roberta() -> str:
    """tokenizer.json as XLM-RoBERTa's: every piece but the first three moved by one, <mask> last."""
    pieces, rules = _pieces(sentencepiece_unigram())
    vocab = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *map(list, pieces[3:]), ["<mask>", 0.0]]
    return json.dumps(_unigram(vocab, rules, unknown=3, special=("<s>", "<pad>", "</s>", "<unk>", "<mask>")), indent=1)


def _unigram(vocab: list[list[Any]], rules: str, unknown: int, special: tuple[str, ...]) -> dict[str, Any]:
    ids = {text: number for number, (text, _) in enumerate(vocab)}
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    around = {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]} if "<s>" in ids else None
    end = {"id": "</s>", "ids": [ids["</s>"]], "tokens": ["</s>"]}
    first = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] if around else []
    text_a, text_b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    last = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[t], "content": t, "lstrip": t == "<mask>", **flags} for t in special],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": rules},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*first, text_a, last],
            "pair": [*first, text_a, last, last, text_b, last] if around else [text_a, last, text_b, last],
            "special_tokens": {"</s>": end, **({"<s>": around} if around else {})},
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": False},
    }


@cache
def roberta(size: int = 384) -> str:
    """tokenizer.json as RoBERTa's: GPT-2's pre-tokenizer, <s> and </s> around a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in ROBERTA_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(tiny._text(), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    assert tokenizer.get_vocab_size() == size
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return tokenizer.to_str(pretty=True)


@cache
def modern_bert(size: int = 384) -> str:
    """tokenizer.json as ModernBERT's: bytes as GPT-NeoX cuts them, BERT's special tokens last."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(BERT_TOKENS), initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(tiny._text(), trainer)
    names = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False, lstrip=t == "[MASK]") for t in names])
    assert tokenizer.get_vocab_size() == size
    cls, sep = (tokenizer.token_to_id(text) for text in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer.to_str(pretty=True)


def _named(**names: str) -> dict[str, str]:
    return {f"{kind}_token": text for kind, text in names.items()}


BERT_NAMES = _named(unk="[UNK]", cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]")
ROBERTA_NAMES = _named(bos="<s>", eos="</s>", unk="<unk>", cls="<s>", sep="</s>", pad="<pad>", mask="<mask>")
PLAIN = {"clean_up_tokenization_spaces": False, "model_max_length": 512}

BERT = Words(
    384,
    wordpiece,
    {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **PLAIN, **BERT_NAMES},
    {"pad_token_id": 0},
)
XLM_ROBERTA = Words(
    382,
    xlm_roberta,
    {"tokenizer_class": "XLMRobertaTokenizer", **PLAIN, **ROBERTA_NAMES},
    {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
)
ROBERTA = Words(
    384,
    roberta,
    {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "trim_offsets": True, **PLAIN, **ROBERTA_NAMES},
    {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
)
MODERN_BERT = Words(
    384,
    modern_bert,
    {"tokenizer_class": "PreTrainedTokenizerFast", **PLAIN, **BERT_NAMES},
    {"cls_token_id": 380, "sep_token_id": 381, "pad_token_id": 382, "bos_token_id": 380, "eos_token_id": 381},
)


@cache
def t5_model() -> bytes:
    """A sentencepiece model as T5's: padding, end and unknown first, nothing in front of a text."""
    return sentencepiece_unigram(380, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@cache
def t5() -> str:
    """tokenizer.json of the same pieces, </s> behind a text."""
    pieces, rules = _pieces(t5_model())
    return json.dumps(_unigram(list(map(list, pieces)), rules, unknown=2, special=("<pad>", "</s>", "<unk>")), indent=1)


T5 = Words(
    384,
    t5,
    {"tokenizer_class": "T5Tokenizer", **PLAIN, **_named(eos="</s>", unk="<unk>", pad="<pad>"), "extra_ids": 0},
    {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
)
