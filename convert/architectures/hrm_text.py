"""HRM-Text: two stacks of gated layers, a low and a high one, gone through in turns; norms have no weights."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("hrm_text", default_epsilon=1e-6, rotary=Rotary(("linear", "yarn")), grouped=False)
L = "model.STACK_module.layers.{i}"
ENDS: tuple[TensorRule, ...] = (
    ("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    ("model.z_L_init", "hrm.z_l_init", ("hidden",)),
)
GATED = (f"{B}.attn_gate.weight", f"{B}.attn_q.weight", f"{B}.attn_k.weight", f"{B}.attn_v.weight")
ROWS: tuple[TensorRule, ...] = (
    (f"{L}.attn.gqkv_proj.weight", GATED, ("q+q+kv+kv", "hidden")),
    (f"{L}.attn.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.gate_up_proj.weight", (f"{B}.ffn_gate.weight", f"{B}.ffn_up.weight"), ("ffn+ffn", "hidden")),
    (f"{L}.mlp.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
PREFIX = "the source may look ahead within a prompt (prefix_lm), llama.cpp looks back only"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128, H_cycles=2, L_cycles=3)
    if config.has("num_layers_per_stack"):  # transformers counts every pass through a layer
        config = config.spelled(num_hidden_layers="num_layers_per_stack")
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's hrm_text graph has no biases")
    high, low = config.size("H_cycles", most=MAX_LAYERS), config.size("L_cycles", most=MAX_LAYERS)
    passes = decoder.layers * high * (low + 1)
    if passes > MAX_LAYERS:
        got = f"{decoder.layers} layers in {high} x {low + 1} cycles"
        config.complain("H_cycles", got, f"at most {MAX_LAYERS} passes through a layer")
    prefix = config.flag("prefix_lm", True)
    numbers = {
        "block_count": passes,
        "rope.dimension_count": decoder.head_dim,
        "hrm.layers_per_stack": decoder.layers,
        "hrm.h_cycles": high,
        "hrm.l_cycles": low,
    }
    fields = [
        *(Field.uint32(f"hrm_text.{key}", value) for key, value in numbers.items()),
        Field.float32("hrm_text.embedding_scale", _scale(config)),
        Field.boolean("hrm_text.hrm.prefix_lm", prefix),
        *head_size_fields(decoder),
    ]
    stacks = Extra(tensors=(*_stack(decoder, "L", 0), *_stack(decoder, "H", decoder.layers)), notes=[PREFIX] * prefix)
    return decoder_spec(decoder, ENDS, fields, extra=stacks)


def _scale(config: Config) -> float:
    """What embeddings are multiplied by."""
    return config.number("embedding_scale", 1.0 / config.number("initializer_range", 0.02))


def _stack(decoder: Decoder, stack: str, first: int) -> Iterator[SourceTensor]:
    """The tensors of a stack, whose layers are llama.cpp's from `first` on."""
    for layer in range(decoder.layers):
        rows = [_placed(row, stack, layer, first + layer) for row in ROWS]
        yield from expand(rows, decoder.sizes)


def _placed(row: TensorRule, stack: str, layer: int, block: int) -> TensorRule:
    source, names, dimensions, *_ = row
    targets = (names,) if isinstance(names, str) else names
    made = tuple(name.replace("{i}", str(block)) for name in targets)
    return source.replace("STACK", stack).replace("{i}", str(layer)), made, dimensions


FAMILY = Family(
    name="hrm_text",
    title="HRM-Text",
    classes=("HrmTextForCausalLM",),
    text=text,
    graphs="",  # more than one pass through a layer: no cut of ours fits
)
