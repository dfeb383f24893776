"""Gemma 3n: four copies of the stream that take turns (AltUp), a low-rank residual beside attention (Laurel), an
embedding for each layer; the last layers take keys and values from earlier ones.

llama.cpp's graph (models/gemma3n.cpp) has most numbers of the two published models built in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import (
    GELU_TANH,
    Decoder,
    Extra,
    Graph,
    decoder_spec,
    head_size_fields,
    read_decoder,
)
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, Transform
from convert.architectures._layers import WIDTHS, listed
from convert.architectures._nested import inner_config
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM, B, L
from convert.architectures._window import FULL, SLIDING, sliding_layers
from convert.architectures.gemma2 import NORMS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "gemma3n",
    activations=GELU_TANH,
    activation="hidden_activation",
    rotary=Rotary((), theta=1e6),
    windowed=True,
    tied=True,
)
DEFAULTS: Mapping[str, object] = {  # transformers' own
    "vocab_size": 262400,
    "vocab_size_per_layer_input": 262144,
    "hidden_size": 2048,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "num_kv_shared_layers": 15,
}
FIXED = {  # built into llama.cpp's graph
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "laurel_rank": 64,
    "hidden_size_per_layer_input": 256,
    "attention_bias": False,
}
OWN_KV = 20  # layers with keys and values of their own; the others take those of the last two of these
SPARSE_LAYERS, SPARSITY, SPARSITY_SCALE = 10, 0.95, 1.6448535919189453  # the quantile of 0.95, as torch has it
PATTERN = 5  # every fifth layer sees everything, where layer_types are not said

ALTUP, LAUREL = f"{L}.altup", f"{L}.laurel"
PER_LAYER_ENDS: tuple[TensorRule, ...] = (
    ("model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", ("layer_vocab", "layer_inputs"), "padded"),
    ("model.per_layer_model_projection.weight", "per_layer_model_proj.weight", ("layer_inputs", "hidden")),
    ("model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", ("layer_input",)),
)
PER_LAYER: tuple[TensorRule, ...] = (
    (f"{L}.per_layer_input_gate.weight", f"{B}.inp_gate.weight", ("layer_input", "hidden")),
    (f"{L}.per_layer_projection.weight", f"{B}.proj.weight", ("hidden", "layer_input")),
    (f"{L}.post_per_layer_input_norm.weight", f"{B}.post_norm.weight", ("hidden",)),
)
ALTERNATING: tuple[TensorRule, ...] = (
    (f"{ALTUP}.correction_coefs.weight", f"{B}.altup_correct_coef.weight", ("copies", "copies")),
    (f"{ALTUP}.correct_output_scale", f"{B}.altup_correct_scale.weight", ("hidden",)),
    (f"{ALTUP}.prediction_coefs.weight", f"{B}.altup_predict_coef.weight", ("copies_squared", "copies")),
    (f"{ALTUP}.modality_router.weight", f"{B}.altup_router.weight", ("copies", "hidden")),
    (f"{ALTUP}.router_norm.weight", f"{B}.altup_router_norm.weight", ("hidden",)),
    (f"{LAUREL}.linear_left.weight", f"{B}.laurel_l.weight", ("rank", "hidden")),
    (f"{LAUREL}.linear_right.weight", f"{B}.laurel_r.weight", ("hidden", "rank")),
    (f"{LAUREL}.post_laurel_norm.weight", f"{B}.laurel_post_norm.weight", ("hidden",)),
)
COPIES: tuple[TensorRule, ...] = (  # {e} is the copy here
    ("model.altup_projections.{e}.weight", "altup_proj.weight", ("hidden", "hidden")),
    ("model.altup_unembed_projections.{e}.weight", "altup_unembd_proj.weight", ("hidden", "hidden")),
)
ROWS = (*ENDS, *PER_LAYER_ENDS, *COPIES, *NORMS, *ATTENTION, *QK_NORM, *MLP, *PER_LAYER, *ALTERNATING)
OF_KV = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight")
NESTED = ("model.language_model.", "model.")
TOWERS = tuple(
    LeftOut("", "of a tower or its projector, which are no part of the language model", prefix=f"model.{name}.")
    for name in ("vision_tower", "audio_tower", "embed_vision", "embed_audio")
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    said = inner_config(values).with_defaults(**DEFAULTS)
    config = one_width(said)
    decoder = _with_sizes(read_decoder(config, GRAPH))
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's gemma3n graph has no other")
    shared = _shared_layers(decoder)
    fields = [
        *head_size_fields(decoder),
        *_window_fields(decoder),
        Field.float32("gemma3n.final_logit_softcapping", config.number("final_logit_softcapping")),
        Field.uint32("gemma3n.altup.active_idx", 0),
        Field.uint32("gemma3n.altup.num_inputs", decoder.sizes["copies"]),
        Field.uint32("gemma3n.embedding_length_per_layer_input", decoder.sizes["layer_input"]),
        Field.uint32("gemma3n.attention.shared_kv_layers", shared),
        Field.float32s("gemma3n.activation_sparsity_scale", _sparsity(decoder)),
    ]
    transforms = {"padded": padded(decoder)}
    spec = decoder_spec(decoder, ROWS, fields, transforms, Extra(left_out=TOWERS))
    tensors = tuple(_shared(spec.tensors, decoder.layers - shared))
    widths = said.values["intermediate_size"]
    numbers = {WIDTHS: widths} if isinstance(widths, list) else {}
    return replace(spec, fields=tuple(listed(spec.fields, numbers)), tensors=tensors)


def one_width(config: Config) -> Config:
    """The config with one width of the MLPs, where it is said for each layer."""
    widths = config.values["intermediate_size"]
    if not isinstance(widths, list):
        return config
    if len(set(map(str, widths))) != 1:
        config.complain("intermediate_size", widths, "one number for all layers", "llama.cpp's graph has one width")
    return Config({**config.values, "intermediate_size": widths[0] if widths else 1}, config.where, config.problems)


def padded(decoder: Decoder) -> Transform:
    """The embedding of layers has no rows for the last tokens, places of images and sound: zeros in the file."""
    vocab, of_layers = decoder.vocab, decoder.sizes["layer_vocab"]
    if of_layers > vocab:
        decoder.config.complain("vocab_size_per_layer_input", of_layers, f"at most vocab_size, {vocab}")
    return Transform(zero_rows=max(0, vocab - of_layers))


def _with_sizes(decoder: Decoder) -> Decoder:
    config = decoder.config
    copies, of_layer = config.size("altup_num_inputs", 4, 64), config.size("hidden_size_per_layer_input")
    return decoder.having(
        layer_vocab=config.size("vocab_size_per_layer_input"),
        layer_input=of_layer,
        layer_inputs=of_layer * decoder.layers,
        copies=copies,
        copies_squared=copies * copies,
        experts=copies - 1,  # {e} of COPIES
        rank=config.size("laurel_rank", 64),
    )


def _shared_layers(decoder: Decoder) -> int:
    """How many layers take keys and values from earlier ones, of which llama.cpp knows those behind the 20th."""
    config, types = decoder.config, _sliding(decoder)
    shared = config.size("num_kv_shared_layers", least=0, most=MAX_CONTEXT)
    wanted = max(0, decoder.layers - OWN_KV)
    if shared != wanted:
        why = f"llama.cpp's gemma3n graph shares those of the first {OWN_KV} layers with all others"
        config.complain("num_kv_shared_layers", shared, str(wanted), why)
    elif shared and types[OWN_KV - 2 : OWN_KV] != (True, False):
        got = config.values.get("layer_types")
        wanted_types = f"{SLIDING} and {FULL} in layers {OWN_KV - 2} and {OWN_KV - 1}"
        config.complain("layer_types", got, wanted_types, "the layers behind take their keys and values")
    return shared


def _sliding(decoder: Decoder) -> tuple[bool, ...]:
    return sliding_layers(decoder.config, decoder.layers, PATTERN)


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    yield Field.uint32("gemma3n.attention.sliding_window", decoder.config.size("sliding_window", most=MAX_CONTEXT))
    yield Field.booleans("gemma3n.attention.sliding_window_pattern", _sliding(decoder))
    yield Field.float32("gemma3n.rope.freq_base_swa", sliding_theta(decoder.config, 10000.0))


def _sparsity(decoder: Decoder) -> list[float]:
    """How many standard deviations above the mean an MLP's gate must be, by layer: built into llama.cpp's graph."""
    layers, config = decoder.layers, decoder.config
    sparse = min(layers, SPARSE_LAYERS)
    key, usual = "activation_sparsity_pattern", [SPARSITY] * sparse + [0.0] * (layers - sparse)
    # transformers' own where the config is silent: none in models of ten layers and fewer
    found = config.numbers(key, layers) if config.has(key) else usual if layers > SPARSE_LAYERS else [0.0] * layers
    if list(found) != usual:
        got = config.values.get(key)
        config.complain(
            key, got, f"{SPARSITY} in the first {SPARSE_LAYERS} layers, 0 in all others", "llama.cpp has no other"
        )
    return [SPARSITY_SCALE if value else float("-inf") for value in usual]


def _shared(tensors: tuple[SourceTensor, ...], own: int) -> Iterator[SourceTensor]:
    """The tensors; keys and values of the layers that share are nowhere used, but llama.cpp does not load without."""
    for tensor in tensors:
        block, _, name = tensor.outputs[0].name.removeprefix("blk.").partition(".")
        shares = name in OF_KV and int(block) >= own
        yield replace(tensor, absent="zeros") if shares else tensor


FAMILY = Family(
    name="gemma3n",
    title="Gemma 3n",
    classes=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    text=text,
    renames=(NESTED,),
)
