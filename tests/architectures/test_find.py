"""Which family serves a config, and what is said where none does."""

from __future__ import annotations

import pytest

from convert import architectures
from convert.errors import InputError


def refusal(name: object, kind: object = None) -> str:
    with pytest.raises(InputError) as caught:
        architectures.find({"architectures": [name], "model_type": kind})
    return str(caught.value)


def test_a_family_that_is_not_there_hears_the_three_nearest_and_what_it_takes() -> None:
    said = refusal("Qwen3MoeNextForCausalLM", "qwen3_moe_next")
    start = "config.json: not supported: model_type 'qwen3_moe_next' (Qwen3MoeNextForCausalLM); nearest by name: "
    assert said.startswith(f"{start}qwen3_next (Qwen3NextForCausalLM), qwen3_moe (Qwen3MoeForCausalLM), ")
    assert said.endswith("; to add one: docs/extend/add-a-family.md")
    assert sum(said.count(f"({name})") for name in architectures.known()) == 3


def test_a_class_alone_is_named() -> None:
    assert refusal("LlamaForCausalML").startswith("config.json: not supported: architecture 'LlamaForCausalML'; ")


def test_names_that_merely_rhyme_are_not_near() -> None:
    assert "nearest" not in refusal("XlamaForCausalLM", "xlama")


@pytest.mark.parametrize("name", ["\x1b[2J" * 30, ["x"] * 1000, {"a": 1}, 7])
def test_a_strangers_name_is_one_printable_line(name: object) -> None:
    said = refusal(name, ["\x1b[2J"] * 99)
    assert said.isprintable()
    assert len(said) < 2000
