"""The table of families in the docs, made of the folder of families and the registry of tiny checkpoints.

python -m tests.parity.table            prints it
python -m tests.parity.table --write    puts it into docs/reference/families.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from convert import architectures
from tests.marked import between, put_between
from tests.parity.families import Case, families

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
BEGIN, END = "<!-- families: python -m tests.parity.table --write -->", "<!-- /families -->"

HEAD = (
    "| family | model classes (`architectures` in config.json) | text | projector | parity checked | logits checked |",
    "| :-- | :-- | :-- | :-- | :-- | :-- |",
)
WANTED = {  # a class of every family people ask for -> what they call it
    "MixtralForCausalLM": "Mixtral",
    "Qwen2MoeForCausalLM": "Qwen2-MoE",
    "Qwen2VLForConditionalGeneration": "Qwen2-VL",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3",
    "Phi3ForCausalLM": "Phi-3",
    "SmolLM3ForCausalLM": "SmolLM3",
    "GraniteForCausalLM": "Granite",
    "Olmo2ForCausalLM": "OLMo 2",
    "Starcoder2ForCausalLM": "StarCoder 2",
    "GPT2LMHeadModel": "GPT-2",
    "GPTNeoXForCausalLM": "GPT-NeoX",
    "FalconForCausalLM": "Falcon",
    "DeepseekV2ForCausalLM": "DeepSeek-V2",
    "DeepseekV3ForCausalLM": "DeepSeek-V3",
    "Glm4ForCausalLM": "GLM-4",
    "CohereForCausalLM": "Command-R",
    "GptOssForCausalLM": "gpt-oss",
    "LlavaForConditionalGeneration": "LLaVA",
    "Idefics3ForConditionalGeneration": "Idefics3",
    "SmolVLMForConditionalGeneration": "SmolVLM",
    "InternVLForConditionalGeneration": "InternVL",
}


def table() -> str:
    """The table in Markdown, and a line about what is not in it."""
    return "\n".join([*HEAD, *_rows(), *_missing()])


def _rows() -> Iterator[str]:
    registry = families()
    for family in architectures.families():
        cases = registry.get(family.name, [])
        classes = ", ".join(f"`{c}`" for c in family.classes)
        projector = "yes" if family.has_vision else ""
        yield f"| {family.title} | {classes} | yes | {projector} | {_parity(cases)} | {_logits(cases)} |"


def _parity(cases: Sequence[Case]) -> str:
    """How many tiny checkpoints upstream's converter makes equal files of; why it makes none."""
    with_peer = [case for case in cases if not case.no_parity]
    return _checked(with_peer) if with_peer else f"no: {cases[0].no_parity}" if cases else "no"


def _logits(cases: Sequence[Case]) -> str:
    """How many of them llama.cpp and transformers both compute; why none."""
    computed = [case for case in cases if not case.no_logits]
    return _checked(computed) if computed or not cases else f"no: {cases[0].no_logits}"


def _checked(cases: Sequence[Case]) -> str:
    images = ", images" if any(case.image for case in cases) else ""
    return f"{len(cases)} variant{'s'[: len(cases) != 1]}{images}"


def _missing() -> Iterator[str]:
    known = architectures.known()
    if names := [title for class_name, title in WANTED.items() if class_name not in known]:
        yield f"\nNot supported yet: {', '.join(names)}. The plan says so, and names what is."


def on_page(text: str) -> str:
    """What the page has between the two comments."""
    return between(text, BEGIN, END)


def write() -> None:
    """Put the table into the page."""
    put_between(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(table())
