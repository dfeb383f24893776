"""T5, mT5 and UMT5: an encoder that reads, a decoder that writes and looks at what was read; or the encoder alone.

Positions are learned biases on the scores, by how far two tokens are apart. T5's first version divides what its decoder
gives by the root of its width, which llama.cpp's graph does not: here the decoder's last norm is smaller by as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._family import ANSWERS, EMBEDDINGS, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, Transform, expand
from convert.architectures._rows import HEAD
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source import quantized
from convert.source.model_types import class_of

ENCODER, HEADLESS = ("T5EncoderModel",), ("UMT5Model",)
EVERY_LAYER = "umt5"  # the model_type whose layers have biases of their own
SCALED = "t5"  # the one whose first version divides
PLAIN, GATED = "relu", "gated-gelu"  # feed_forward_proj: what llama.cpp's graph has
DISTANCE = 128  # beyond which llama.cpp takes all distances for one
CONTEXT = 512  # transformers' own, where the config says none
DEFAULTS = {
    "d_kv": 64,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
}
EMBEDDING: TensorRule = ("shared.weight", "token_embd.weight", ("vocab", "hidden"))
COPIES = tuple(
    LeftOut(f"{part}.embed_tokens.weight", "the embedding once more", "shared.weight")
    for part in ("encoder", "decoder")
)
CROSS_BIAS = LeftOut("EncDecAttention.relative_attention_bias.weight", "transformers uses no positions there")


@dataclass(frozen=True)
class Stack:
    """One of the two stacks: how its tensors are called in a checkpoint and in a file."""

    source: str
    target: str
    mlp: int  # which of a layer's parts its MLP is

    def rows(self, gated: bool) -> Iterator[TensorRule]:
        """The tensors of every layer, but the biases by distance."""
        at, to = f"{self.source}.block.{{i}}.layer", f"{self.target}.blk.{{i}}"
        yield (f"{at}.0.layer_norm.weight", f"{to}.attn_norm.weight", ("hidden",))
        yield from _attention(f"{at}.0.SelfAttention", f"{to}.attn")
        if self.mlp == 2:
            yield (f"{at}.1.layer_norm.weight", f"{to}.cross_attn_norm.weight", ("hidden",))
            yield from _attention(f"{at}.1.EncDecAttention", f"{to}.cross_attn")
        yield (f"{at}.{self.mlp}.layer_norm.weight", f"{to}.ffn_norm.weight", ("hidden",))
        names = {"wi_0": "ffn_gate", "wi_1": "ffn_up"} if gated else {"wi": "ffn_up"}
        for name, target in names.items():
            yield (f"{at}.{self.mlp}.DenseReluDense.{name}.weight", f"{to}.{target}.weight", ("ffn", "hidden"))
        yield (f"{at}.{self.mlp}.DenseReluDense.wo.weight", f"{to}.ffn_down.weight", ("hidden", "ffn"))

    @property
    def distances(self) -> TensorRule:
        """The biases by distance."""
        name = f"{self.source}.block.{{i}}.layer.0.SelfAttention.relative_attention_bias.weight"
        return (name, f"{self.target}.blk.{{i}}.attn_rel_b.weight", ("buckets", "heads"))

    @property
    def norm(self) -> TensorRule:
        """Behind the last layer."""
        return (f"{self.source}.final_layer_norm.weight", f"{self.target}.output_norm.weight", ("hidden",), self.target)


def _attention(source: str, target: str) -> Iterator[TensorRule]:
    for name in "qkv":
        yield (f"{source}.{name}.weight", f"{target}_{name}.weight", ("inner", "hidden"))
    yield (f"{source}.o.weight", f"{target}_o.weight", ("hidden", "inner"))


READER, WRITER = Stack("encoder", "enc", 1), Stack("decoder", "dec", 2)


def text(values: JsonObject) -> GraphSpec:
    """Both stacks, or the encoder alone. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    alone = class_of(values) in ENCODER
    gated = config.word("feed_forward_proj", PLAIN, (PLAIN, GATED), "llama.cpp's t5 graph has no other") == GATED
    config.require("relative_attention_max_distance", DISTANCE, "llama.cpp's t5 graph has no other")
    if config.has(quantized.KEY):
        config.problems.append(quantized.problem(config.values[quantized.KEY], config.where))
    layers = {READER: config.size("num_layers", most=MAX_LAYERS)}
    if not alone:
        layers[WRITER] = config.size("num_decoder_layers", layers[READER], MAX_LAYERS)
        if layers[WRITER] > layers[READER]:
            wanted = f"at most num_layers, {layers[READER]}: llama.cpp has a cache for no more"
            config.complain("num_decoder_layers", layers[WRITER], wanted)
    sizes = _sizes(config)
    name = "t5encoder" if alone else "t5"
    fields = _fields(config, name, layers[READER], None if alone else layers.get(WRITER))
    rows = [EMBEDDING, *([] if alone or class_of(values) in HEADLESS or _is_tied(config) else [HEAD])]
    tensors = [
        *expand(rows, sizes),
        *(t for stack in layers for t in _stack(config, stack, layers[stack], gated, sizes)),
    ]
    config.finish()
    head = (
        () if len(rows) > 1 else (LeftOut("lm_head.weight", "tied: llama.cpp reads token_embd.weight", EMBEDDING[0]),)
    )
    return GraphSpec(name, tuple(fields), tuple(tensors), left_out=(*COPIES, CROSS_BIAS, *head))


def _stack(config: Config, stack: Stack, layers: int, gated: bool, sizes: dict[str, int]) -> Iterator[SourceTensor]:
    biased = layers if config.values.get("model_type") == EVERY_LAYER else 1
    transforms = {WRITER.target: _smaller(sizes["hidden"])} if _divides(config) else {}
    yield from expand([stack.norm], sizes, transforms)
    yield from expand([stack.distances], sizes, None, min(layers, biased))
    yield from expand(stack.rows(gated), sizes, None, layers)


def _smaller(width: int) -> Transform:
    factor = np.float32(1 / math.sqrt(width))
    return Transform(change=lambda values: values * factor)


def _is_tied(config: Config) -> bool:
    """What the config says; transformers 5 says so of every T5, and keeps beside it whether it was one."""
    return config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", True))


def _divides(config: Config) -> bool:
    """Whether transformers divides what goes into the head: of T5's first version, and of no other."""
    return config.values.get("model_type", SCALED) == SCALED and _is_tied(config)


def _sizes(config: Config) -> dict[str, int]:
    heads = config.size("num_heads")
    return {
        "vocab": config.size("vocab_size"),
        "hidden": config.size("d_model"),
        "ffn": config.size("d_ff"),
        "inner": heads * config.size("d_kv"),
        "heads": heads,
        "buckets": config.size("relative_attention_num_buckets"),
    }


def _fields(config: Config, name: str, layers: int, decoder: int | None) -> list[Field]:
    epsilon, head = config.number("layer_norm_epsilon"), config.size("d_kv")
    fields = [
        Field.uint32(f"{name}.context_length", config.size("n_positions", CONTEXT, MAX_CONTEXT)),
        Field.uint32(f"{name}.embedding_length", config.size("d_model")),
        Field.uint32(f"{name}.feed_forward_length", config.size("d_ff")),
        Field.uint32(f"{name}.block_count", layers),
        Field.uint32(f"{name}.attention.head_count", config.size("num_heads")),
        Field.uint32(f"{name}.attention.key_length", head),
        Field.uint32(f"{name}.attention.value_length", head),
        Field.uint32(f"{name}.attention.relative_buckets_count", config.size("relative_attention_num_buckets")),
        Field.float32(f"{name}.attention.layer_norm_epsilon", epsilon),
        Field.float32(f"{name}.attention.layer_norm_rms_epsilon", epsilon),
    ]
    if decoder is not None:
        start = config.size("decoder_start_token_id", config.size("pad_token_id", 0, least=0), least=0)
        fields.append(Field.uint32(f"{name}.decoder_block_count", decoder))
        fields.append(Field.uint32(f"{name}.decoder_start_token_id", start))
    return fields


WRITES = (
    "T5ForConditionalGeneration",
    "T5WithLMHeadModel",
    "MT5ForConditionalGeneration",
    "UMT5ForConditionalGeneration",
    *HEADLESS,
)
FAMILY = Family(
    name="t5",
    title="T5, mT5 and UMT5",
    classes=(*WRITES, *ENCODER),
    text=text,
    gives={**dict.fromkeys(WRITES, ANSWERS), **dict.fromkeys(ENCODER, EMBEDDINGS)},
    graphs=TASK_GRAPH,
)
