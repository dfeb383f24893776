"""Names of tensors as a model's own class has them, whatever a trainer wrapped it in, and those no inference uses.

A training script that saves what it holds, and not what it wraps, writes the wrapper's name in front of every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from convert.errors import InputError
from convert.source.untrusted import listed

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put before what they wrap, anywhere in a name."""

STARTS = ("module.", "base_model.model.", "pretrained_model.")
"""DataParallel and DeepSpeed, PEFT after a merge, trl's model with a value head."""

INNER = ("model.model.", "model.lm_head.")
"""What a module with the whole model in its `model` saves, as Lightning's do."""

UNMERGED = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save|original_module|lora_magnitude_vector)\."
)

CLASSIFIER = "classifier."
UNUSED: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(v_head\d*|value_head|critic|critic_head|(target_)?q_heads?)\."),
        "a value head, which only training uses",
    ),
    (re.compile(r"(reward_head|rm_head|score|regression_head)\."), "a reward head, which no text is made with"),
    (re.compile(r"(classifier|classification_head|qa_outputs)\."), "a classifier, which no text is made with"),
    (re.compile(r"(model\.)?mtp(_\w+)?\."), "a head that predicts tokens ahead, which is not converted"),
    (
        re.compile(r"(medusa_heads?|hydra_heads?|eagle\w*|draft_\w+|speculator)\."),
        "a draft head, which is not converted",
    ),
)
"""How tensors begin that lie beside a language model and are no part of it -> what they are."""


def plain_name(name: str) -> str:
    """The tensor's name without its wrappers: `_orig_mod.module.model.norm.weight` is `model.norm.weight`."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    while start := next((start for start in STARTS if name.startswith(start)), ""):
        name = name.removeprefix(start)
    return name.removeprefix("model.") if name.startswith(INNER) else name


def unused(name: str) -> str:
    """What the tensor, called by its plain name, is to a model that it is no part of; empty for all others."""
    return next((what for pattern, what in UNUSED if pattern.match(name)), "")


def kept_name(name: str, scores: bool = False) -> str:
    """The plain name of a tensor that is part of the model; empty for one that is not.

    Of a model that gives `scores`, the classifier is part.
    """
    plain = plain_name(name)
    return "" if unused(plain) and not (scores and plain.startswith(CLASSIFIER)) else plain


def refuse_unmerged(where: str, names: Iterable[str]) -> None:
    """Raise InputError where an adapter lies beside the weights that it changes."""
    found = [name for name in names if UNMERGED.search(name)]
    if found:
        remedy = "merge it (peft: `model.merge_and_unload()`) and save the model again"
        raise InputError(where, f"holds an adapter that is not merged: {listed(found)}", "whole weights", remedy)


def name_notes(names: Iterable[str], scores: bool = False) -> list[str]:
    """What is done about a checkpoint's names, a line each; nothing for names as most have them."""
    names = list(names)
    plain = {name: plain_name(name) for name in names}
    notes = []
    if wrapped := [name for name in names if plain[name] != name]:
        first = wrapped[0]
        notes.append(f"{len(wrapped)} tensors have a wrapper in their names: {first!r} is read as {plain[first]!r}")
    heads: dict[str, list[str]] = {}
    for name in names:
        if not kept_name(name, scores):
            what = unused(plain[name])
            heads.setdefault(what, []).append(name)
    return [*notes, *(f"left out: {listed(found)}, {what}" for what, found in heads.items())]
