"""RWKV 6: layers of time mixing, whose state is a matrix a head, and of channel mixing; no attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_attentionless
from convert.architectures._family import Family
from convert.architectures._graph_spec import (
    TRANSPOSED,
    Change,
    GraphSpec,
    OutputTensor,
    SourceTensor,
    TensorRule,
    Transform,
    expand,
)
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "rwkv6", layer_norm=True, epsilon="layer_norm_epsilon", default_epsilon=1e-5, grouped=False, rotary=None, mlp=False
)
MIXES = ("w", "k", "v", "r", "g")  # what the token before is mixed into, in llama.cpp's order
WIDE = 4096  # the width from which the projections of mixes and decays are twice as wide
BLOCK = "rwkv.blocks.{i}"
ATTN, FFN = f"{BLOCK}.attention", f"{BLOCK}.feed_forward"
NORMS: tuple[TensorRule, ...] = (
    ("rwkv.ln_out.weight", "output_norm.weight", ("hidden",)),
    ("rwkv.blocks.0.pre_ln.weight", "token_embd_norm.weight", ("hidden",)),
    (f"{BLOCK}.ln1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{BLOCK}.ln2.weight", f"{B}.attn_norm_2.weight", ("hidden",)),
    (f"{ATTN}.ln_x.weight", f"{B}.time_mix_ln.weight", ("hidden",)),
)
ROWS: tuple[TensorRule, ...] = (
    ("rwkv.embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    *NORMS,
    *biases(NORMS),
    (f"{ATTN}.time_maa_x", f"{B}.time_mix_lerp_x.weight", ("one", "one", "hidden"), "flat"),
    (f"{ATTN}.time_decay", f"{B}.time_mix_decay.weight", ("one", "one", "hidden"), "flat"),
    (f"{FFN}.time_maa_k", f"{B}.channel_mix_lerp_k.weight", ("one", "one", "hidden"), "flat"),
    (f"{FFN}.time_maa_r", f"{B}.channel_mix_lerp_r.weight", ("one", "one", "hidden"), "flat"),
    (f"{ATTN}.time_maa_w1", f"{B}.time_mix_w1.weight", ("hidden", "mixes"), "transposed"),
    (f"{ATTN}.time_maa_w2", f"{B}.time_mix_w2.weight", ("five", "mix", "hidden"), "transposed"),
    (f"{ATTN}.time_decay_w1", f"{B}.time_mix_decay_w1.weight", ("hidden", "decay"), "transposed"),
    (f"{ATTN}.time_decay_w2", f"{B}.time_mix_decay_w2.weight", ("decay", "hidden"), "transposed"),
    (f"{ATTN}.time_faaaa", f"{B}.time_mix_first.weight", ("heads", "head")),
    (f"{ATTN}.receptance.weight", f"{B}.time_mix_receptance.weight", ("hidden", "hidden")),
    (f"{ATTN}.key.weight", f"{B}.time_mix_key.weight", ("hidden", "hidden")),
    (f"{ATTN}.value.weight", f"{B}.time_mix_value.weight", ("hidden", "hidden")),
    (f"{ATTN}.gate.weight", f"{B}.time_mix_gate.weight", ("hidden", "hidden")),
    (f"{FFN}.key.weight", f"{B}.channel_mix_key.weight", ("ffn", "hidden")),
    (f"{FFN}.receptance.weight", f"{B}.channel_mix_receptance.weight", ("hidden", "hidden")),
)
RESCALED: tuple[TensorRule, ...] = (
    (f"{ATTN}.output.weight", f"{B}.time_mix_output.weight", ("hidden", "hidden"), "rescaled"),
    (f"{FFN}.value.weight", f"{B}.channel_mix_value.weight", ("hidden", "ffn"), "rescaled"),
)
TRANSFORMS = {
    "flat": Transform(lambda values: values.reshape(-1), resized=lambda shape: (shape[-1],)),
    "transposed": TRANSPOSED,
}
HEAD: TensorRule = ("head.weight", "output.weight", ("vocab", "hidden"))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_attentionless(config, GRAPH)
    hidden = decoder.hidden
    head = config.size("head_size", 64)
    if hidden % head:
        config.complain("head_size", head, f"a divisor of hidden_size, {hidden}")
    config.require("attention_hidden_size", hidden, "llama.cpp's rwkv6 graph has no other width")
    config.require("tie_word_embeddings", False, "llama.cpp's rwkv6 graph has a head of its own")
    ffn = config.size("intermediate_size", int(hidden * 3.5) // 32 * 32)
    mix, decay = (64, 128) if hidden == WIDE else (32, 64)
    every = config.size("rescale_every", 6, least=0)
    decoder = decoder.having(
        ffn=ffn, heads=hidden // head, head=head, mix=mix, mixes=mix * len(MIXES), decay=decay, five=5, one=1
    )
    fields = [
        Field.uint32("rwkv6.feed_forward_length", ffn),
        Field.uint32("rwkv6.wkv.head_size", head),
        Field.uint32("rwkv6.time_mix_extra_dim", mix),
        Field.uint32("rwkv6.time_decay_extra_dim", decay),
        Field.uint32("rwkv6.rescale_every_n_layers", every),
    ]
    rescaled = [
        tensor
        for i in range(decoder.layers)
        for tensor in expand(RESCALED, decoder.sizes, {"rescaled": Transform(change=_halved(i, every))}, [i])
    ]
    tensors = (*rescaled, *mixes(decoder, ATTN, MIXES))
    return decoder_spec(decoder, ROWS, fields, TRANSFORMS, Extra(head=HEAD, tensors=tensors))


def _halved(layer: int, every: int) -> Change | None:
    """The change of a layer's outputs, which halve every so many layers, as llama.cpp halves what they are added to."""
    times = layer // every if every else 0
    return (lambda values: values / np.float32(2**times)) if every else None


def mixes(decoder: Decoder, attention: str, order: Sequence[str]) -> Iterator[SourceTensor]:
    """How much of the token before goes into what, all in one tensor."""
    hidden = decoder.hidden

    def row(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, 1, hidden)

    for i in range(decoder.layers):
        for place, mix in enumerate(order):
            output = OutputTensor(f"blk.{i}.time_mix_lerp_fused.weight", (len(order), 1, 1, hidden), row, place)
            source = f"{attention}.time_maa_{mix}".replace("{i}", str(i))
            yield SourceTensor(source, (1, 1, hidden), (output,))


FAMILY = Family(
    name="rwkv6",
    title="RWKV 6",
    classes=("Rwkv6ForCausalLM",),
    text=text,
    graphs="",
)
