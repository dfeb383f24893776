"""What a family file declares: FAMILY = Family(...), all that others ask of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from convert.architectures._config import names_only
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor
from convert.architectures._roles import LINEARS, TRAITS, VISION, TensorRole
from convert.errors import ConvertError
from convert.json_types import JsonObject
from convert.source.model_types import class_of

TEXT_GRAPH = "decoder"
"""The one graph of a text model: token ids and the cache in, logits and the longer cache out."""
TASK_GRAPH = "task"
"""The graphs of what transformers' class is for: an encoder's, a classifier's, those of an encoder and a decoder."""
TEXT, EMBEDDINGS, SCORES, ANSWERS = "text", "embeddings", "scores", "text after an encoder's reading"
"""What models give: the next token; a vector of a text; a classifier's outputs; the next token, by two stacks."""
USUAL_LAYERS = 8  # more than there are dense ones before the first experts
BLOCK = re.compile(r"^(?:enc\.|dec\.)?blk\.(\d+)\.")


@dataclass(frozen=True)
class Family:
    """Models whose tensors one table describes."""

    name: str  # of the file
    title: str  # what people call it
    classes: tuple[str, ...]  # in config.json's `architectures`
    text: Callable[[JsonObject], GraphSpec]  # the language model's GGUF file; PlanError for a config it cannot take
    vision: Callable[[JsonObject, JsonObject], GraphSpec] | None = None  # (config, preprocessor) -> the mmproj file
    vision_prefix: tuple[str, ...] = ()  # how the names of its vision tensors start
    renames: tuple[tuple[str, str], ...] = ()  # other writers' beginnings of tensor names -> those of its tables
    takes: tuple[str, ...] = ("images",)  # what its mmproj file is for: images, sounds
    token_ids: tuple[tuple[str, str], ...] = ()  # words of a config that its mmproj needs -> tokens they are ids of
    graphs: str = (
        TEXT_GRAPH  # how it is cut into graphs (ONNX, TensorRT): these, a word of its own, or empty: not known
    )
    gives: Mapping[str, str] = field(default_factory=dict, hash=False)  # of a class that gives no TEXT, what it gives
    endings: tuple[tuple[str, str], ...] = ()  # as `renames`, of the ends of tensor names
    tested: tuple[str, ...] = ()  # stages that a test runs on it, of those that take most families: for their notes

    @property
    def has_vision(self) -> bool:
        """Whether its models take images."""
        return self.vision is not None and "images" in self.takes

    @property
    def has_audio(self) -> bool:
        """Whether its models take sounds."""
        return self.vision is not None and "sounds" in self.takes

    def given_by(self, config: JsonObject) -> str:
        """What a model with this config gives."""
        name = class_of(config)
        return self.gives.get(name, TEXT) if isinstance(name, str) else TEXT

    def own_name(self, name: str) -> str:
        """A checkpoint tensor's name as the family's tables have it: the first beginning that applies is replaced.

        A checkpoint of the base model's class (LlamaModel, not LlamaForCausalLM) has no `model.` in its names.
        """
        base, children = self._base
        for old, new in self.endings:
            name = name.removesuffix(old) + new if name.endswith(old) else name
        for old, new in self.renames:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return base + name if name.partition(".")[0] in children else name

    @cached_property
    def _base(self) -> tuple[str, frozenset[str]]:
        """What the names of the base model's tensors begin with in the tables (`model.`), and what follows there."""
        config = {"architectures": [self.classes[0]], "text_config": {}}
        with names_only():
            tensors = self.text(config).tensors
        found = [t.source for t in tensors if any(o.name == "token_embd.weight" for o in t.outputs)]
        base = found[0].rpartition(".")[0].rpartition(".")[0] if found else ""
        base = f"{base}." if base else ""
        inner = [t.source.removeprefix(base) for t in tensors if base and t.source.startswith(base)]
        return base, frozenset(name.partition(".")[0] for name in inner)

    def is_vision(self, name: str) -> bool:
        """Whether the checkpoint tensor called so is of the tower or the projector, used or not."""
        return bool(self.vision_prefix) and self.own_name(name).startswith(self.vision_prefix)

    def roles(self, config: JsonObject, names: Iterable[str]) -> Roles:
        """The roles of a checkpoint's tensors, which are called `names`.

        What llama.cpp cannot compute has roles too. Raises ConvertError for a config that no table can be made of.
        """
        specs = [_spec(self.text, config)]
        if self.vision is not None:
            specs.append(_spec(self.vision, config, {}))
        known = {tensor.source: tensor for spec in specs for tensor in spec.tensors if not tensor.borrowed}
        rules = [rule for spec in specs for rule in spec.left_out]
        own = {name: self.own_name(name) for name in names}
        tensors = {name: known[table] for name, table in own.items() if table in known}
        rest = {name: _left_out(table, rules) for name, table in own.items() if name not in tensors}
        others = {name: TensorRole.TOWER if self.is_vision(name) else role for name, (_, role) in rest.items()}
        unknown = tuple(name for name, (taken, _) in rest.items() if not taken and not self.is_vision(name))
        roles = {name: role for name, role in others.items() if role}
        return Roles(self, tensors, roles, unknown, self.given_by(config))

    def usual_roles(self) -> Roles:
        """The roles of a model whose config says no more than its class: what the family's tables always have."""
        layers = {"num_hidden_layers": USUAL_LAYERS}
        config = {"architectures": [self.classes[0]], "text_config": layers, **layers}
        with names_only():
            specs = [self.text(config), *([self.vision(config, {})] if self.vision else [])]
        tensors = {tensor.source: tensor for spec in specs for tensor in spec.tensors if not tensor.borrowed}
        return Roles(self, tensors, {}, (), self.given_by(config))


def _spec(make: Callable[..., GraphSpec], *configs: JsonObject) -> GraphSpec:
    """The spec of these configs; where llama.cpp cannot take one, a spec whose names alone are right."""
    try:
        return make(*configs)
    except ConvertError:
        with names_only():
            return make(*configs)


def _left_out(name: str, rules: Iterable[LeftOut]) -> tuple[bool, TensorRole | None]:
    """Whether a rule leaves the tensor out, and its role where that is known: a copy of the embedding is the head."""
    rule = next((rule for rule in rules if rule.covers(name)), None)
    return rule is not None, TensorRole.HEAD if rule and rule.same_as else None


@dataclass(frozen=True)
class Roles:
    """What the tensors of a checkpoint are for, by the checkpoint's own names."""

    family: Family
    tensors: Mapping[str, SourceTensor]  # those the family's tables have
    others: Mapping[str, TensorRole]  # known ones besides: a tied head, what a tower does not use
    unknown: tuple[str, ...]  # in no table, and left out by no rule
    gives: str = TEXT  # what the model gives

    @cached_property
    def of(self) -> Mapping[str, TensorRole]:
        """Tensor -> role."""
        return {**{name: tensor.role for name, tensor in self.tensors.items()}, **self.others}

    @cached_property
    def present(self) -> frozenset[TensorRole]:
        """Every role that some tensor has."""
        return frozenset(self.of.values())

    def having(self, roles: Collection[TensorRole]) -> list[str]:
        """The tensors that have one of these roles."""
        return [name for name, role in self.of.items() if role in roles]

    @cached_property
    def linears(self) -> Mapping[str, TensorRole]:
        """The matrices of decoder layers that can be quantized: attention, MLP, experts; no biases."""
        return {
            name: tensor.role
            for name, tensor in self.tensors.items()
            if tensor.role in LINEARS and len(tensor.outputs[0].shape) > 1 and not _is_bias(tensor)
        }

    @property
    def transposed(self) -> list[str]:
        """Those of the linears that are stored (in, out), as transformers' Conv1D has them."""
        return [name for name in self.linears if any(output.transposed for output in self.tensors[name].outputs)]

    def beyond(self, allowed: Collection[TensorRole]) -> list[str]:
        """What the model has whose roles are not all `allowed`, in words: ["experts", "a shared expert"]."""
        strange = self.present - frozenset(allowed)
        return [words for words, roles in TRAITS if roles & strange]

    def __str__(self) -> str:
        """The roles of the layers' matrices: "28 x (q, k, v, o, gate, up, down)"."""
        kinds = (f"{count} x ({', '.join(role.value for role in roles)})" for roles, count in self.layers().items())
        return ", ".join(kinds)

    @property
    def vision(self) -> list[str]:
        """The tensors of the tower and the projector."""
        return self.having(VISION)

    def layers(self) -> Counter[tuple[TensorRole, ...]]:
        """The roles of a layer's matrices, in the order of the enum -> how many layers have these."""
        layers: dict[str, set[TensorRole]] = {}
        for tensor in self.tensors.values():
            found = BLOCK.match(tensor.outputs[0].name)
            if found and len(tensor.outputs[0].shape) > 1 and not _is_bias(tensor):
                layers.setdefault(found[1], set()).add(tensor.role)
        order = list(TensorRole)
        return Counter(tuple(sorted(roles - {TensorRole.NORM}, key=order.index)) for roles in layers.values())


def _is_bias(tensor: SourceTensor) -> bool:
    return all(output.name.endswith(".bias") for output in tensor.outputs)
