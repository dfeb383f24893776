"""The decoder that Llama and the Qwens share: pre-norm blocks, grouped-query attention, rotary positions, gated MLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._part import LeftOut, Part, Row, View, expand
from convert.architectures._rope import Rope, read_rope, rope_fields, rope_tensors
from convert.gguf.fields import Field

Views = Mapping[str, View]

_L, _B = "model.layers.{i}", "blk.{i}"

MODEL: tuple[Row, ...] = (
    ("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    (f"{_L}.input_layernorm.weight", f"{_B}.attn_norm.weight", ("hidden",)),
    (f"{_L}.self_attn.v_proj.weight", f"{_B}.attn_v.weight", ("kv", "hidden")),
    (f"{_L}.self_attn.o_proj.weight", f"{_B}.attn_output.weight", ("hidden", "q")),
    (f"{_L}.post_attention_layernorm.weight", f"{_B}.ffn_norm.weight", ("hidden",)),
    ("model.norm.weight", "output_norm.weight", ("hidden",)),
)
MLP: tuple[Row, ...] = (
    (f"{_L}.mlp.gate_proj.weight", f"{_B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{_L}.mlp.up_proj.weight", f"{_B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{_L}.mlp.down_proj.weight", f"{_B}.ffn_down.weight", ("hidden", "ffn")),
)
QUERY_KEY: tuple[Row, ...] = (
    (f"{_L}.self_attn.q_proj.weight", f"{_B}.attn_q.weight", ("q", "hidden"), "q"),
    (f"{_L}.self_attn.k_proj.weight", f"{_B}.attn_k.weight", ("kv", "hidden"), "k"),
)
QUERY_KEY_BIAS: tuple[Row, ...] = (
    (f"{_L}.self_attn.q_proj.bias", f"{_B}.attn_q.bias", ("q",), "q"),
    (f"{_L}.self_attn.k_proj.bias", f"{_B}.attn_k.bias", ("kv",), "k"),
)
VALUE_BIAS: tuple[Row, ...] = ((f"{_L}.self_attn.v_proj.bias", f"{_B}.attn_v.bias", ("kv",)),)
OUTPUT_BIAS: tuple[Row, ...] = ((f"{_L}.self_attn.o_proj.bias", f"{_B}.attn_output.bias", ("hidden",)),)
QUERY_KEY_NORM: tuple[Row, ...] = (
    (f"{_L}.self_attn.q_norm.weight", f"{_B}.attn_q_norm.weight", ("head",)),
    (f"{_L}.self_attn.k_norm.weight", f"{_B}.attn_k_norm.weight", ("head",)),
)
MLP_BIAS: tuple[Row, ...] = (
    (f"{_L}.mlp.gate_proj.bias", f"{_B}.ffn_gate.bias", ("ffn",)),
    (f"{_L}.mlp.up_proj.bias", f"{_B}.ffn_up.bias", ("ffn",)),
    (f"{_L}.mlp.down_proj.bias", f"{_B}.ffn_down.bias", ("hidden",)),
)
HEAD: tuple[Row, ...] = (("lm_head.weight", "output.weight", ("vocab", "hidden")),)

INVERSE_FREQUENCIES = LeftOut("rotary_emb.inv_freq", "llama.cpp computes the frequencies from rope.freq_base")
TIED_HEAD = LeftOut("lm_head.weight", "tied: llama.cpp reads token_embd.weight", "model.embed_tokens.weight")


@dataclass(frozen=True)
class Decoder:
    """The numbers of a decoder, checked."""

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
    rope: Rope
    tied: bool

    @property
    def sizes(self) -> Mapping[str, int]:
        """Names of dimensions in the tables above -> their sizes."""
        return {
            "vocab": self.vocab,
            "hidden": self.hidden,
            "ffn": self.ffn,
            "head": self.head_dim,
            "q": self.heads * self.head_dim,
            "kv": self.kv_heads * self.head_dim,
        }


def read_decoder(config: Config, scalings: Sequence[str] = ("linear", "yarn"), theta: float = 10000.0) -> Decoder:
    """The decoder a text config describes; what is wrong with it is in `config.problems`."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    kv_heads = config.size("num_key_value_heads", heads)
    if heads % kv_heads:
        config.complain("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    if not config.has("head_dim") and hidden % heads:
        config.complain("num_attention_heads", heads, f"a divisor of hidden_size, {hidden}")
    head_dim = config.size("head_dim", max(1, hidden // heads))
    if head_dim % 2:
        config.complain("head_dim", head_dim, "an even number", "rotary positions turn pairs of values")
    context = config.size("max_position_embeddings", most=MAX_CONTEXT)
    config.word("hidden_act", "silu", ("silu", "swish"), "llama.cpp's graph of this architecture has no other")
    if config.has("quantization_config"):
        remedy = "convert the model it was made from"
        config.complain("quantization_config", config.values["quantization_config"], "16- or 32-bit weights", remedy)
    return Decoder(
        config,
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        hidden=hidden,
        ffn=config.size("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=config.size("vocab_size"),
        context=context,
        epsilon=config.number("rms_norm_eps"),
        rope=read_rope(config, scalings, context, theta),
        tied=config.flag("tie_word_embeddings"),
    )


def require_square(decoder: Decoder) -> None:
    """Add a problem unless heads times head size is the hidden size; some of llama.cpp's graphs assume it."""
    if decoder.heads * decoder.head_dim != decoder.hidden:
        wanted = f"hidden_size / num_attention_heads, {decoder.hidden // decoder.heads}"
        decoder.config.complain("head_dim", decoder.head_dim, wanted, "llama.cpp has no other for this architecture")


def _window_notes(decoder: Decoder) -> list[str]:
    """What to tell about sliding-window attention, which llama.cpp's graphs of these architectures do not have."""
    config = decoder.config
    if not config.has("sliding_window") or not config.flag("use_sliding_window", default=True):
        return []
    window = config.size("sliding_window", most=MAX_CONTEXT)
    if window >= decoder.context or config.values.get("max_window_layers") == decoder.layers:
        return []
    return [
        f"the source attends to the last {window} tokens only, llama.cpp's graph of this architecture to all: "
        f"expect differences in texts longer than {window} tokens"
    ]


def decoder_fields(decoder: Decoder, prefix: str) -> list[Field]:
    """The hyper-parameters every decoder has."""
    return [
        Field.uint32(f"{prefix}.block_count", decoder.layers),
        Field.uint32(f"{prefix}.context_length", decoder.context),
        Field.uint32(f"{prefix}.embedding_length", decoder.hidden),
        Field.uint32(f"{prefix}.feed_forward_length", decoder.ffn),
        Field.uint32(f"{prefix}.attention.head_count", decoder.heads),
        Field.uint32(f"{prefix}.attention.head_count_kv", decoder.kv_heads),
        *rope_fields(decoder.rope, prefix),
        Field.float32(f"{prefix}.attention.layer_norm_rms_epsilon", decoder.epsilon),
    ]


def head_size_fields(decoder: Decoder, prefix: str) -> list[Field]:
    """Head sizes, for architectures where they need not be hidden size / heads."""
    return [
        Field.uint32(f"{prefix}.attention.key_length", decoder.head_dim),
        Field.uint32(f"{prefix}.attention.value_length", decoder.head_dim),
    ]


def decoder_part(
    decoder: Decoder,
    name: str,
    rows: Iterable[Row],
    fields: Iterable[Field] = (),
    views: Views | None = None,
) -> Part:
    """The Part of a decoder whose tensors are MODEL, `rows`, and the head where it is not tied.

    Raises PlanError with every problem the config has.
    """
    table = (*MODEL, *rows, *(() if decoder.tied else HEAD))
    all_fields = (*decoder_fields(decoder, name), *fields)
    generated = rope_tensors(decoder.rope, decoder.head_dim)
    decoder.config.finish()
    return Part(
        name,
        all_fields,
        expand(table, decoder.sizes, views, decoder.layers),
        generated,
        (INVERSE_FREQUENCIES, *((TIED_HEAD,) if decoder.tied else ())),
        tuple(_window_notes(decoder)),
    )
