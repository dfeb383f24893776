"""What can be told of a checkpoint's family from its config and the names and shapes of its tensors, for `new-family`.

llama.cpp's own table of names (gguf-py) says what a tensor is called in a graph that it has; where it has no graph
called as the model, names and graph are those of the nearest family here.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from convert import architectures
from convert.architectures import _rows
from convert.architectures._config import Config, keys_read, names_only
from convert.architectures._decoder import GELU, SILU, Decoder, Graph, read_decoder
from convert.architectures._graph_spec import TensorRule
from convert.architectures._nearest import SILENT, TEXTS, Nearest, nearest
from convert.architectures._rope import Rotary
from convert.errors import InputError
from convert.json_types import JsonDict, JsonObject
from convert.source.model_types import class_of

Shapes = Mapping[str, tuple[int, ...]]
SPELLINGS: Mapping[str, tuple[str, ...]] = {  # what a Config is asked for -> what others call it
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "intermediate_size": ("n_inner", "ffn_hidden_size", "ffn_dim", "d_ff"),
    "num_experts_per_tok": ("num_experts_per_token", "moe_topk", "moe_k"),
}
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon", "norm_epsilon")
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
EXPERT_WIDTHS = ("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
WORDS: Mapping[str, tuple[str, str]] = {  # GGUF name -> what its axes most likely are, the likeliest first
    "attn_q": ("q", "hidden"),
    "attn_k": ("kv", "hidden"),
    "attn_v": ("kv", "hidden"),
    "attn_qkv": ("q+kv+kv", "hidden"),
    "attn_output": ("hidden", "q"),
    "attn_q_norm": ("head q", ""),
    "attn_k_norm": ("head kv", ""),
    "ffn_gate": ("ffn", "hidden"),
    "ffn_up": ("ffn ffn+ffn", "hidden"),
    "ffn_down": ("hidden", "ffn"),
    "ffn_gate_inp": ("experts", "hidden"),
    "ffn_gate_exps": ("expert_ffn", "hidden"),
    "ffn_up_exps": ("expert_ffn", "hidden"),
    "ffn_down_exps": ("hidden", "expert_ffn"),
    "exp_probs_b": ("experts", ""),
}
TOWERS = frozenset(("visual", "vision_tower", "vision_model", "multi_modal_projector", "mm_projector", "audio_tower"))
OTHERS = ("vision_config", "audio_config")
ANY = "hidden q kv head ffn ffn+ffn vocab experts expert_ffn q+kv+kv"
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Row:
    """A kind of tensor: a line of the table, as far as it is known."""

    source: str  # with {i} and {e}
    target: str  # empty where nobody knows
    shape: tuple[int, ...]
    words: tuple[str, ...] = ()  # its axes; empty where no size fits

    @property
    def rule(self) -> TensorRule:
        """As a family's table has it."""
        return (self.source, self.target, self.words)


@dataclass(frozen=True)
class Draft:
    """A family as it can be told so far; what cannot be is in `questions`."""

    name: str
    served: str  # the class
    config: JsonObject
    shapes: Shapes
    near: Nearest | None
    graph: Graph
    known: bool  # llama.cpp has a graph called as the model
    spellings: Mapping[str, str]
    rows: tuple[Row, ...]
    sizes: Mapping[str, str] = field(default_factory=dict)  # dimensions of its own -> the config's key
    unread: Mapping[str, object] = field(default_factory=dict)  # what the config says besides
    nested: str = ""  # the key under which the config has the language model's
    questions: tuple[str, ...] = ()

    def first(self, keys: Sequence[str]) -> str:
        """The first of these keys that the config has; empty for none."""
        return next((key for key in keys if self.config.get(key) is not None), "")

    @cached_property
    def has_experts(self) -> bool:
        """Whether layers have a router and experts."""
        return any("_exps." in row.target for row in self.rows)


def draft(config: JsonObject, shapes: Shapes, served: str = "") -> Draft:
    """What is known of the family. Raises InputError for one that there is, or a config without a class."""
    served = served or _class(config)
    near = nearest(config, shapes)
    name = _name(config, served)
    nested = next((key for key in TEXTS if isinstance(config.get(key), Mapping)), "")
    towers = {tensor: shape for tensor, shape in shapes.items() if not TOWERS.isdisjoint(tensor.split("."))}
    shapes = {tensor: shape for tensor, shape in shapes.items() if tensor not in towers}
    if nested:
        config = {key: value for key, value in {**config, **config[nested]}.items() if key not in (nested, *OTHERS)}
    graph_name = _graph_name(name, served)
    spellings = {
        key: next(other for other in others if config.get(other) is not None)
        for key, others in SPELLINGS.items()
        if config.get(key) is None and any(config.get(other) is not None for other in others)
    }
    graph = _graph(config, shapes, graph_name or _graph_of(near, config))
    with names_only(), keys_read() as read:
        decoder = read_decoder(Config(config).with_defaults(**_head(config, shapes)).spelled(**spellings), graph)
    sizes = {**decoder.sizes, **_expert_sizes(config)}
    target = _names(graph_name, decoder.layers) if graph_name else _names_of(near, config)
    rows = tuple(_rows_of(shapes, target, sizes))
    own = {word: key for row in rows for word, key in _own_words(row, config, sizes)}
    rows = tuple(_with_own(row, own, config) for row in rows)
    read |= {*EXPERTS, *EXPERT_WIDTHS[:2], "num_experts_per_tok", *own.values(), *spellings.values(), *PARTIAL}
    unread = {key: value for key, value in config.items() if value is not None and key not in read | SILENT}
    found = Draft(name, served, config, shapes, near, graph, bool(graph_name), spellings, rows, own, unread, nested)
    problems = [f"{p.got}{f', wanted {p.wanted}' if p.wanted else ''}" for p in decoder.config.problems]
    apart = [f"{len(towers)} tensors of a tower or its projector have no table: see qwen2_vl.py"] if towers else []
    return Draft(**{**vars(found), "questions": (*apart, *problems, *_questions(found, decoder))})


def _class(config: JsonObject) -> str:
    name = class_of(config)
    if not isinstance(name, str) or not is_word(name):
        raise InputError("config.json", "architectures names no model class", "the class the model was saved from")
    if own := architectures.served().get(name):
        got = f"{name} is served by the family {own}"
        raise InputError("config.json", got, "a class that no family serves", f"see convert/architectures/{own}.py")
    return name


def _name(config: JsonObject, served: str) -> str:
    """As the file is called: by model_type, else by the class."""
    kind = config.get("model_type")
    words = kind if isinstance(kind, str) and kind else re.sub(r"For[A-Z]\w*$|LMHeadModel$|Model$", "", served)
    name = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words).lower()).strip("_")[:60]
    return name if is_word(name) else f"model_{name}"


def is_word(text: str) -> bool:
    """Whether a stranger's word may stand in Python as a name."""
    return text.isidentifier() and text.isascii() and not keyword.iskeyword(text)


def _graph_name(*words: str) -> str:
    """llama.cpp's name of the architecture, where it has one that is called so."""
    if importlib.util.find_spec("gguf") is None:
        return ""
    import gguf

    known = {_letters(name): name for name in gguf.MODEL_ARCH_NAMES.values()}
    stems = (re.sub(r"For[A-Z]\w*$|LMHeadModel$|Model$", "", word) for word in words)
    return next((str(known[_letters(stem)]) for stem in stems if _letters(stem) in known), "")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _graph_of(near: Nearest | None, config: JsonObject) -> str:
    """The graph that the nearest family names."""
    if near is None:
        return "llama"
    with names_only():
        return architectures.load(near.family).text({**config, "architectures": [near.served]}).architecture


def _graph(config: JsonObject, shapes: Shapes, name: str) -> Graph:
    """What the config and the tensors say of the graph."""
    epsilon = next((key for key in EPSILONS if config.get(key) is not None), EPSILONS[0])
    centred = any(norm.endswith("norm.bias") or norm.endswith("ln_f.bias") for norm in shapes)
    activation = next((key for key in ACTIVATIONS if config.get(key) is not None), ACTIVATIONS[0])
    act = config.get(activation)
    acts = SILU if act in SILU or not isinstance(act, str) else GELU if act in GELU else (act,)
    ropes = config.get("rope_parameters")
    both = {**(ropes if isinstance(ropes, Mapping) else {}), **config}
    part = next((both[key] for key in PARTIAL if isinstance(both.get(key), int | float)), None)
    return Graph(
        name,
        layer_norm=centred or epsilon.startswith("layer"),
        epsilon=epsilon,
        activations=acts,
        activation=activation,
        rotary=Rotary(partial=float(part)) if isinstance(part, int | float) else Rotary(),
        square=config.get("head_dim") is None and not _head(config, shapes),
        tied=config.get("tie_word_embeddings") is None and not any(n.endswith("lm_head.weight") for n in shapes),
    )


def _head(config: JsonObject, shapes: Shapes) -> dict[str, int]:
    """The size of a head where the config does not say it and it is not hidden size / heads, by the queries' rows."""
    rows = next((shape[0] for name, shape in shapes.items() if name.endswith(".q_proj.weight")), 0)
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if config.get("head_dim") is not None or not isinstance(heads, int) or heads < 1 or rows in (0, hidden):
        return {}
    return {"head_dim": rows // heads}


def _expert_sizes(config: JsonObject) -> dict[str, int]:
    found = {}
    for word, keys in (("experts", EXPERTS), ("expert_ffn", EXPERT_WIDTHS)):
        size = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        if isinstance(size, int):
            found[word] = size
    return found


# -- rows --------------------------------------------------------------------------------------------------------------

Names = Callable[[str], str]
"""From a kind of tensor to its GGUF name, both with {i}; empty where it is not known."""


def _names(graph: str, layers: int) -> Names:
    """The names of llama.cpp's graph, by its own table."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == graph)
    table = gguf.get_tensor_name_map(arch, max(1, layers))

    def name(kind: str) -> str:
        plain = kind.replace(".{e}.", ".").replace("{i}", "0")
        found = table.get_name(plain, try_suffixes=(".weight", ".bias"))
        return re.sub(r"^blk\.0\.", "blk.{i}.", found) if found else ""

    return name


def _names_of(near: Nearest | None, config: JsonObject) -> Names:
    """The names that the nearest family's table has, then those of the usual rows."""
    groups = (_rows.ENDS, _rows.NORMS, _rows.ATTENTION, _rows.QK_NORM, _rows.MLP, _rows.ROUTER, _rows.EXPERTS)
    usual = [*(row for group in groups for row in group), _rows.HEAD]
    every = [*usual, *_rows.biases(usual)]
    found = {row[0]: row[1] for row in every if isinstance(row[1], str)}
    if near is not None:
        with names_only():
            spec = architectures.load(near.family).text({**config, "architectures": [near.served]})
        for tensor in spec.tensors:
            if len(tensor.outputs) == 1:
                found[kind(tensor.source)] = re.sub(r"^blk\.\d+\.", "blk.{i}.", tensor.outputs[0].name)
    return lambda source: found.get(source, "")


def kind(name: str) -> str:
    """The name with {i} for the layer and {e} for what is numbered within it."""
    first = LAYER.sub(".{i}.", name, count=1)
    return re.sub(r"\.\d+\.", ".{e}.", first)


def _rows_of(shapes: Shapes, target: Names, sizes: Mapping[str, int]) -> Iterator[Row]:
    """A row for each kind of tensor; of one that differs from layer to layer the first."""
    seen: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        seen.setdefault(kind(name), shape)
    for source, shape in seen.items():
        name = target(source)
        yield Row(source, name, shape, _words(name, shape, sizes) if name else ())


def _words(target: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes by names of dimensions; empty where one has none."""
    likely = WORDS.get(target.removeprefix("blk.{i}.").rpartition(".")[0], ("", ""))
    found = []
    for axis, length in enumerate(shape):
        words = f"{likely[axis] if axis < 2 else ''} {ANY}".split()
        fits = [word for word in words if all(part in sizes for part in word.split("+"))]
        word = next((word for word in fits if sum(sizes[part] for part in word.split("+")) == length), "")
        found.append(word)
    return tuple(found) if all(found) else ()


def _own_words(row: Row, config: JsonObject, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Dimensions that only the config's own keys have: (word, key), where exactly one key has an axis' length."""
    for length in row.shape if row.target and not row.words else ():
        keys = [key for key, value in config.items() if value == length and type(value) is int and is_word(key)]
        if length not in sizes.values() and len(keys) == 1:
            yield keys[0].removeprefix("moe_").removesuffix("_size"), keys[0]


def _with_own(row: Row, own: Mapping[str, str], config: JsonObject) -> Row:
    if row.words or not row.target or not own:
        return row
    lengths = {word: value for word, key in own.items() if isinstance(value := config[key], int)}
    hidden = config.get("hidden_size")
    if isinstance(hidden, int):
        lengths = {"hidden": hidden, **lengths}
    words = _words(row.target, row.shape, lengths) or tuple(
        next((word for word, length in lengths.items() if length == axis), "") for axis in row.shape
    )
    return Row(row.source, row.target, row.shape, words if all(words) else ())


# -- questions ---------------------------------------------------------------------------------------------------------


def _questions(found: Draft, decoder: Decoder) -> Iterator[str]:
    """What only a person can say, a line each."""
    if not found.known:
        near = found.near.family if found.near else "llama"
        yield f"llama.cpp has no architecture called {found.name}: is {found.graph.name}, as for {near}, its graph?"
    for row in found.rows:
        if not row.target or not row.words:
            shape = "x".join(map(str, row.shape))
            yield f"{row.source} ({shape}) has no row: what is it for, which GGUF name and shape?"
    yield from _some_layers(found.shapes, decoder.layers)
    if found.graph.name != "llama" and decoder.rope:
        yield (
            f"which values turn together in llama.cpp's {found.graph.name} graph? Neighbours (llama_model_rope_type "
            "says NORM): transforms=side_by_side(decoder) of llama.py; halves of a head (NEOX): as it is"
        )
    for key, value in found.unread.items():
        if value is not False:
            yield f"{key} is {str(value)[:60]!r} in config.json, and nothing reads it: what does the graph make of it?"


def _some_layers(shapes: Shapes, layers: int) -> Iterator[str]:
    """Kinds that only some layers have."""
    where: dict[str, set[int]] = {}
    for name in shapes:
        if number := LAYER.search(name):
            where.setdefault(kind(name), set()).add(int(number[1]))
    for source, numbers in where.items():
        if 0 < len(numbers) < layers:
            said = ", ".join(map(str, sorted(numbers)[:6])) + (" …" if len(numbers) > 6 else "")
            yield f"only layers {said} have {source}: Extra(tensors=expand(…, layers))"


def said_flags(found: Draft) -> JsonDict:
    """What the config denies, and nothing reads: key -> false."""
    return {key: value for key, value in found.unread.items() if value is False}
