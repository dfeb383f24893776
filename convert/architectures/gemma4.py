"""Gemma 4: layers with a window and layers without, each kind with heads of its own size; an embedding for each layer,
or experts beside the MLP; the last layers may take keys and values from earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import GELU_TANH, Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import Generated, GraphSpec, LeftOut, SourceTensor, TensorRule, expand
from convert.architectures._layers import KV_HEADS, WIDTHS, listed
from convert.architectures._nested import inner_config
from convert.architectures._rope import sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM, B, L
from convert.architectures._window import sliding_layers
from convert.architectures.gemma2 import NORMS
from convert.architectures.gemma3n import NESTED, OF_KV, PER_LAYER, PER_LAYER_ENDS, TOWERS, padded
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("gemma4", activations=GELU_TANH, activation="hidden_activation", rotary=None, windowed=True, tied=True)
DEFAULTS: Mapping[str, object] = {  # transformers' own
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "hidden_size": 2304,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "num_kv_shared_layers": 0,
}
UNIFIED_DEFAULTS = {"hidden_size_per_layer_input": 0, "max_position_embeddings": 262144, "sliding_window": 1024}
PATTERN = 6  # every sixth layer sees everything, where layer_types are not said
NO_TURN = 1e30  # what a frequency is divided by that must not turn
SCALAR: TensorRule = (f"{L}.layer_scalar", f"{B}.layer_output_scale.weight", ("one",))
EXPERTS: tuple[TensorRule, ...] = (
    (f"{L}.router.proj.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (f"{L}.router.scale", f"{B}.ffn_gate_inp.scale", ("hidden",)),
    (f"{L}.router.per_expert_scale", f"{B}.ffn_down_exps.scale", ("experts",)),
    (f"{L}.experts.gate_up_proj", f"{B}.ffn_gate_up_exps.weight", ("experts", "expert_ffn+expert_ffn", "hidden")),
    (f"{L}.experts.down_proj", f"{B}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
    (f"{L}.post_feedforward_layernorm_1.weight", f"{B}.post_ffw_norm_1.weight", ("hidden",)),
    (f"{L}.pre_feedforward_layernorm_2.weight", f"{B}.pre_ffw_norm_2.weight", ("hidden",)),
    (f"{L}.post_feedforward_layernorm_2.weight", f"{B}.post_ffw_norm_2.weight", ("hidden",)),
)
OF_LAYERS: tuple[TensorRule, ...] = (*ATTENTION, *QK_NORM, *MLP)  # whose sizes differ between layers
UNIFIED = LeftOut("", "of a projector, which is no part of the language model", prefix="model.vision_embedder.")


@dataclass(frozen=True)
class Layer:
    """What differs between layers."""

    sliding: bool
    head_dim: int
    kv_heads: int
    ffn: int
    shares: bool  # takes keys and values from an earlier layer
    values: bool  # has values of its own; without, keys are the values

    def absent(self, name: str) -> str:
        """What becomes of a tensor that a checkpoint may be without; "never" for one that no checkpoint has."""
        if name == "attn_v.weight" and not self.values:
            return "never"
        return "nothing" if self.shares and name in OF_KV else ""


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = inner_config(values)
    unified = str(config.values.get("model_type")).startswith("gemma4_unified")
    config = config.with_defaults(**{**DEFAULTS, **(UNIFIED_DEFAULTS if unified else {})})
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's gemma4 graph has no biases")
    if config.values.get("use_bidirectional_attention") == "all":
        config.complain("use_bidirectional_attention", "all", "vision or none", "llama.cpp's text looks back only")
    config = _with_wide(config, decoder.layers)
    decoder = replace(decoder, config=config)
    layers = _layers(decoder)
    rows, fields = [*ENDS, *NORMS], [*_layer_fields(decoder, layers), *_rope_fields(decoder)]
    decoder, more, more_fields = _beside(decoder)
    one_size = expand([SCALAR], {"one": 1}, layers=decoder.layers)
    tensors = [*_of_layers(decoder, layers), *(replace(tensor, absent="nothing") for tensor in one_size)]
    extra = Extra(tensors=tensors, generated=[_frequencies(config)], left_out=[*TOWERS, UNIFIED])
    transforms = {"padded": padded(decoder)} if "layer_vocab" in decoder.sizes else {}
    spec = decoder_spec(decoder, [*rows, *more], [*fields, *more_fields], transforms, extra)
    return replace(spec, fields=tuple(listed(spec.fields, _numbers(config, layers))))


def _with_wide(config: Config, layers: int) -> Config:
    """The config with the sizes of layers without a window, which transformers 5 writes for each of them."""
    given = config.sub("per_layer_config").values
    found = [given[str(i)] for i, window in enumerate(_sliding(config, layers)) if not window and str(i) in given]
    if not found or not isinstance(found[0], Mapping):
        return config
    if len(given) != len(found) or any(one != found[0] for one in found):
        wanted = "the same for all layers without a window, and nothing for the others"
        config.complain("per_layer_config", given, wanted, "llama.cpp's gemma4 graph has no other")
    heads = found[0].get("num_key_value_heads")
    more = {"global_head_dim": found[0].get("head_dim"), **({"wide_kv_heads": heads} if heads is not None else {})}
    return replace(config, values={**config.values, **more})


def _sliding(config: Config, layers: int) -> tuple[bool, ...]:
    """Which layers have a window; the last one sees everything, always."""
    return (*sliding_layers(config, layers, PATTERN)[:-1], False)


def _layers(decoder: Decoder) -> list[Layer]:
    """Every layer, from transformers' reading of the config (configuration_gemma4.py)."""
    config, number = decoder.config, decoder.layers
    sliding = _sliding(config, number)
    alike = config.flag("attention_k_eq_v")
    key = "wide_kv_heads" if config.has("wide_kv_heads") else "num_global_key_value_heads"
    kv_heads = config.size(key, decoder.kv_heads) if alike or key == "wide_kv_heads" else decoder.kv_heads
    if decoder.heads % kv_heads:
        config.complain(key, kv_heads, f"a divisor of num_attention_heads, {decoder.heads}")
    wide = _even(config, "global_head_dim")
    _even(config, "head_dim")
    first_shared = number - config.size("num_kv_shared_layers", least=0, most=number)
    if not 0 < first_shared <= number or (first_shared < number and {*sliding[:first_shared]} != {*sliding}):
        got = config.values["num_kv_shared_layers"]
        config.complain("num_kv_shared_layers", got, "a layer of each kind in front of those that share")
    double = 2 if config.flag("use_double_wide_mlp") else 1
    return [
        Layer(
            window,
            decoder.head_dim if window else wide,
            decoder.kv_heads if window else kv_heads,
            decoder.ffn * (double if i >= first_shared else 1),
            i >= first_shared,
            window or not alike,
        )
        for i, window in enumerate(sliding)
    ]


def _even(config: Config, key: str) -> int:
    size = config.size(key)
    if size % 2:
        config.complain(key, size, "an even number", "RoPE rotates pairs of values")
    return size


def _of_layers(decoder: Decoder, layers: Iterable[Layer]) -> Iterator[SourceTensor]:
    """Attention and MLPs, layer by layer."""
    for i, layer in enumerate(layers):
        sizes = {
            **decoder.sizes,
            "head": layer.head_dim,
            "q": decoder.heads * layer.head_dim,
            "kv": layer.kv_heads * layer.head_dim,
            "ffn": layer.ffn,
        }
        for tensor in expand(OF_LAYERS, sizes, layers=[i]):
            absent = layer.absent(tensor.outputs[0].name.split(".", 2)[2])
            if absent != "never":
                yield replace(tensor, absent=absent)


def _beside(decoder: Decoder) -> tuple[Decoder, list[TensorRule], list[Field]]:
    """Rows and fields of embeddings for each layer, and of experts, where the model has them."""
    config = decoder.config
    of_layer = config.size("hidden_size_per_layer_input", least=0)
    rows: list[TensorRule] = []
    fields = [Field.uint32("gemma4.embedding_length_per_layer_input", of_layer)]
    if of_layer:
        of_layers = of_layer * decoder.layers
        vocab = config.size("vocab_size_per_layer_input")
        decoder = decoder.having(layer_vocab=vocab, layer_input=of_layer, layer_inputs=of_layers)
        rows += [*PER_LAYER_ENDS, *PER_LAYER]
    if config.flag("enable_moe_block"):
        moe = replace(decoder, config=config.spelled(num_experts_per_tok="top_k_experts"))
        experts = read_experts(moe)
        decoder = with_experts(decoder, experts)
        rows += EXPERTS
        fields += expert_fields(decoder, experts)
    return decoder, rows, fields


def _layer_fields(decoder: Decoder, layers: list[Layer]) -> Iterator[Field]:
    """Windows, head sizes, and what is shared."""
    config, prefix = decoder.config, "gemma4.attention"
    sizes = {"": config.size("global_head_dim"), "_swa": decoder.head_dim}
    for ending, size in sizes.items():
        yield Field.uint32(f"{prefix}.key_length{ending}", size)
        yield Field.uint32(f"{prefix}.value_length{ending}", size)
        yield Field.uint32(f"gemma4.rope.dimension_count{ending}", size)
    yield Field.uint32(f"{prefix}.sliding_window", config.size("sliding_window", most=MAX_CONTEXT))
    yield Field.booleans(f"{prefix}.sliding_window_pattern", [layer.sliding for layer in layers])
    yield Field.uint32(f"{prefix}.shared_kv_layers", sum(layer.shares for layer in layers))
    # 0 says there is none: where the file is silent, llama.cpp caps at 30 (llama-hparams.h)
    cap = config.number("final_logit_softcapping") if config.has("final_logit_softcapping") else 0.0
    yield Field.float32("gemma4.final_logit_softcapping", cap)


def _rope_fields(decoder: Decoder) -> Iterator[Field]:
    full = decoder.config.sub("rope_parameters").sub("full_attention")
    yield Field.float32("gemma4.rope.freq_base", full.number("rope_theta", 1e6))
    yield Field.float32("gemma4.rope.freq_base_swa", sliding_theta(decoder.config, 10000.0))


def _frequencies(config: Config) -> Generated:
    """Which pairs of a head turn in layers without a window: the first ones; all others are stood still."""
    full, size = config.sub("rope_parameters").sub("full_attention"), config.size("global_head_dim")
    kind = full.word("rope_type", "proportional", ("proportional", "default"), "llama.cpp's gemma4 graph has no other")
    full.require("factor", 1.0, "llama.cpp divides no frequencies here")
    share = full.number("partial_rotary_factor", 1.0 if full.values else 0.25) if kind == "proportional" else 1.0
    if share > 1:
        full.complain("partial_rotary_factor", share, "at most 1")
    turning = min(size // 2, int(size * share) // 2)
    return Generated("rope_freqs.weight", np.array([1.0] * turning + [NO_TURN] * (size // 2 - turning), np.float32))


def _numbers(config: Config, layers: list[Layer]) -> dict[str, list[int]]:
    """What need not be the same in all layers."""
    numbers: dict[str, list[int]] = {}
    if config.flag("use_double_wide_mlp"):
        numbers[WIDTHS] = [layer.ffn for layer in layers]
    if config.has("num_global_key_value_heads") or config.has("wide_kv_heads"):
        numbers[KV_HEADS] = [layer.kv_heads for layer in layers]
    return numbers


FAMILY = Family(
    name="gemma4",
    title="Gemma 4",
    classes=(
        "Gemma4ForCausalLM",
        "Gemma4UnifiedForConditionalGeneration",
    ),
    text=text,
    renames=(NESTED,),
    tested=("onnx",),
)
