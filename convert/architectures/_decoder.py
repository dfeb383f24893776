"""The decoders of most families: blocks of attention and MLP with norms, their sizes read from config.json and checked.

A family says what llama.cpp's graph for it can do (`Graph`), lets `read_decoder` read and check the config, and gives
`decoder_spec` its rows, the fields that only it has, and the transforms of its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._graph_spec import (
    Generated,
    GraphSpec,
    LeftOut,
    SourceTensor,
    StatedValues,
    TensorRule,
    Transform,
    expand,
)
from convert.architectures._rope import Rope, Rotary, read_rope, rope_fields, rope_tensors
from convert.architectures._rows import HEAD, INVERSE_FREQUENCIES
from convert.architectures._window import window_notes
from convert.gguf_field import Field
from convert.source import quantized

SILU = ("silu", "swish")
GELU_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")  # the formula llama.cpp has for GELU
GELU = ("gelu", *GELU_TANH)  # llama.cpp takes the tanh formula for the exact one too
GELU_NOTE = "the source computes GELU exactly, llama.cpp by its tanh formula: values differ by up to 5e-4"


@dataclass(frozen=True)
class Graph:
    """What llama.cpp's graph of an architecture can do; a config that asks for more is refused."""

    name: str  # general.architecture
    layer_norm: bool = False  # else RMS norm
    epsilon: str = "rms_norm_eps"  # the config's key for the norm's epsilon
    default_epsilon: float | None = None  # transformers' own where the config is silent; None: it may not be
    activations: Sequence[str] = SILU  # that the config may name; the first where it is silent
    activation: str = "hidden_act"  # the config's key for it
    rotary: Rotary | None = field(default_factory=Rotary)  # None: positions are a table of embeddings, or none at all
    square: bool = False  # heads times head size is the hidden size
    grouped: bool = True  # heads may share keys and values; head_count_kv is then in the file
    windowed: bool = False  # it has sliding windows; False: a config with one gets a note
    carries: Sequence[str] = ()  # quantized checkpoints whose blocks it takes as they are (quant_method)
    mlp: bool = True  # it has MLPs; their width is in the file
    tied: bool = False  # what transformers takes for tie_word_embeddings where the config is silent


@dataclass(frozen=True)
class Decoder:
    """The numbers of a decoder, checked."""

    graph: Graph
    config: Config
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    epsilon: float
    rope: Rope | None
    tied: bool
    more: Mapping[str, int] = field(default_factory=dict)  # the family's own dimensions
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> Mapping[str, int]:
        """Names of dimensions in the tables -> their sizes."""
        return {
            "vocab": self.vocab,
            "hidden": self.hidden,
            "ffn": self.ffn,
            "head": self.head_dim,
            "q": self.heads * self.head_dim,
            "kv": self.kv_heads * self.head_dim,
            "context": self.context,
            **self.more,
        }

    def having(self, **sizes: int) -> Decoder:
        """The decoder with more dimensions for its tables."""
        return replace(self, more={**self.more, **sizes})


def read_decoder(config: Config, graph: Graph) -> Decoder:
    """The decoder a text config describes; what is wrong with it is in `config.problems`."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", heads) if graph.grouped else heads
    if heads % kv_heads:
        config.complain("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    head_dim = _head_dim(config, graph, hidden, heads)
    context = config.size("max_position_embeddings", most=MAX_CONTEXT)
    activation = config.word(
        graph.activation,
        graph.activations[0],
        graph.activations,
        "llama.cpp's graph of this architecture has no other",
    )
    _check_plain(config, graph)
    return Decoder(
        graph,
        config,
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        hidden=hidden,
        ffn=config.size("intermediate_size") if graph.mlp else 0,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=config.size("vocab_size"),
        context=context,
        epsilon=config.number(graph.epsilon, graph.default_epsilon),
        rope=read_rope(config, graph.rotary, context, head_dim) if graph.rotary else None,
        tied=config.flag("tie_word_embeddings", graph.tied),
        notes=(GELU_NOTE,) if activation == "gelu" else (),
    )


NO_POSITIONS = 1 << 20  # tokens of context, in the file of a model that knows of no positions


def read_attentionless(config: Config, graph: Graph) -> Decoder:
    """The decoder of a config whose layers neither attend nor have an MLP; what is wrong is in `config.problems`."""
    _check_plain(config, graph)
    return Decoder(
        graph,
        config,
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        hidden=config.size("hidden_size"),
        ffn=0,
        heads=0,
        kv_heads=0,
        head_dim=0,
        vocab=config.size("vocab_size"),
        context=NO_POSITIONS,
        epsilon=config.number(graph.epsilon, graph.default_epsilon),
        rope=None,
        tied=config.flag("tie_word_embeddings", graph.tied),
    )


def _check_plain(config: Config, graph: Graph) -> None:
    """Add a problem where the weights are quantized, unless into blocks that the family carries as they are."""
    if (
        config.has("quantization_config")
        and config.sub("quantization_config").values.get("quant_method") not in graph.carries
    ):
        config.problems.append(quantized.problem(config.values["quantization_config"], config.where))


def _head_dim(config: Config, graph: Graph, hidden: int, heads: int) -> int:
    """The size of a head, which need not be hidden size / heads everywhere."""
    if not config.has("head_dim") and hidden % heads:
        config.complain(config.key("num_attention_heads"), heads, f"a divisor of hidden_size, {hidden}")
        return 2 * max(1, hidden // heads // 2)  # even, so that nothing else is said of the same mistake
    head_dim = config.size("head_dim", max(1, hidden // heads))
    if graph.rotary and head_dim % 2:
        config.complain("head_dim", head_dim, "an even number", "RoPE rotates pairs of values")
    if graph.square and heads * head_dim != hidden:
        wanted = f"hidden_size / num_attention_heads, {hidden // heads}"
        config.complain("head_dim", head_dim, wanted, "llama.cpp has no other for this architecture")
    return head_dim


def decoder_fields(decoder: Decoder) -> list[Field]:
    """The hyper-parameters every decoder has."""
    graph = decoder.graph
    prefix = graph.name
    norm = "layer_norm_epsilon" if graph.layer_norm else "layer_norm_rms_epsilon"
    fields = [
        Field.uint32(f"{prefix}.block_count", decoder.layers),
        Field.uint32(f"{prefix}.context_length", decoder.context),
        Field.uint32(f"{prefix}.embedding_length", decoder.hidden),
        Field.uint32(f"{prefix}.attention.head_count", decoder.heads),
    ]
    if graph.mlp:
        fields.insert(3, Field.uint32(f"{prefix}.feed_forward_length", decoder.ffn))
    if graph.grouped:
        fields.append(Field.uint32(f"{prefix}.attention.head_count_kv", decoder.kv_heads))
    if decoder.rope:
        fields += rope_fields(decoder.rope, prefix)
        if graph.rotary and graph.rotary.partial is not None:
            fields.append(Field.uint32(f"{prefix}.rope.dimension_count", decoder.rope.dimensions))
    return [*fields, Field.float32(f"{prefix}.attention.{norm}", decoder.epsilon)]


def head_size_fields(decoder: Decoder) -> list[Field]:
    """Head sizes, for architectures where they need not be hidden size / heads."""
    return [
        Field.uint32(f"{decoder.graph.name}.attention.key_length", decoder.head_dim),
        Field.uint32(f"{decoder.graph.name}.attention.value_length", decoder.head_dim),
    ]


@dataclass(frozen=True)
class Extra:
    """What a decoder's file has beyond rows and fields, or otherwise than most."""

    head: TensorRule | None = HEAD  # None: it is among the tensors
    # tensors of some layers only: expand(rows, decoder.sizes, transforms, [3, 4, 5])
    tensors: Iterable[SourceTensor] = ()
    generated: Iterable[Generated] = ()
    left_out: Iterable[LeftOut] = ()
    notes: Iterable[str] = ()
    stated: Iterable[StatedValues] = ()


def decoder_spec(
    decoder: Decoder,
    rows: Iterable[TensorRule],
    fields: Iterable[Field] = (),
    transforms: Mapping[str, Transform] | None = None,
    extra: Extra | None = None,
) -> GraphSpec:
    """The GraphSpec of a decoder whose tensors are `rows`, and the head where it is not tied.

    A field that every decoder has may be among the family's `fields`, where it is another.
    Raises PlanError with every problem the config has.
    """
    extra = extra or Extra()
    table, head = list(rows), extra.head
    if head and not decoder.tied:
        table.append(head)
    tensors = (*expand(table, decoder.sizes, transforms, decoder.layers), *extra.tensors)
    stated = tuple(extra.stated)
    left_out = [INVERSE_FREQUENCIES, *extra.left_out, *(rule for values in stated for rule in _stated(values))]
    if decoder.tied:
        embedding = next(t.source for t in tensors if t.outputs[0].name == "token_embd.weight")
        left_out.append(LeftOut((head or HEAD)[0], "tied: llama.cpp reads token_embd.weight", embedding))
    all_fields = {field.key: field for field in (*decoder_fields(decoder), *fields)}
    generated = (*(rope_tensors(decoder.rope) if decoder.rope else ()), *extra.generated)
    notes = () if decoder.graph.windowed else window_notes(decoder.config, decoder.layers, decoder.context)
    decoder.config.finish()
    return GraphSpec(
        decoder.graph.name,
        tuple(all_fields.values()),
        tensors,
        generated,
        tuple(left_out),
        (*decoder.notes, *notes, *extra.notes),
        stated,
    )


def _stated(values: StatedValues) -> Iterable[LeftOut]:
    return (LeftOut(source, f"a number of {values.key} in the metadata", prefix=source) for source in values.sources)
