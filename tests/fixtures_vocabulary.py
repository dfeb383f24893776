"""A tokenizer's folder -> our GGUF metadata -> llama.cpp's own token ids, beside those of `tokenizers`."""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.bundle import Artifact, Bundle, Model
from convert.gguf_field import Field
from convert.source.companions import Companions, collect, read_companions


def bundle_of(folder: Path) -> Bundle:
    """The bundle a source stage would give for the companions in `folder`."""
    roles = {
        role: tuple(Artifact(path.suffix.lstrip("."), path, path.stat().st_size) for path in paths)
        for role, paths in collect(folder).items()
    }
    return Bundle(Model(folder.name), roles)


def companions_of(folder: Path, **files: Any) -> Companions:
    """Write `files` (name with _ for the last dot -> text, bytes or JSON) into `folder` and read the companions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, extension = name.rpartition("_")
        path = folder / f"{stem}.{extension}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_companions(bundle_of(folder))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def sentencepiece_model(
    pieces: list[tuple[str, float, int]], kind: int = 2, prefix: bool = True, folds: bool = False, rules: bytes = b""
) -> bytes:
    """The bytes of a tokenizer.model."""
    made = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(type_))
        for text, score, type_ in pieces
    ]
    fallback = varint(35 << 3) + varint(any(type_ == 6 for _, _, type_ in pieces))  # byte_fallback
    trainer = field(2, b"\x18" + varint(kind) + b"\x20" + varint(len(pieces)) + fallback)
    normalizer = field(3, field(1, b"identity") + field(2, rules) + b"\x18" + varint(prefix) + b"\x20" + varint(folds))
    return b"".join(made) + trainer + normalizer


def by_key(fields: Iterable[Field]) -> dict[str, Any]:
    found = {field.key: field.value for field in fields}
    assert found
    return found


def write_gguf(path: Path, vocabulary: Sequence[Field], vocab_size: int) -> Path:
    """The smallest Llama that llama.cpp loads, with this vocabulary: what is asked of it is to tokenize."""
    hidden, width = 32, 32
    sizes = {
        **{"context_length": 64, "embedding_length": hidden, "block_count": 1, "feed_forward_length": width},
        **{"attention.head_count": 1, "rope.dimension_count": hidden, "vocab_size": vocab_size},
    }
    fields = [
        Field.string("general.architecture", "llama"),
        *(Field.uint32(f"llama.{name}", size) for name, size in sizes.items()),
        Field.float32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        *vocabulary,
    ]
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {
        "token_embd.weight": (hidden, vocab_size),
        "output_norm.weight": (hidden,),
        "blk.0.attn_norm.weight": (hidden,),
        "blk.0.ffn_norm.weight": (hidden,),
        **{f"blk.0.{name}.weight": (hidden, hidden) for name in square},
    }
    head = b"GGUF" + np.array([3], "<u4").tobytes() + np.array([len(tensors), len(fields)], "<u8").tobytes()
    head += b"".join(field.encoded for field in fields)
    offset = 0
    for name, shape in tensors.items():
        raw = name.encode()
        head += np.array([len(raw)], "<u8").tobytes() + raw + np.array([len(shape)], "<u4").tobytes()
        head += np.array(shape, "<u8").tobytes() + np.array([0], "<u4").tobytes()  # 0: F32
        head += np.array([offset], "<u8").tobytes()
        offset += 4 * int(np.prod(shape))  # a multiple of 32 already
    path.write_bytes(head + bytes(-len(head) % 32))
    with open(path, "r+b") as file:  # zeros: nobody reads them
        file.truncate(path.stat().st_size + offset)
    return path


def template(*items: str) -> dict[str, Any]:
    """A post-processor that puts `items` around the text, which is "A"."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [text if item == "A" else {"SpecialToken": {"id": item, "type_id": 0}} for item in items]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


class Heard:
    """A Progress that keeps what it is told."""

    key = recipe_sha256 = ""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def start(self, what: str, total: int, unit: str = "B") -> None: ...
    def advance(self, amount: int) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class LlamaTokenizer:
    """llama.cpp's tokenizer of a GGUF file."""

    def __init__(self, path: Path) -> None:
        from validate.runtimes._llama_api import LogCallback, library

        self.lib = library()
        self.log: list[str] = []
        self._callback = LogCallback(lambda level, text, data: self.log.append(text.decode(errors="replace")))
        self.lib.llama_log_set(ctypes.cast(self._callback, ctypes.c_void_p), None)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        self.lib.llama_log_set(None, None)
        assert self.model, "".join(self.log[-5:])
        self.vocab = self.lib.llama_model_get_vocab(self.model)

    def encode(self, text: str, special: bool = True) -> list[int]:
        raw = text.encode()
        room = len(raw) + 16
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, special, True)
        assert count >= 0
        return list(ids[:count])

    def close(self) -> None:
        self.lib.llama_model_free(self.model)


def train_byte_level(pre_tokenizer: Any, texts: Sequence[str] = (), size: int = 600, **model: Any) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json with this pre-tokenizer, trained on `texts`, or sentences of many kinds.

    It is trained without the pre-tokenizer: its merges join across every place where text is cut, so that two that
    cut differently encode differently.
    """
    from tokenizers import Tokenizer, decoders, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts or CORPUS) * 3, trainer)
    tokenizer.pre_tokenizer = pre_tokenizer
    return json.loads(tokenizer.to_str())  # type: ignore[no-any-return]


CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'll say THEY'RE HERE; we've been told he'd come.",
    "In 2024 there were 1234567 people, 12.5 % of them at 3:45pm; call +49 30 901820 or 0xDEADBEEF.",
    "    def function_name(self, camelCaseArgument, *args):\n\t\treturn self.x[0] != {'a': 1}\n\n\n",
    "Größe, naïveté, Ünïcödé, ÇA VA, ĞÜŞİÖÇ, Łódź; нещо на Български; Ελληνικά",
    "中文字符测试,日本語のテキスト、한국어 문장입니다.",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 — “quotes” … ½ ² Ⅷ ٣٤٥ १२३ हिन्दी में ไทย עברית العربية",
    "word  two   spaces    four\r\nline\r\n\r\n  indented\n \n  \n   end   ",
    "!!!??? ------ ====== ***** ((( ))) #include <stdio.h> // comment /* x */ a+b=c; $100 €50 `code`",
]
