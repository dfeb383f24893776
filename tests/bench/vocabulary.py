"""A byte-level BPE of Qwen2.5's size for a tiny checkpoint: most of a conversion's fixed cost is its vocabulary."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

TOKENS = 151_665  # Qwen2.5's, of 151,936 rows


def give_vocabulary(folder: Path, tokens: int = TOKENS) -> None:
    """Make the tokenizer of `folder`, one of tests.tiny's Qwens, one of `tokens` tokens; configs follow.

    The new ones are made of two tokens that were there, each by a merge of its own, as in a trained vocabulary.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    old = {token["id"]: token["content"] for token in added}
    vocabulary = {text: number for text, number in model["vocab"].items() if number not in old}
    merges = [list(merge) for merge in model["merges"]]
    for left, right in product(list(vocabulary), repeat=2):
        if len(vocabulary) == tokens - len(added):
            break
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
    moved = {number: len(vocabulary) + place for place, number in enumerate(sorted(old))}
    model |= {"vocab": vocabulary, "merges": merges}
    for token in added:
        token["id"] = moved[token["id"]]
    # as tokenizers writes it, and models are published
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False), encoding="utf-8")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(json.dumps(_moved(json.loads(path.read_text(encoding="utf-8")), moved)), encoding="utf-8")


def _moved(config: dict[str, Any], moved: dict[int, int]) -> dict[str, Any]:
    """The config with the new ids of tokens."""
    made = dict(config)
    for key, value in config.items():
        if key == "added_tokens_decoder":
            made[key] = {str(moved[int(number)]): token for number, token in value.items()}
        elif key.endswith("_token_id"):
            made[key] = [moved[number] for number in value] if isinstance(value, list) else moved.get(value, value)
    return made
