"""What a checkpoint is, from its configs and headers alone: family, sizes, tokenizer, what is stored.

Nothing here decides what a stage can make of it; that is `preview`, which asks the stages themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

from convert import architectures
from convert.architectures import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._nearest import Nearest, nearest
from convert.bundle import Artifact, Bundle, Model, Role
from convert.errors import ConvertError, InputError, Problem
from convert.formats.facts import TensorSummary, TypeSummary, plain, type_summaries
from convert.formats.gguf.sentencepiece import UNUSED
from convert.formats.gguf.vocabulary import read_vocabulary
from convert.json_types import JsonObject
from convert.progress import Silent
from convert.source.checkpoint import LazyTensor, open_bundle, packing, read_config
from convert.source.companions import Companions, collect, read_companions
from convert.source.safetensors import read_header
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions, locate
from convert.source.untrusted import HUB_REPO_PREFIX
from convert.table import size

T = TypeVar("T")

KINDS = {"gpt2": "byte-level BPE", "llama": "sentencepiece BPE", "t5": "sentencepiece unigram", "bert": "WordPiece"}
TEXTS = ("text_config", "llm_config", "language_config")  # where a config has the language model's
TOWERS = ("visual", "vision_tower", "vision_model")  # in names of tensors, where no family says how its tower's start
SPELLINGS: Mapping[str, tuple[str, ...]] = {  # in config.json, where no family reads it
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts_used": ("num_experts_per_tok", "num_experts_per_token"),
}
FIELDS = {  # the same in a GGUF file's metadata, behind the architecture's name
    "layers": "block_count",
    "hidden": "embedding_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "context": "context_length",
    "experts": "expert_count",
    "experts_used": "expert_used_count",
}
LARGEST = 1 << 40
MANY = 6  # kinds of tensors that a line names


@dataclass(frozen=True)
class Shape:
    """The language model's numbers; None where nothing says. Where layers differ, the largest."""

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    context: int | None = None
    vocabulary: int | None = None  # rows of the embedding
    experts: int | None = None
    experts_used: int | None = None  # for a token


@dataclass(frozen=True)
class Parameters:
    """How many there are; `active` are those of the text that a token meets, all of them where there are no experts."""

    text: int
    vision: int
    active: int


@dataclass(frozen=True)
class Tokenizer:
    """As llama.cpp would have it; `pre` is empty for a kind without pre-tokenizers."""

    kind: str
    pre: str
    tokens: int


@dataclass(frozen=True)
class CheckpointInspection:
    """A checkpoint. What could not be read is left out, and said in `unread`."""

    path: str
    name: str
    hub: str
    revision: str
    family: str  # the file in convert/architectures; empty where there is none
    title: str  # what people call the family
    nearest: Nearest | None  # where there is none
    model_type: str
    classes: tuple[str, ...]
    shape: Shape
    roles: str  # what the matrices of its layers are for, and how many layers have these; empty without a family
    parameters: Parameters | None
    tokenizer: Tokenizer | None
    chat_templates: Mapping[str, int]  # name -> characters
    format: str
    files: int
    stored_bytes: int
    types: tuple[TypeSummary, ...]  # of the tensors, the largest first; empty for pickles, which nobody opens here
    problems: tuple[Problem, ...]  # of the checkpoint itself: no stage takes it
    unread: tuple[str, ...]

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The inspection as text. Nothing in it can move a terminal's cursor."""
        del verbose
        origin = f"{self.hub} at {self.revision}, " if self.hub else ""
        yield f"{plain(self.name)}: {origin}{plain(self.path)}"
        for word, said in self._said():
            if said:
                yield f"  {word:<12} {said}"
        for reason in self.unread:
            yield f"  not read     {plain(reason)}"

    def _said(self) -> Iterator[tuple[str, str]]:
        shape = self.shape
        classes = ", ".join(map(plain, self.classes)) or "no class"
        kind = f"{classes} (model_type {plain(self.model_type)})" if self.model_type else classes
        yield "model", kind
        yield "family", f"{self.title} (convert/architectures/{self.family}.py)" if self.family else _none(self.nearest)
        yield "parameters", _parameters(self.parameters, shape)
        heads = f"{shape.heads} heads" + (f", {shape.kv_heads} for keys and values" if shape.kv_heads else "")
        yield "layers", _listed(shape.layers, shape.hidden and f"of {shape.hidden:,} values", shape.heads and heads)
        yield "matrices", self.roles
        yield "context", f"{shape.context:,} tokens" if shape.context else ""
        yield "vocabulary", _vocabulary(self.tokenizer, shape)
        templates = (f"{plain(name)} ({count:,} characters)" for name, count in self.chat_templates.items())
        yield "chat", ", ".join(templates) or "no template"
        yield "stored", self._stored()

    def _stored(self) -> str:
        if not self.files:
            return "no weights"
        types = ", ".join(f"{kind.type} {size(kind.nbytes)}" for kind in self.types)
        files = f"{self.files} file{'s' if self.files > 1 else ''} of {self.format}"
        return f"{size(self.stored_bytes)} in {files}" + (f": {types}" if types else "")


def _listed(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part)


def _none(near: Nearest | None) -> str:
    """What is said of a checkpoint that no family serves: what one would have to add to the nearest."""
    if near is None:
        return "not supported"
    taken = f"{near.kinds - len(near.unknown)} of {near.kinds} kinds of tensors"
    rest = f", all but {_first(near.unknown)}" if near.unknown else ""
    besides = f"; it also needs {_first(near.lacking)} besides" if near.lacking else ""
    remedy = f"`as: {near.family}` in a recipe" if near.is_exact else "`convert new-family` drafts a family for it"
    return f"not supported; nearest is {near.family}, which takes {taken}{rest}{besides}; {remedy}"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(map(plain, names[:MANY])) + more


def _parameters(count: Parameters | None, shape: Shape) -> str:
    if count is None:
        return ""
    vision = f"{_large(count.vision)} vision" if count.vision else ""
    used = f", {shape.experts_used} for a token" if shape.experts_used else ""
    experts = f"{shape.experts} experts{used}" if shape.experts else ""
    active = f"{_large(count.active)} active" if count.active < count.text else ""
    return _listed(f"{_large(count.text)} text", vision, experts, active)


def _large(count: int) -> str:
    """A count as people say it: 7.62 B."""
    unit, name = next(((u, n) for u, n in ((10**9, " B"), (10**6, " M"), (10**3, " k")) if count >= u), (1, ""))
    return f"{count / unit:.3g}{name}" if count < 1000 * unit else f"{count / unit:,.0f}{name}"


def _vocabulary(tokenizer: Tokenizer | None, shape: Shape) -> str:
    rows = f"{shape.vocabulary:,} rows" if shape.vocabulary else ""
    if tokenizer is None:
        return rows
    pre = f", pre-tokenizer {plain(tokenizer.pre)}" if tokenizer.pre else ""
    return _listed(rows, f"{tokenizer.tokens:,} tokens") + f"; {tokenizer.kind}{pre}"


def inspect_checkpoint(options: SourceOptions) -> tuple[CheckpointInspection, Bundle | None]:
    """What the checkpoint is, and its bundle where a plan would take it.

    Raises InputError where there is no config.json that can be read.
    """
    folder = locate(options, download=False, progress=Silent())
    assert folder is not None  # options_for has seen that it is there
    folder = folder.absolute()
    config = read_config(folder)
    problems = tuple(source.check(options, {}))
    bundle = None if problems else source.forecast(options, {})
    unread: list[str] = []
    about = _About(folder, config, bundle or companions_of(folder), unread)
    weights = bundle.of(Role.WEIGHTS) if bundle else ()
    tensors = [t for a in weights for t in about.attempt(partial(_tensors, a.path)) or ()]
    whole = (
        [*map(_summary, open_bundle(bundle).tensors.values())] if bundle and weights and packing(folder) else tensors
    )
    model = source.forecast(options, {}).model if bundle else None
    return (
        CheckpointInspection(
            path=str(folder),
            name=model.name if model else folder.name,
            hub=model.hub if model else options.hub or "",
            revision=model.revision if model else "",
            family=about.family_name,
            title=about.family.title if about.family else "",
            nearest=None if about.family else nearest(config, {t.name: t.shape for t in whole}),
            model_type=str(config.get("model_type") or ""),
            classes=_texts(config.get("architectures")),
            shape=about.shape,
            roles=about.roles([t.name for t in whole]),
            parameters=about.parameters(whole) if weights else None,
            tokenizer=about.tokenizer(),
            chat_templates={name: len(text) for name, text in about.companions.chat_templates.items()},
            format="safetensors" if tensors else "pickles",
            files=len(weights),
            stored_bytes=sum(a.size for a in weights),
            types=type_summaries(tensors),
            problems=problems,
            unread=tuple(dict.fromkeys(unread)),
        ),
        bundle,
    )


class _About:
    """A checkpoint's configs, and what can be made out of them; what cannot is said in `unread`."""

    def __init__(self, folder: Path, config: JsonObject, bundle: Bundle, unread: list[str]) -> None:
        self.config, self.unread = config, unread
        found = self.attempt(partial(read_companions, bundle))
        self.companions = found or Companions(config, {}, {}, {}, {}, None, {})
        try:
            self.family: Family | None = architectures.find(config)
        except InputError:
            self.family = None  # the gguf stage says so
        self.spec = self._spec()
        self.shape = Shape(**(_of_spec(self.spec) if self.spec else _of_config(config)))

    def attempt(self, look: Callable[[], T]) -> T | None:
        """What `look` finds, or None and the reason in `unread`."""
        try:
            return look()
        except ConvertError as error:
            self.unread += map(str, error.problems)
            return None

    @property
    def family_name(self) -> str:
        return self.family.name if self.family else ""

    def _spec(self) -> GraphSpec | None:
        """What the family makes of the config; None for one it does not take, of which the gguf stage says why."""
        try:
            return self.family.text(self.config) if self.family else None
        except ConvertError:
            return None

    def roles(self, names: Sequence[str]) -> str:
        """What the matrices of its layers are for."""
        found = self.attempt(partial(self.family.roles, self.config, names)) if self.family and names else None
        return str(found) if found else ""

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer as a GGUF file would have it."""
        rows = self.shape.vocabulary or len(self.companions.token_ids)
        found = self.attempt(partial(read_vocabulary, self.companions, rows))
        if found is None:
            return None
        tokens = sum(piece.type != UNUSED for piece in found.pieces)
        return Tokenizer(KINDS.get(found.model, found.model), found.pre if found.model == "gpt2" else "", tokens)

    def parameters(self, tensors: Sequence[TensorSummary]) -> Parameters:
        """From the headers; from the config where weights are packed, or not there to be looked at."""
        seen = [t for t in tensors if not self._left_out(t.name)]
        vision = sum(prod(t.shape) for t in seen if self._is_vision(t.name))
        text = sum(prod(t.shape) for t in seen) - vision
        promised = _promised(self.spec) if self.spec else {}
        packed = self.spec and any(o.packed for t in self.spec.tensors for o in t.outputs)
        if packed or not seen:
            text = sum(promised.values())
        experts = sum(count for name, count in promised.items() if "_exps." in name)
        idle = 0
        if self.shape.experts and self.shape.experts_used:
            idle = experts - experts * min(self.shape.experts_used, self.shape.experts) // self.shape.experts
        return Parameters(text, vision, text - idle)

    def _name(self, name: str) -> str:
        """The tensor's name as the family's tables have it."""
        return self.family.own_name(name) if self.family else name

    def _left_out(self, name: str) -> bool:
        rules = self.spec.left_out if self.spec else ()
        return any(rule.covers(self._name(name)) for rule in rules)

    def _is_vision(self, name: str) -> bool:
        if self.family is None:
            return bool(set(TOWERS) & set(name.split(".")))
        return self.family.is_vision(name)


def companions_of(folder: Path) -> Bundle:
    """Of a checkpoint that no plan takes: its configs and tokenizer, as far as they may be opened."""
    cached = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(HUB_REPO_PREFIX)
    try:
        found = collect(folder, folder.parent.parent.parent if cached else None)
    except InputError:  # the source stage says so
        found = {}
    roles = {role: tuple(Artifact("text", path, 0) for path in paths) for role, paths in found.items()}
    return Bundle(Model(folder.name), roles)


def _tensors(path: Path) -> list[TensorSummary]:
    """Of a safetensors file; none of one that is yet to be made from a pickle."""
    if not path.is_file():
        return []
    return [TensorSummary(e.name, e.dtype, e.shape, e.stop - e.start) for e in read_header(path).entries]


def _summary(tensor: LazyTensor) -> TensorSummary:
    return TensorSummary(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes)


def _promised(spec: GraphSpec) -> dict[str, int]:
    """Parameters by GGUF tensor; those of experts, and the halves of packed blocks, have one name."""
    return {output.name: prod(output.shape) for tensor in spec.tensors for output in tensor.outputs}


def _of_spec(spec: GraphSpec) -> dict[str, int | None]:
    said = {field.key.removeprefix(f"{spec.architecture}."): field.value for field in spec.fields}
    rows = [o.shape[0] for t in spec.tensors for o in t.outputs if o.name == "token_embd.weight"]
    return {name: _count(said.get(key)) for name, key in FIELDS.items()} | {"vocabulary": max(rows, default=None)}


def _of_config(config: JsonObject) -> dict[str, int | None]:
    values = dict(config)
    values.update(next((config[key] for key in TEXTS if isinstance(config.get(key), Mapping)), {}))
    return {
        name: next((n for key in keys if (n := _count(values.get(key))) is not None), None)
        for name, keys in SPELLINGS.items()
    }


def _count(value: object) -> int | None:
    """A count that a stranger says; of one for each layer the largest."""
    many = list(value) if isinstance(value, list | tuple) else [value]
    counts = [n for n in many if isinstance(n, int) and not isinstance(n, bool) and 0 < n < LARGEST]
    return max(counts, default=None)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(filter(lambda text: isinstance(text, str), value))[:8] if isinstance(value, list) else ()
