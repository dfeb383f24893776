"""Every family's tiny checkpoint as its publishers vary it: each becomes an F32 file that must pass validation.

    python -m tests.parity.variants            all of them, and how many alarms
    python -m tests.parity.variants llama      of the families named

A file in F32 is the source: whatever is called wrong with one is a false alarm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.bundle import Bundle
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source.stage import STAGE as source
from convert.validation.stage import STAGE as validate
from tests.parity.build import drop_pieces
from tests.parity.families import Case, loadable

TOKENS, WINDOW = 96, 32

# Longrope has other frequencies behind so many tokens, by which llama.cpp goes as soon as its context is longer; it has
# no shorter one than 256. No published model says less; ours does, to reach them within the 96 tokens of test_logits.
ORIGINAL, LEAST_CONTEXT = "original_max_position_embeddings", 256


@contextlib.contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON of a file, to be changed in place; an empty one where there is no file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    yield content
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def plain(folder: Path) -> None:
    """As an instruct model: with its template and its ends."""


def base(folder: Path) -> None:
    """No template, and one end of text; ends of turns stay in the vocabulary, unused."""
    first_end = _ends(folder)[-1]
    with edited(folder / "tokenizer_config.json") as config:
        config.pop("chat_template", None)
        config["eos_token"] = _texts(folder)[first_end]
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with edited(folder / "config.json") as config:
        config["eos_token_id"] = first_end
    with edited(folder / "generation_config.json") as generation:
        generation["eos_token_id"] = first_end


def no_generation_config(folder: Path) -> None:
    """config.json alone says what ends a text."""
    (folder / "generation_config.json").unlink(missing_ok=True)


def list_of_ends(folder: Path) -> None:
    """Two ends, of which llama.cpp knows none by its name but the first."""
    ends, names = _ends(folder), _names(folder)
    if all(text in names for text in _texts(folder).values()):
        added_tokens(folder)
    others = [i for i, text in _texts(folder).items() if text not in names]
    with edited(folder / "generation_config.json") as generation:
        generation["eos_token_id"] = [*ends, others[-1]]


def added_tokens(folder: Path) -> None:
    """Two more added tokens, one of them special: in rows without a token, else in place of the last pieces."""
    with edited(folder / "tokenizer.json") as tokenizer:
        known, vocab = tokenizer["added_tokens"], tokenizer["model"]["vocab"]
        place = max(*vocab.values(), *(t["id"] for t in known)) + 1
        if place + 2 > _rows(folder):
            place = max(vocab.values()) - 1
            drop_pieces(tokenizer["model"], place)
        for number, (text, special) in enumerate([("<note>", False), ("<|tool|>", True)]):
            known.append({**known[-1], "id": place + number, "content": text, "special": special})
        known.sort(key=lambda token: token["id"])  # the library gives ids in this order
        decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in known}
    with edited(folder / "tokenizer_config.json") as config:
        config["added_tokens_decoder"] = decoder


def legacy_tokenizer(folder: Path) -> None:
    """The class of Llama 2's tokenizer, where the tokenizer is one; transformers' newest builds it anew."""
    if '"ByteLevel"' not in (folder / "tokenizer.json").read_text(encoding="utf-8"):
        with edited(folder / "tokenizer_config.json") as config:
            config |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}


def no_bos(folder: Path) -> None:
    """Nothing is put in front of a text, by the one word for it; tokenizer.json still says what it said."""
    with edited(folder / "tokenizer_config.json") as config:
        config["add_bos_token"] = False


def legacy_without_bos(folder: Path) -> None:
    """Both: where the libraries disagree most."""
    legacy_tokenizer(folder)
    no_bos(folder)


VARIANTS: Mapping[str, Callable[[Path], None]] = {
    "instruct": plain,
    "base": base,
    "no generation_config": no_generation_config,
    "list of ends": list_of_ends,
    "added tokens": added_tokens,
    "legacy tokenizer": legacy_tokenizer,
    "no bos": no_bos,
    "legacy tokenizer, no bos": legacy_without_bos,
}


def _texts(folder: Path) -> dict[int, str]:
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return {t["id"]: t["content"] for t in added}


def _names(folder: Path) -> tuple[str, ...]:
    """Texts of tokens that are no further end: those that are one already, and those that stand around images."""
    config = json.loads((folder / "config.json").read_text())
    marks = [i for word, i in config.items() if word.endswith(("_token_id", "_token_index")) and isinstance(i, int)]
    texts = _texts(folder)
    return "<unk>", "<s>", "</s>", *(texts[i] for i in (*_ends(folder), *marks) if i in texts)


def _ends(folder: Path) -> list[int]:
    """What ends a text: generation_config.json's, else config.json's, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        ends = content.get("text_config", content).get("eos_token_id", content.get("eos_token_id"))
        if ends is not None:
            return ends if isinstance(ends, list) else [ends]
    named = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    return [next(i for i, text in _texts(folder).items() if text == named)]


def _rows(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return int(config.get("text_config", config)["vocab_size"])


def made(case: Case, variant: str, home: Path) -> Path:
    """The folder of a variant's tiny checkpoint."""
    folder = case.make(home / "tiny")
    with edited(folder / "config.json") as config:
        if config.get(ORIGINAL, LEAST_CONTEXT) < LEAST_CONTEXT:
            config[ORIGINAL] = LEAST_CONTEXT
    VARIANTS[variant](folder)
    return folder


def alarms(folder: Path, home: Path) -> list[str]:
    """Why the F32 file of a checkpoint did not pass; empty when it did."""
    places = {name: home / name for name in ("source", "gguf", "report")}
    for place in places.values():
        place.mkdir()
    bundles: dict[str, Bundle] = {"source": source.run(source.Options(path=folder), {}, places["source"], Silent())}
    bundles["gguf"] = gguf.run(gguf.Options(types=["F32"]), bundles, places["gguf"], Silent())
    asked = validate.Options(tokens=TOKENS, window=WINDOW, threads=1)
    validate.run(asked, bundles, places["report"], Silent())
    report = json.loads((places["report"] / "report.json").read_text())
    return [f"{o['label']}: {o['status']} {o['reason']}" for o in report["outputs"] if o["status"] != "passed"]


def _said(folder: Path) -> str:
    """What a checkpoint says beside its weights, which no variant changes."""
    said = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix != ".safetensors":
            said.update(path.name.encode() + path.read_bytes())
    return said.hexdigest()


@dataclass
class Count:
    """Pairs of a family and a variant; `same` are as an earlier one of the family, and not run again."""

    run: int = 0
    same: int = 0
    wrong: int = 0


def try_family(name: str, case: Case, count: Count) -> None:
    """Print every alarm of a family's variants; what could not be made is one too."""
    known = set[str]()
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as home:
            try:
                folder = made(case, variant, Path(home))
                if (said := _said(folder)) in known:
                    count.same += 1
                    continue
                known.add(said)
                found = alarms(folder, Path(home))
            except Exception as error:  # a file that cannot be made is an alarm, and the others are still tried
                found = [f"{type(error).__name__}: {str(error)[:300]}"]
        count.run, count.wrong = count.run + 1, count.wrong + bool(found)
        if found:
            print(f"{name} / {variant}: {'; '.join(found)}", flush=True)


def main(families: list[str]) -> int:
    """Print every alarm, the number of pairs and the number of alarms."""
    start, count = time.monotonic(), Count()
    for name, case in loadable().items():
        if not families or name.split(",")[0] in families:
            try_family(name, case, count)
            print(f"{name}: {count.run} run and {count.wrong} alarms so far", file=sys.stderr, flush=True)
    print(
        f"{count.run + count.same} pairs of family and variant, {count.run} of them different and run in "
        f"{time.monotonic() - start:.0f} s, {count.wrong} alarms",
        flush=True,
    )
    return bool(count.wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
