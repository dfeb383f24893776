"""`general.*` of a GGUF file: who the model is, where it comes from, under what licence, and how it is to be sampled.

Names follow the hub's habit, `<base name>-<size>-<finetune>-<version>`, taken apart by `name_parts`. What a stranger's
model card says in the wrong type is left out: nobody's conversion should fail over a list of tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeGuard

from convert.bundle import Model
from convert.gguf_field import Field, GGUFValueType
from convert.json_types import JsonObject
from convert.source.companions import Companions
from convert.source.untrusted import shown

HUB = "https://huggingface.co"

SAMPLING: tuple[tuple[str, str, GGUFValueType], ...] = (
    ("top_k", "general.sampling.top_k", GGUFValueType.INT32),
    ("top_p", "general.sampling.top_p", GGUFValueType.FLOAT32),
    ("min_p", "general.sampling.min_p", GGUFValueType.FLOAT32),
    ("temperature", "general.sampling.temp", GGUFValueType.FLOAT32),
    ("repetition_penalty", "general.sampling.penalty_repeat", GGUFValueType.FLOAT32),
)
"""generation_config.json's word -> the key llama.cpp reads its default from (src/llama-arch.cpp, LLM_KV_NAMES)."""

ID = r"([\w.-]+/[\w.-]+)"  # org/name
ADDRESS = rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?!datasets/|spaces/){ID}(?:[/?#].*)?"

CARD_KEYS: tuple[tuple[str, str], ...] = (
    ("license", "general.license"),
    ("license_name", "general.license.name"),
    ("license_link", "general.license.link"),
)


def general_metadata(
    companions: Companions, model: Model, n_parameters: int, *, type: str = "model", size: str = ""
) -> list[Field]:
    """Every `general.*` field but architecture, file_type and quantization_version, which the weights decide.

    `n_parameters` counts the weights of the file, `size` says them in words where that is not their number alone (a
    mixture's 8x7B); `type` is "model" or "mmproj". Never raises for what a card or a
    generation config holds.
    """
    parts = name_parts(model.name, n_parameters)
    organization = model.hub.split("/")[0] if "/" in model.hub else None
    strings = {
        "general.type": type,
        "general.name": title(model.name),
        "general.organization": title(organization) if organization else None,
        "general.version": parts.version,
        "general.finetune": parts.finetune,
        "general.basename": parts.basename,
        "general.size_label": parts.size_label or (size or size_label(n_parameters) if n_parameters else None),
        **{key: _text(companions.card.get(word)) for word, key in CARD_KEYS},
        **_source(model),
        "convert.taken_as": model.taken_as,
    }
    return [
        *(Field.string(key, value) for key, value in strings.items() if value),
        *_base_models(companions.card),
        *_lists(companions.card),
        *sampling(companions.generation),
    ]


def sampling(generation: JsonObject) -> list[Field]:
    """The sampler defaults a generation_config.json asks for, under the keys llama.cpp reads.

    `do_sample: false` is greedy decoding: temperature 0, whatever the words say that choose among tokens. A repetition
    penalty changes which token is the likeliest, and stays.
    """
    if generation.get("do_sample") is False:
        kept = {word: value for word, value in generation.items() if word == "repetition_penalty"}
        return [Field.float32("general.sampling.temp", 0.0), *sampling(kept)]
    fields = []
    for word, key, kind in SAMPLING:
        value = generation.get(word)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
            continue
        if kind is GGUFValueType.FLOAT32:
            fields.append(Field.float32(key, float(value)))
        elif isinstance(value, int):
            fields.append(Field.int32(key, value))
    return fields


def _source(model: Model) -> dict[str, str]:
    """Where the weights were fetched: repository, and the exact commit, which `general.source.url` shows too."""
    if not model.hub:
        return {}
    home = f"{HUB}/{model.hub}"
    return {
        "general.source.url": f"{home}/tree/{model.revision}" if model.revision else home,
        "general.source.repo_url": home,
        "general.source.huggingface.repository": model.hub,
        "general.source.huggingface.revision": model.revision,
    }


def _base_models(card: JsonObject) -> list[Field]:
    """general.base_model.*: the models this one was made from, as the card's `base_model` lists them."""
    names = [id for name in _texts(card.get("base_model")) if (id := _hub_id(name))]
    if not names:
        return []
    fields = [Field.uint32("general.base_model.count", len(names))]
    for number, full in enumerate(names):
        organization, name = full.split("/")
        key = f"general.base_model.{number}"
        fields.append(Field.string(f"{key}.name", title(name)))
        version = name_parts(name).version
        if version:
            fields.append(Field.string(f"{key}.version", version))
        fields.append(Field.string(f"{key}.organization", title(organization)))
        fields.append(Field.string(f"{key}.repo_url", f"{HUB}/{full}"))
    return fields


def _hub_id(name: str) -> str:
    """The hub's id in `org/name`, or in an address of the model's page; empty for anything else."""
    match = re.fullmatch(ID, name.strip()) or re.fullmatch(ADDRESS, name.strip())
    return match[1] if match else ""


def base_model_notes(card: JsonObject) -> list[str]:
    """What the card says under base_model that is no model of the hub, and is not written."""
    lost = [name for name in _texts(card.get("base_model")) if not _hub_id(name)]
    return [f"base_model {shown(name)} of the model card is no model of the hub (org/name); left out" for name in lost]


def _lists(card: JsonObject) -> list[Field]:
    tags = [*_texts(card.get("tags")), *_texts(card.get("pipeline_tag"))]
    found = {"general.tags": tags, "general.languages": _texts(card.get("language"))}
    return [Field.strings(key, dict.fromkeys(values)) for key, values in found.items() if values]


def _texts(value: object) -> list[str]:
    """The strings in `value`, one or a list; lone surrogates, which no file can hold, count as no string."""
    return [text for text in (value if isinstance(value, list) else [value]) if _writable(text)]


def _text(value: object) -> str | None:
    return ",".join(_texts(value)) or None


def _writable(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and bool(text) and text.encode(errors="replace").decode() == text


# --- names ------------------------------------------------------------------------------------------------------------

_SIZE = re.compile(r"(A|\d+x)?(\d+([._]\d+)?)([KMBT])(\d?)", re.IGNORECASE)  # 7B, 1.5b, 8x7B, A3B, 7b1
_WORD_SIZE = re.compile(r"small|mini|medium|large|x?xl", re.IGNORECASE)
_VERSION = re.compile(r"(v|iter)?\d+(\.\d+)*", re.IGNORECASE)
_TYPE = re.compile(r"i?q\d\w*|b?fp?(16|32)", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_POWERS: Mapping[str, int] = MappingProxyType({"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12})


@dataclass(frozen=True)
class NameParts:
    """A model's name, taken apart: Qwen2.5-VL-7B-Instruct -> Qwen2.5-VL, 7B, Instruct."""

    basename: str | None = None
    size_label: str | None = None
    finetune: str | None = None
    version: str | None = None


def name_parts(name: str, n_parameters: int = 0) -> NameParts:
    """The parts of a name with dashes, as far as they can be told apart; none of them for a name that says little.

    A size that is far from `n_parameters` is taken for something else, such as the length of the context.
    """
    parts = [part for part in name.split("-") if part] if " " not in name else []
    kinds = [_kind(part, place, n_parameters) for place, part in enumerate(parts)]
    if "size" in kinds:  # then `small` and `mini` are part of the name
        kinds = [None if kind == "word size" else kind for kind in kinds]
    start = 0
    while start < len(parts) and (kinds[start] == "version" or (kinds[start] is None and parts[start][0].isalpha())):
        start += 1
    if start == len(parts):  # nothing follows: what the name ends with is its version, as in stable-lm-2
        while start > 0 and kinds[start - 1] == "version":
            start -= 1
    rest = [(part, kind or "finetune") for part, kind in zip(parts[start:], kinds[start:], strict=True)]
    sizes = [_size_text(part) for part, kind in rest if kind in ("size", "word size")]
    found = NameParts(
        basename=_joined(parts[:start]),
        size_label=_joined(dict.fromkeys(sizes)),
        # what looks like a size and is none is the length of a context: 128k
        finetune=_joined(
            part[:-1] + part[-1].lower() if _SIZE.fullmatch(part) else part for part, kind in rest if kind == "finetune"
        ),
        version=_joined(part for part, kind in rest if kind == "version"),
    )
    return found if found.size_label or found.finetune or found.version else NameParts()


def _kind(part: str, place: int, n_parameters: int) -> str | None:
    if _VERSION.fullmatch(part):
        return "version"
    if _TYPE.fullmatch(part):
        return "type"
    if place == 0:
        return None
    if size := _SIZE.fullmatch(part):
        count = (
            float(size[2].replace("_", ".")) * _POWERS[size[4].upper()] * (int(size[1][:-1]) if _times(size[1]) else 1)
        )
        far = n_parameters and not size[1] and abs(count - n_parameters) > 7 * n_parameters / 8
        return "finetune" if far else "size"
    if _WORD_SIZE.fullmatch(part):
        return "word size"
    return "finetune" if _FINETUNE.fullmatch(part) else None


def _times(prefix: str | None) -> bool:
    """Whether it is the 8x of 8x7B."""
    return prefix is not None and prefix[-1] in "xX"


def _size_text(part: str) -> str:
    """7b -> 7B, 1_5B -> 1.5B, bloom's 7b1 -> 7.1B."""
    size = _SIZE.fullmatch(part)
    if size is None:
        return part
    number = size[2].replace("_", ".") + (f".{size[5]}" if size[5] else "")
    return f"{size[1] or ''}{number}{size[4].upper()}"


def _joined(parts: Iterable[str]) -> str | None:
    return "-".join(parts) or None


def title(name: str) -> str:
    """`name` as people read it: dashes are spaces, lower-case words get a capital, versions stay as they are."""
    words = name.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not re.match(r"v?\d", w) else w for w in words)


def size_label(n_parameters: int) -> str:
    """About how many: 260K, 7.6B, 752M; one decimal where there would be one digit."""
    scale, letter = next(((10**p, s) for p, s in ((12, "T"), (9, "B"), (6, "M")) if n_parameters > 10**p), (10**3, "K"))
    count = n_parameters / scale
    return f"{count:.{1 if round(count) < 10 else 0}f}{letter}"
