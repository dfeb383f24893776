"""Falcon-H1: in every layer Mamba 2 and attention side by side; multipliers, which go into the weights."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import Change, GraphSpec, OutputTensor, SourceTensor, TensorRule, Transform
from convert.architectures._roles import TensorRole
from convert.architectures._rows import ENDS, MLP, NORMS, OUTPUT, QKV, B, L, named
from convert.architectures._state_space import Mamba2, mamba2_rows, read_mamba2
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("falcon-h1", default_epsilon=1e-5)
DEFAULTS = {  # transformers' own where the config is silent
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "num_key_value_heads": 8,
}
FACTORS = {  # word of a row -> the config's words for what its weights are multiplied by, in upstream's order
    "q": ("attention_in_multiplier",),
    "k": ("key_multiplier", "attention_in_multiplier"),
    "v": ("attention_in_multiplier",),
    "o": ("attention_out_multiplier",),
    "ssm_out": ("ssm_out_multiplier",),
}
ROWS: tuple[TensorRule, ...] = (
    ("model.final_layernorm.weight", "output_norm.weight", ("hidden",)),
    NORMS[0],
    (f"{L}.pre_ff_layernorm.weight", f"{B}.ffn_norm", ("hidden",)),  # llama.cpp wants it without .weight
    *QKV[:2],
    (*QKV[2][:3], "v"),
    (*OUTPUT[0][:3], "o"),
    *(
        (*row[:3], word)
        for row, word in zip(named(MLP, ("mlp.", "feed_forward.")), ("gate", "up", "down"), strict=True)
    ),
)
NO_BIASES = ("attention_bias", "mlp_bias", "projectors_bias")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    decoder = read_decoder(config, GRAPH)
    for key in NO_BIASES:
        config.require(key, False, "llama.cpp's graph has no such biases")
    inner = config.size("mamba_d_ssm", config.size("mamba_expand", 2) * decoder.hidden)
    mamba = read_mamba2(config, inner)
    normed = config.flag("mamba_rms_norm")
    if normed and config.flag("mamba_norm_before_gate", True):
        config.complain("mamba_norm_before_gate", True, "false", "llama.cpp's graph has the gate before the norm")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("falcon-h1.vocab_size", decoder.vocab),
        *mamba.fields("falcon-h1"),
    ]
    rows = [*ROWS, *(row for row in mamba2_rows(f"{L}.mamba") if normed or ".norm." not in row[0])]
    extra = Extra(head=None, tensors=_ends(decoder))
    return decoder_spec(decoder.having(**mamba.sizes), rows, fields, _transforms(config, mamba), extra)


def _times(*factors: float) -> Change:
    """The change that multiplies by one factor after the other, each rounded to float32."""

    def change(values: np.ndarray) -> np.ndarray:
        for factor in factors:
            values = values * np.float32(factor)
        return values

    return change


def _transforms(config: Config, mamba: Mamba2) -> dict[str, Transform]:
    """What the weights of each kind are multiplied by."""
    by_word = {
        word: Transform(change=_times(*(config.number(key, 1.0) for key in keys))) for word, keys in FACTORS.items()
    }
    gate, down = config.numbers("mlp_multipliers", 2, (1.0, 1.0))
    shared = mamba.groups * mamba.state
    parts = config.numbers("ssm_multipliers", 5, (1.0,) * 5)  # gate, values, B, C, time steps
    counts = (mamba.inner, mamba.inner, shared, shared, mamba.heads)
    projections = Transform(
        change=_times(config.number("ssm_in_multiplier", 1.0)),
        row_factors=np.repeat(np.array(parts, np.float32), counts),
    )
    return {
        **mamba.transforms,
        **by_word,
        "gate": Transform(change=_times(gate)),
        "down": Transform(change=_times(down)),
        "projections": projections,
    }


def _ends(decoder: Decoder) -> list[SourceTensor]:
    """Embedding and head, each with its own factor, so that a file has both where the checkpoint ties them."""
    config, shape = decoder.config, (decoder.vocab, decoder.hidden)
    embedding = OutputTensor("token_embd.weight", shape, change=_times(config.number("embedding_multiplier", 1.0)))
    head = OutputTensor("output.weight", shape, change=_times(config.number("lm_head_multiplier", 1.0)))
    if decoder.tied:
        return [SourceTensor(ENDS[0][0], shape, (embedding, head), TensorRole.EMBEDDING)]
    return [SourceTensor(ENDS[0][0], shape, (embedding,)), SourceTensor("lm_head.weight", shape, (head,))]


FAMILY = Family(
    name="falcon_h1",
    title="Falcon-H1",
    classes=("FalconH1ForCausalLM",),
    text=text,
)
