"""general.*: names taken apart, provenance, licence, sampling; and that no card can break a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Model
from convert.formats.gguf.general import base_model_notes, general_metadata, name_parts, sampling, size_label, title
from tests.fixtures_vocabulary import by_key, companions_of

B = 10**9


def test_a_model_of_the_hub(tmp_path: Path) -> None:
    header = "license: mit\nbase_model: Qwen/Qwen2.5-VL-7B-Instruct\ntags: [agent]\npipeline_tag: image-text-to-text\n"
    companions = companions_of(tmp_path, README_md=f"---\n{header}language: en\n---\n")
    fields = by_key(general_metadata(companions, Model("Fara-7B", "microsoft/Fara-7B", "abc123"), 8 * B))
    assert fields == {
        "general.type": "model",
        "general.name": "Fara 7B",
        "general.organization": "Microsoft",
        "general.basename": "Fara",
        "general.size_label": "7B",
        "general.license": "mit",
        "general.source.url": "https://huggingface.co/microsoft/Fara-7B/tree/abc123",
        "general.source.repo_url": "https://huggingface.co/microsoft/Fara-7B",
        "general.source.huggingface.repository": "microsoft/Fara-7B",
        "general.source.huggingface.revision": "abc123",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen2.5 VL 7B Instruct",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct",
        "general.tags": ("agent", "image-text-to-text"),
        "general.languages": ("en",),
    }


def test_a_local_model_says_nothing_of_where_it_is_from(tmp_path: Path) -> None:
    fields = by_key(general_metadata(companions_of(tmp_path), Model("fara-nano"), 5_200_000, type="mmproj"))
    assert fields == {"general.type": "mmproj", "general.name": "Fara Nano", "general.size_label": "5.2M"}


@pytest.mark.parametrize(
    "header",
    [
        "license: [mit, 3]",
        "license: {a: b}",
        "tags: {a: b}",
        "tags: [1, null, [x], '']",
        "base_model: [1, {a: b}, '../../etc', 'a/b/c', 'no spaces/x y', 'https://example.org/x']",
        "language: 7\npipeline_tag: [a, 2]",
        "license_name: 2024-01-01\nlicense_link: true",
        'tags: ["\\ud800"]',
    ],
)
def test_no_card_breaks_a_conversion(tmp_path: Path, header: str) -> None:
    fields = by_key(general_metadata(companions_of(tmp_path, README_md=f"---\n{header}\n---\n"), Model("m"), 1000))
    assert fields["general.name"] == "M"
    assert "general.base_model.count" not in fields
    assert fields.get("general.license") in (None, "mit")
    assert fields.get("general.tags") in (None, ("a",))


@pytest.mark.parametrize(
    ("generation", "wanted"),
    [
        ({}, {}),
        (
            {"do_sample": True, "top_k": 20, "top_p": 0.8, "temperature": 1, "repetition_penalty": 1.05, "min_p": 0},
            {"top_k": 20, "top_p": 0.8, "temp": 1.0, "penalty_repeat": 1.05, "min_p": 0.0},
        ),
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.5}, {"temp": 0.0}),
        ({"do_sample": False, "top_k": 3, "repetition_penalty": 1.05}, {"temp": 0.0, "penalty_repeat": 1.05}),
        ({"top_k": "20", "top_p": None, "temperature": float("nan"), "min_p": float("inf")}, {}),
        ({"top_k": 2**31, "temperature": -1, "top_p": True, "repetition_penalty": [1]}, {}),
        ({"top_k": 2.5}, {}),
    ],
)
def test_sampling(generation: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = {field.key.removeprefix("general.sampling."): field.value for field in sampling(generation)}
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "parameters", "wanted"),
    [
        ("Fara-7B", 8 * B, ("Fara", "7B", None, None)),
        ("Qwen2.5-VL-7B-Instruct", 8 * B, ("Qwen2.5-VL", "7B", "Instruct", None)),
        ("Llama-3.2-1B-Instruct", 0, ("Llama-3.2", "1B", "Instruct", None)),
        ("Mixtral-8x7B-Instruct-v0.1", 47 * B, ("Mixtral", "8x7B", "Instruct", "v0.1")),
        ("Qwen3-30B-A3B", 30 * B, ("Qwen3", "30B-A3B", None, None)),
        ("Phi-3-mini-4k-instruct", 4 * B, ("Phi-3", "mini", "4k-instruct", None)),
        ("TinyLlama-1.1B-Chat-v1.0", B, ("TinyLlama", "1.1B", "Chat", "v1.0")),
        ("bloom-7b1-chat", 7 * B, ("bloom", "7.1B", "chat", None)),
        ("Qwen2.5-Coder-32B-Instruct-128k", 32 * B, ("Qwen2.5-Coder", "32B", "Instruct-128k", None)),
        ("stories260K", 260_000, (None, None, None, None)),
        ("a sentence of words", 0, (None, None, None, None)),
        ("", 0, (None, None, None, None)),
        ("---", 0, (None, None, None, None)),
    ],
)
def test_names_taken_apart(name: str, parameters: int, wanted: tuple[str | None, ...]) -> None:
    parts = name_parts(name, parameters)
    assert (parts.basename, parts.size_label, parts.finetune, parts.version) == wanted


@pytest.mark.parametrize(
    ("count", "label"),
    [(260_032, "260K"), (999_499, "999K"), (5_200_000, "5.2M"), (12_300_000, "12M"), (7_615_616_512, "7.6B"),
     (72 * B, "72B"), (10**12 + 1, "1.0T")],
)  # fmt: skip
def test_size_label(count: int, label: str) -> None:
    assert size_label(count) == label


def test_title() -> None:
    assert title("fara-nano-v2-GGUF-7b") == "Fara Nano v2 GGUF 7b"


@pytest.mark.parametrize(
    "said",
    [
        "https://huggingface.co/Org/Base-7B",
        "http://www.huggingface.co/Org/Base-7B/",
        "huggingface.co/Org/Base-7B/tree/main",
        "https://hf.co/Org/Base-7B?library=transformers",
        "[Org/Base-7B]",
    ],
)
def test_an_address_of_a_base_model_is_its_id(said: str, tmp_path: Path) -> None:
    companions = companions_of(tmp_path, README_md=f"---\nbase_model: {said}\n---\n")
    fields = by_key(general_metadata(companions, Model("m"), 8 * B))
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/Org/Base-7B"
    assert base_model_notes(companions.card) == []


def test_a_base_model_that_is_nowhere_is_told() -> None:
    lost = ["/home/me/models/base", "https://example.org/x/y", "https://huggingface.co/datasets/a/b", "../x"]
    notes = base_model_notes({"base_model": [*lost, "Org/Base"]})
    assert [note.split()[1].strip("'") for note in notes[:3]] == lost[:3]
    assert all(note.endswith("is no model of the hub (org/name); left out") for note in notes)
