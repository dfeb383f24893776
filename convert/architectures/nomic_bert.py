"""Nomic's embedders: BERT with rotary positions and a gated MLP; v2 has experts in every second layer instead.

config.json is their publisher's own, spelled as GPT-2's. llama.cpp adds no bias behind experts, and the file has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, read_decoder
from convert.architectures._encoder import NO_POOLER, Encoding, encoder_spec, token_types
from convert.architectures._family import EMBEDDINGS, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, OutputTensor, SourceTensor, TensorRule, expand
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GATED = Graph(
    "nomic-bert",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-12,
    activations=("swiglu",),
    activation="activation_function",
    rotary=Rotary((), theta=1000.0),
    grouped=False,
    square=True,
)
MIXED = replace(GATED, name="nomic-bert-moe", activations=("gelu",))
SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "rope_theta": "rotary_emb_base",
}
TRAINED = {8192: 2048, 2048: 512}  # n_positions of v1 and of v2 -> tokens that it was trained for
L = "encoder.layers.{i}"
EMBEDDED: tuple[TensorRule, ...] = (
    ("embeddings.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
)
NORMS: tuple[TensorRule, ...] = (
    ("emb_ln.weight", "token_embd_norm.weight", ("hidden",)),
    (f"{L}.norm1.weight", f"{B}.attn_output_norm.weight", ("hidden",)),
    (f"{L}.norm2.weight", f"{B}.layer_output_norm.weight", ("hidden",)),
)
ATTENTION: tuple[TensorRule, ...] = (
    (f"{L}.attn.Wqkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
)
GATED_MLP: tuple[TensorRule, ...] = (
    (f"{L}.mlp.fc11.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.fc12.weight", f"{B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{L}.mlp.fc2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
MLP: tuple[TensorRule, ...] = (
    (f"{L}.mlp.fc1.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.fc2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
ROUTER: tuple[TensorRule, ...] = ((f"{L}.mlp.router.layer.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),)
PLAIN = {
    "causal": False,
    "prenorm": False,
    "rotary_emb_interleaved": False,
    "rotary_emb_fraction": 1.0,
    "use_rms_norm": False,
}
EXPERT_BIAS = LeftOut("mlp.experts.bias", "llama.cpp's graph adds none behind experts")
MOST_EXPERTS = 1024


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with experts where it has some. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    mixed = bool(values.get("moe_every_n_layers"))
    decoder = read_decoder(config, MIXED if mixed else GATED)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's nomic-bert graph has no other")
    for key in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        config.require(key, mixed, "llama.cpp's nomic-bert graph has biases where it has experts, and no others")
    decoder = replace(decoder, context=TRAINED.get(decoder.context, decoder.context))
    decoder = decoder.having(types=token_types(config))
    left_out = [LeftOut("", NO_POOLER, prefix="pooler."), EXPERT_BIAS]
    fields = [Field.uint32("tokenizer.ggml.token_type_count", decoder.sizes["types"])]
    if not mixed:
        rows = (*EMBEDDED, *NORMS, *biases(NORMS), *ATTENTION, *GATED_MLP)
        return encoder_spec(decoder, rows, Encoding(fields, left_out=left_out))
    rows = (*EMBEDDED, *NORMS, *ATTENTION, *biases(NORMS, ATTENTION))
    more, tensors = _experts(decoder)
    return encoder_spec(decoder, rows, Encoding([*fields, *more], left_out=left_out, tensors=tensors))


def _experts(decoder: Decoder) -> tuple[list[Field], list[SourceTensor]]:
    """The fields of experts, and the MLPs of all layers."""
    config, name = decoder.config, decoder.graph.name
    every = config.size("moe_every_n_layers", most=MOST_EXPERTS)
    count, used = config.size("num_experts", most=MOST_EXPERTS), config.size("moe_top_k", most=MOST_EXPERTS)
    if used > count:
        config.complain("moe_top_k", used, f"at most num_experts, {count}")
    fields = [
        Field.uint32(f"{name}.moe_every_n_layers", every),
        Field.uint32(f"{name}.expert_count", count),
        Field.uint32(f"{name}.expert_used_count", used),
    ]
    mixed = [layer for layer in range(decoder.layers) if every > 1 and layer % every == 1]
    dense = [layer for layer in range(decoder.layers) if layer not in mixed]
    sizes = {**decoder.sizes, "experts": count}
    plain = expand((*MLP, *biases(MLP)), sizes, None, dense)
    return fields, [*plain, *expand(ROUTER, sizes, None, mixed), *_matrices(decoder, count, mixed)]


def _matrices(decoder: Decoder, experts: int, layers: Sequence[int]) -> Iterator[SourceTensor]:
    """Of each layer with experts the two matrices that hold all of theirs, expert after expert."""
    ffn, hidden = decoder.ffn, decoder.hidden
    shape = (experts, ffn, hidden)
    for layer in layers:
        start = f"encoder.layers.{layer}.mlp.experts.mlp"
        up = OutputTensor(f"blk.{layer}.ffn_up_exps.weight", shape, lambda values: values.reshape(shape))
        down = OutputTensor(
            f"blk.{layer}.ffn_down_exps.weight",
            (experts, hidden, ffn),
            lambda values: values.reshape(shape).swapaxes(1, 2),
            transposed=True,
        )
        yield SourceTensor(f"{start}.w1", (experts * ffn, hidden), (up,), TensorRole.EXPERT_UP)
        yield SourceTensor(f"{start}.w2", (experts * ffn, hidden), (down,), TensorRole.EXPERT_DOWN)


FAMILY = Family(
    name="nomic_bert",
    title="Nomic's embedders",
    classes=("NomicBertModel",),
    text=text,
    gives={"NomicBertModel": EMBEDDINGS},
    graphs=TASK_GRAPH,
)
