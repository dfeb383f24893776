"""Compare what our vocabularies encode on llama.cpp with llama.cpp's own test vocabularies. `make parity` runs it.

    python -m tests.peer_vocabularies LLAMA_CPP_DIR [NAME ...]

For every models/ggml-vocab-NAME.gguf: the model's original files are rebuilt from it, converted by us, loaded in
llama.cpp, and asked to encode the strings of NAME.gguf.inp, which must give the ids of NAME.gguf.out. A vocabulary
that has no such files is asked those of gpt-2 and must give what its own GGUF gives. Then the conversion's own proof is
run on it. Says for each: equal, differs, or why it cannot be rebuilt; exits with 1 when one differs.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from convert.formats.gguf.pretokenizers import regexes
from convert.formats.gguf.reader import read_gguf_header
from convert.formats.gguf.tokenizer_proof import prove_tokenizer
from convert.formats.gguf.tokenizer_request import request
from convert.formats.gguf.tokenizer_worker import LlamaVocabulary
from convert.formats.gguf.vocabulary import vocabulary_metadata
from convert.source.companions import read_companions
from tests.fixtures_vocabulary import Heard, bundle_of, companions_of, sentencepiece_model, write_gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SEPARATOR = "\n__ggml_vocab_test__\n"

# The pre-tokenizer of the model's own tokenizer.json, where the GGUF file names it otherwise or not at all.
PIPELINES = {
    **{"mpt": "gpt-2", "refact": "starcoder", "command-r": "starcoder"},
    **{"gpt-neox": "gpt-2", "aquila": "gpt-2"},  # whose files are older than the word
}


@dataclass(frozen=True)
class Source:
    """What a GGUF file says of a tokenizer."""

    name: str
    fields: Mapping[str, Any]

    def said(self, key: str, default: Any = None) -> Any:
        return self.fields.get(f"tokenizer.ggml.{key}", default)

    @property
    def tokens(self) -> list[tuple[int, str, int]]:
        """(id, text, type) of every token but padding."""
        pairs = zip(self.said("tokens"), self.said("token_type"), strict=True)
        return [(i, text, kind) for i, (text, kind) in enumerate(pairs) if kind != UNUSED]

    @property
    def added(self) -> list[dict[str, Any]]:
        return [
            {"id": i, "content": text, "special": kind != USER_DEFINED, **dict.fromkeys(FLAGS, False)}
            for i, text, kind in self.tokens
            if kind in (CONTROL, USER_DEFINED, UNKNOWN)
        ]


def splits(name: str) -> list[dict[str, Any]]:
    """The pipeline of tokenizer.json that a pre-tokenizer's name stands for."""
    made: list[dict[str, Any]] = []
    for step in regexes(name):
        if step == "<punctuation, contiguous>":
            made.append({"type": "Punctuation", "behavior": "Contiguous"})
        elif step == "<bytes>":
            made.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
        else:
            split = {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
            made.append(split)
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return made if last in made else [*made, last]


def byte_level(source: Source) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE."""
    pre = PIPELINES.get(source.name, source.said("pre", ""))
    end = max(i for i, _, kind in source.tokens if kind == NORMAL)
    model = {
        "type": "BPE",
        "vocab": {text: i for i, text, kind in source.tokens if i <= end},  # the added ones come after
        "merges": list(source.said("merges")),
        "ignore_merges": pre in ("llama-bpe", "tekken"),
    }
    pipeline = {"type": "Sequence", "pretokenizers": splits(pre)}
    return {"tokenizer_json": {"added_tokens": source.added, "pre_tokenizer": pipeline, "model": model}}


def sentencepiece(source: Source) -> dict[str, Any]:
    """tokenizer.model, with the added tokens in tokenizer_config.json."""
    scores = source.said("scores")
    last = max(i for i, _, kind in source.tokens if kind in (NORMAL, BYTE))
    own = [(text, scores[i], kind) for i, text, kind in source.tokens if i <= last]  # the added ones come after
    decoder = {str(t["id"]): t for t in source.added if t["id"] > last}
    prefix = source.said("add_space_prefix", True)
    return {
        "tokenizer_model": sentencepiece_model(own, prefix=prefix),
        "tokenizer_config_json": {"added_tokens_decoder": decoder, "add_bos_token": source.said("add_bos_token", True)},
    }


def unigram(source: Source) -> dict[str, Any]:
    """tokenizer.json of a unigram model."""
    scores, tokens = source.said("scores"), source.said("tokens")
    rules = base64.b64encode(bytes(n & 255 for n in source.said("precompiled_charsmap"))).decode()
    last = max(i for i, _, _ in source.tokens)
    unknown = next(i for i, _, kind in source.tokens if kind == UNKNOWN)
    folds = source.said("remove_extra_whitespaces", False)
    steps = [{"type": "Precompiled", "precompiled_charsmap": rules}]
    steps += [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}] if folds else []
    tokenizer = {
        "added_tokens": source.added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": [[tokens[i], scores[i]] for i in range(last + 1)]},
    }
    return {"tokenizer_json": tokenizer}


def wordpiece(source: Source) -> dict[str, Any]:
    """tokenizer.json of BERT, spelled as BERT spells it."""
    plain = {
        text.removeprefix("▁") if text.startswith("▁") else f"##{text}": i
        for i, text, kind in source.tokens
        if kind == NORMAL
    } | {token["content"]: token["id"] for token in source.added}
    tokenizer = {
        "added_tokens": source.added,
        "normalizer": {
            "type": "BertNormalizer",
            **{"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": plain}
        | {"max_input_chars_per_word": 100},
    }
    names = ("unk", "cls", "pad", "mask")
    texts = {i: text for i, text, _ in source.tokens}
    keys = {"unk": "unknown", "pad": "padding"}
    config = {f"{n}_token": texts[source.said(f"{keys.get(n, n)}_token_id")] for n in names}
    config["sep_token"] = texts[source.said("seperator_token_id")]
    return {"tokenizer_json": tokenizer, "tokenizer_config_json": config}


def unspaced(source: Source) -> dict[str, Any]:
    """tokenizer.json of Gemma 4: merges of sentencepiece's pieces, with byte fallback."""
    unknown = next(text for i, text, _ in source.tokens if i == source.said("unknown_token_id"))
    model = {
        "type": "BPE",
        "vocab": {text: i for i, text, kind in source.tokens},
        "merges": [merge.replace(" ", "\0", 1).split("\0") for merge in source.said("merges")],
        "unk_token": unknown,
        "byte_fallback": True,
        "fuse_unk": True,
    }
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {"tokenizer_json": {"added_tokens": source.added, "normalizer": normalizer, "model": model}}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")  # of an added token

MAKERS: Mapping[str, Callable[[Source], dict[str, Any]]] = {
    "gpt2": byte_level,
    "llama": sentencepiece,
    "t5": unigram,
    "bert": wordpiece,
    "gemma4": unspaced,
}


def why_not(source: Source) -> str:
    """Why the original files cannot be rebuilt; empty when they can."""
    if source.said("model") == "gpt2" and not splits(PIPELINES.get(source.name, source.said("pre", "")))[:-1]:
        return f"cannot be rebuilt: no pipeline is known for the pre-tokenizer {source.said('pre')!r}"
    return ""


def compare(path: Path, folder: Path) -> str:
    """In a word how the vocabulary of `path` fares; longer where it does not."""
    name = path.stem.removeprefix("ggml-vocab-")
    source = Source(name, {f.key: f.value for f in read_gguf_header(path).fields})
    if reason := why_not(source):
        return reason
    ids = {f"{kind}_token_id": source.said(f"{kind}_token_id") for kind in ("bos", "eos")}
    config: dict[str, Any] = {k: v for k, v in ids.items() if v is not None}
    if source.said("model") == "gemma4":
        config["model_type"] = "gemma4"
    files = MAKERS[source.said("model")](source) | {"config_json": config}
    size = len(source.said("tokens"))
    companions = companions_of(folder / name, **files)
    fields = vocabulary_metadata(companions, size)
    written = write_gguf(folder / f"{name}.gguf", fields, size)
    ours = LlamaVocabulary(written)
    listed = Path(f"{path}.inp")
    inputs = listed if listed.is_file() else path.with_name("ggml-vocab-gpt-2.gguf.inp")
    texts = inputs.read_text(encoding="utf-8").split(SEPARATOR)
    if listed.is_file():
        lines = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
        wanted = [[int(number) for number in line.split()] for line in lines[: len(texts)]]
        against = "the .out"
    elif (
        source.said("model") == "gpt2" and source.said("pre") is None
    ):  # cut by llama.cpp's default, which is no model's
        own = Library.from_file(str(folder / name / "tokenizer.json"))
        wanted, against = [own.encode(text, add_special_tokens=False).ids for text in texts], "the tokenizers library"
    else:
        theirs = LlamaVocabulary(path)
        wanted, against = [theirs.encode(text, special=False) for text in texts], "its own GGUF"
    wrong = [(t, w, g) for t, w in zip(texts, wanted, strict=True) if (g := ours.encode(t, special=False)) != w]
    if not wrong:
        heard = Heard()
        prove_tokenizer(written, fields, request(fields, read_companions(bundle_of(folder / name))), "warn", heard)
        limits = sum(int(note.split()[1]) for note in heard.notes if "known limit" in note)
        proof = heard.warnings[0] if heard.warnings else f"proven on hard strings, {limits} of them known limits"
        return f"{'differs' if heard.warnings else 'equal'}: {len(texts)} strings, against {against}; {proof}"
    text, want, got = wrong[0]
    return f"differs: {len(wrong)} of {len(texts)}, first {json.dumps(text)}: {got[:20]}, wanted {want[:20]}"


def main(llama_cpp: Path, names: list[str]) -> int:
    """The number of vocabularies that differ."""
    differing = 0
    paths = sorted((llama_cpp / "models").glob("ggml-vocab-*.gguf"))
    if not paths:
        raise SystemExit(f"{llama_cpp}/models has no ggml-vocab-*.gguf")
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            name = path.stem.removeprefix("ggml-vocab-")
            if names and name not in names:
                continue
            found = compare(path, Path(folder))
            differing += found.startswith("differs")
            print(f"{name:16} {found}", flush=True)
    return differing


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(bool(main(Path(sys.argv[1]), sys.argv[2:])))
