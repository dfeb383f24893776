"""The family that comes nearest to a checkpoint no family serves, by its tensors and by what its config says."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from convert import architectures
from convert.architectures import TEXT, Family
from convert.architectures._config import keys_read, names_only
from convert.architectures._graph_spec import GraphSpec
from convert.errors import ConvertError, InputError, Problem
from convert.json_types import JsonDict, JsonObject
from convert.source.model_types import class_of
from convert.source.untrusted import shown

ENOUGH = 0.5  # of the kinds of tensors
CLOSE = 3  # families all of whose classes are tried
MANY = 4  # differences that a line names
TEXTS = ("text_config", "llm_config", "language_config")  # where a config has the language model's
WRITERS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")  # how classes end that give text
HEADED = re.compile(r"^.*?(?=For[A-Z]\w+$|LMHeadModel$|Model$|$)")
NUMBER = re.compile(r"\b\d+\b")
PLAIN = ("llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "gpt2")  # of equally near ones those that people build on
SILENT_WORDS = """
architectures model_type auto_map transformers_version torch_dtype dtype _name_or_path name_or_path use_cache
initializer_range bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id tokenizer_class language task
attention_dropout hidden_dropout residual_dropout resid_pdrop embd_pdrop attn_pdrop embd_dropout dropout
resid_dropout hidden_dropout_prob attention_probs_dropout_prob attention_dropout_prob classifier_dropout
pretraining_tp gradient_checkpointing output_attentions output_hidden_states return_dict use_return_dict
is_decoder is_encoder_decoder id2label label2id attn_implementation _attn_implementation use_flash_attn
unsloth_version unsloth_fixed quantization_config chunk_size_feed_forward problem_type finetuning_task
output_router_logits router_aux_loss_coef router_jitter_noise aux_loss_alpha z_loss_coef
"""
SILENT = frozenset(SILENT_WORDS.split())  # keys of a config that say nothing of what a model computes from tokens


@dataclass(frozen=True)
class Nearest:
    """Kinds of tensors are names without the numbers of layers and experts."""

    family: str
    kinds: int  # that the checkpoint has
    unknown: tuple[str, ...]  # those the family's table has not, or has with another shape, which is then said
    lacking: tuple[str, ...]  # those the table wants besides, by its own names
    refused: tuple[str, ...] = ()  # what the family says is wrong with the config
    unread: tuple[str, ...] = ()  # what the config says and the family does not ask: "key is value"
    served: str = ""  # the family's class that is nearest

    @property
    def takes_tensors(self) -> bool:
        """Whether every tensor has its place in the table, and the config is one that the family takes."""
        return not (self.unknown or self.lacking or self.refused)

    @property
    def is_exact(self) -> bool:
        """Whether the config says nothing either that the family does not ask."""
        return self.takes_tensors and not self.unread

    @property
    def differences(self) -> str:
        """What differs, in words; empty for none."""
        besides = (("besides ", self.unknown), ("without ", self.lacking), ("", self.refused), ("", self.unread))
        return "; ".join(word + _first(names) for word, names in besides if names)


def nearest(config: JsonObject, shapes: Mapping[str, tuple[int, ...]]) -> Nearest | None:
    """The nearest family; None where none takes half of the tensors."""
    return _nearest(json.dumps(config, sort_keys=True, default=str), tuple(sorted(shapes.items())))


@functools.lru_cache(maxsize=4)  # every stage of a plan asks, and hundreds of tables are made for an answer
def _nearest(text: str, sorted_shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Nearest | None:
    config, shapes = json.loads(text), dict(sorted_shapes)
    entries = architectures.listed()
    first = [
        found for e in entries if e.classes and (found := compared(config, shapes, e.name, e.classes[:1], hurried=True))
    ]
    name = str(class_of(config))
    close = [found.family for found in sorted(first, key=lambda found: _distance(found, name))[:CLOSE]]
    others = [e for e in entries if e.name in close]
    every = [
        *first,
        *(found for e in others if (found := compared(config, shapes, e.name, e.classes[1:], hurried=True))),
    ]
    best = min(every, key=lambda found: _distance(found, name), default=None)
    return best if best and len(best.unknown) < ENOUGH * best.kinds else None


def compared(
    config: JsonObject,
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
    classes: Sequence[str] = (),
    *,
    hurried: bool = False,
) -> Nearest | None:
    """How far the checkpoint is from a family, by the nearest of some classes, or of all of them; None for no class,
    and when `hurried` for a family that half of the tensors are strange to.
    """
    family = architectures.load(name)
    own = str(class_of(config))
    writes = own.endswith(WRITERS)
    asked = [one for one in classes or family.classes if not writes or family.gives.get(one, TEXT) == TEXT]
    found = [_compared(config, shapes, family, served, hurried) for served in asked]
    return min((one for one in found if one), key=lambda one: _distance(one, ""), default=None)


def family_of(config: JsonObject, shapes: Callable[[], Mapping[str, tuple[int, ...]]]) -> Family:
    """As `architectures.find`; where no family serves the config, the tensors' shapes say what is near."""
    try:
        return architectures.find(config)
    except InputError as error:
        try:
            found = shapes()
        except InputError:  # said by who reads them
            found = {}
        if not found:
            raise
        raise InputError(*_explained(error.problem, nearest(config, found))) from error


def _explained(problem: Problem, near: Nearest | None) -> tuple[str, str, str, str]:
    """Where, what, wanted, remedy, with what is nearest and the way to it."""
    draft = "`convert new-family FOLDER` drafts a family for it"
    if near is None:
        got = f"{problem.got}; no family takes half of its kinds of tensors"
        return problem.where, got, problem.wanted, f"{draft}; {architectures.LIST}"
    taken = f"`as: {near.family}` under `model:` converts it as that"
    if near.is_exact:
        got = f"{problem.got}; every tensor and every key of its config fits {near.family}"
        return problem.where, got, problem.wanted, f"{taken}: let a validate stage prove that it is the same model"
    got = f"{problem.got}; nearest is {near.family}, but {near.differences}"
    if near.takes_tensors:
        return problem.where, got, problem.wanted, f"where these change nothing, {taken}; else {draft}"
    return problem.where, got, problem.wanted, draft


def _distance(found: Nearest, name: str) -> tuple[int | str, ...]:
    """Of two the smaller is nearer: by tensors and what the config asks, then by what both are called."""
    tensors = len(found.unknown) + len(found.lacking)
    asked = [word for word in found.unread if not word.endswith((" is False", " is []"))]
    alike = found.family.replace("_", "") in name.lower()
    rank = PLAIN.index(found.family) if found.family in PLAIN else len(PLAIN)
    kind = HEADED.sub("", found.served) == HEADED.sub("", name)  # both have a head, or neither
    apart = 2 * tensors + len(found.refused) + len(asked)
    return apart, len(found.unread), -alike, not kind, rank, found.family


def _compared(
    config: JsonObject, shapes: Mapping[str, tuple[int, ...]], family: Family, served: str, hurried: bool
) -> Nearest | None:
    asked = {**config, "architectures": [served]}
    refused: tuple[str, ...] = ()
    with keys_read() as read:
        try:
            spec = family.text(asked)
        except ConvertError as error:
            refused = tuple(dict.fromkeys(p.got if isinstance(p, Problem) else str(p) for p in error.problems))
            try:
                with names_only():
                    spec = family.text(asked)
            except ConvertError:
                return None
    if hurried and _is_far(family, spec, shapes):
        return None
    unknown, lacking = _apart(family, spec, shapes)
    unread = tuple(f"{_plain(key)} is {shown(value, 40)}" for key, value in _said(config) if key not in read)
    return Nearest(family.name, len(set(_kinds(tuple(shapes)).values())), unknown, lacking, refused, unread, served)


def _apart(
    family: Family, spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kinds of tensors that the table does not take, and those it wants besides."""
    kinds = _kinds(tuple(shapes))
    lacking = {tensor.source: tensor.shape for tensor in spec.tensors if not tensor.absent}
    optional = {tensor.source: tensor.shape for tensor in spec.tensors if tensor.absent}
    unknown: dict[str, str] = {}  # kind -> what is wrong with the first that the table does not take
    for name, shape in shapes.items():
        own = family.own_name(name)
        wanted = lacking.pop(own, None) or optional.get(own)
        if wanted == shape or kinds[name] in unknown:
            continue
        if not any(rule.covers(own) for rule in spec.left_out) and not family.is_vision(name):
            unknown[kinds[name]] = f" ({_size(shape)}, not {_size(wanted)})" if wanted else ""
    return tuple(kind + wrong for kind, wrong in unknown.items()), tuple(dict.fromkeys(map(kind_of, lacking)))


@functools.lru_cache(maxsize=4)
def _kinds(names: tuple[str, ...]) -> dict[str, str]:
    """Name -> kind, worked out once for all families."""
    return {name: kind_of(name) for name in names}


def _is_far(family: Family, spec: GraphSpec, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether half of the kinds are in no row, by one tensor of each: all of them are not looked at then."""
    first = {kind: name for name, kind in reversed(_kinds(tuple(shapes)).items())}
    known = {tensor.source for tensor in spec.tensors}
    strange = [name for name in first.values() if family.own_name(name) not in known and not family.is_vision(name)]
    covered = [n for n in strange if any(rule.covers(family.own_name(n)) for rule in spec.left_out)]
    return len(strange) - len(covered) >= ENOUGH * len(first)


def _said(config: JsonObject) -> Iterable[tuple[str, object]]:
    """What a config says of its text's computing: neither nothing, nor what all layers do anyway."""
    inner: JsonObject = next((config[key] for key in TEXTS if isinstance(config.get(key), Mapping)), {})
    words: JsonDict = {**{k: v for k, v in config.items() if not isinstance(v, Mapping) or k not in TEXTS}, **inner}
    plain = set(map(str, words["layer_types"])) if isinstance(words.get("layer_types"), list) else set()
    windows = {"use_sliding_window", "max_window_layers", "sliding_window"}
    silent = SILENT | (windows if words.get("use_sliding_window") is False else set())
    for key, value in words.items():
        if value is None or key in silent or (key == "layer_types" and plain <= {"full_attention"}):
            continue
        yield key, value


def kind_of(name: str) -> str:
    """The name without numbers."""
    return NUMBER.sub("{i}", name)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(map(_plain, names[:MANY])) + more


def _plain(text: str) -> str:
    """A stranger's word as it may be printed."""
    return text if text.isprintable() and len(text) < 200 else shown(text, 120)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
