"""The tokenizer of a checkpoint is read once: in the plan, for the file, and for its proof."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from convert import load_recipe, plan, run
from convert.bundle import Bundle
from convert.errors import InputError
from convert.formats.gguf import tokenizer, vocabulary
from convert.formats.gguf.tokenizer import read_tokenizer
from convert.source import companions
from convert.source.companions import read_companions
from tests.fixtures_vocabulary import bundle_of, companions_of
from tests.tiny import qwen_tokenizer, tiny_qwen2

SIZE = 800


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often tokenizer.json was parsed, and a vocabulary made of it; nothing is known from before."""
    counted: Counter[str] = Counter()
    parse, read = companions.read_json, vocabulary.read_vocabulary

    def counting_parse(path: Path, *limit: int) -> dict[str, Any]:
        counted[path.name] += 1
        return parse(path, *limit)

    def counting_read(*arguments: Any) -> vocabulary.Vocabulary:
        counted["vocabulary"] += 1
        return read(*arguments)

    monkeypatch.setattr(companions, "read_json", counting_parse)
    monkeypatch.setattr(vocabulary, "read_vocabulary", counting_read)
    monkeypatch.setattr(tokenizer, "_known", {})
    return counted


@pytest.mark.parametrize("stages", [1, 5])
def test_a_run_reads_the_tokenizer_once(tmp_path: Path, reads: Counter[str], stages: int) -> None:
    tiny_qwen2(tmp_path / "model")
    files = "\n".join(f"  g{i}: {{use: gguf, types: [F16], name: m{i}}}" for i in range(stages))
    (tmp_path / "recipe.yaml").write_text(f"name: r\nmodel: {{path: model}}\nstages:\n{files}\n")
    planned = plan(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    assert planned.problems == ()
    run(planned)
    assert len(list((tmp_path / "out").rglob("*.gguf"))) == stages
    assert (reads["tokenizer.json"], reads["vocabulary"]) == (1, 1)


def source(folder: Path, tokenizer_json: str = "") -> Bundle:
    companions_of(folder, tokenizer_json=json.loads(tokenizer_json or qwen_tokenizer(SIZE)))
    return bundle_of(folder)


def test_a_changed_file_is_read_again(tmp_path: Path, reads: Counter[str]) -> None:
    bundle = source(tmp_path / "m")
    first = read_tokenizer(read_companions(bundle, tokenizer=False), SIZE, None)
    assert read_tokenizer(read_companions(bundle, tokenizer=False), SIZE, None) is first
    other = qwen_tokenizer(SIZE).replace("<|im_end|>", "<|im_End|>")
    second = read_tokenizer(read_companions(source(tmp_path / "m", other), tokenizer=False), SIZE, None)
    texts = [next(f.value for f in found.fields if f.key.endswith(".tokens")) for found in (first, second)]
    assert "<|im_end|>" in texts[0]
    assert "<|im_End|>" in texts[1]
    assert reads["vocabulary"] == 2


def test_rows_and_the_name_of_the_pre_tokenizer_count(tmp_path: Path, reads: Counter[str]) -> None:
    found = read_companions(source(tmp_path / "m"), tokenizer=False)
    assert len({id(read_tokenizer(found, rows, pre)) for rows in (SIZE, SIZE + 8) for pre in (None, "llama-bpe")}) == 4
    assert reads["vocabulary"] == 4


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_known", {})
    found = read_companions(source(tmp_path / "m"), tokenizer=False)
    metadata = tokenizer.tokenizer_metadata

    def meanwhile(*arguments: Any, **options: Any) -> vocabulary.TokenizerMetadata:
        made = metadata(*arguments, **options)
        (tmp_path / "m" / "tokenizer.json").write_text(qwen_tokenizer(SIZE + 1))
        return made

    monkeypatch.setattr(tokenizer, "tokenizer_metadata", meanwhile)
    read_tokenizer(found, SIZE + 8, None)
    assert tokenizer._known == {}


def test_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_known", {})
    found = read_companions(source(tmp_path / "m"), tokenizer=False)
    for rows in range(SIZE, SIZE + 2 * tokenizer.KEPT):
        read_tokenizer(found, rows, None)
    assert len(tokenizer._known) == tokenizer.KEPT
    assert {rows for _, rows, _ in tokenizer._known} == set(range(SIZE + tokenizer.KEPT, SIZE + 2 * tokenizer.KEPT))


def test_a_broken_tokenizer_is_refused_by_all_that_read_companions(tmp_path: Path) -> None:
    bundle = source(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_companions(bundle)
    found = read_companions(bundle, tokenizer=False)
    with pytest.raises(InputError, match="not valid JSON"):
        read_tokenizer(found, SIZE, None)
