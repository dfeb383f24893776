"""Nemotron-H and Nemotron 3: every layer is one thing, Mamba 2, attention, an MLP or experts."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import NO_POSITIONS, Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, expand
from convert.architectures._rows import B
from convert.architectures._state_space import mamba2_rows, read_mamba2
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "nemotron_h",
    layer_norm=True,  # where the file has the epsilon, though the norms are RMS norms
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=("relu2",),
    activation="mlp_hidden_act",
    rotary=None,
    mlp=False,
)
DEFAULTS = {  # transformers' own where the config is silent
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "head_dim": 128,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
WORDS = {  # Bamba's word -> theirs
    "mamba_n_heads": "mamba_num_heads",
    "mamba_d_head": "mamba_head_dim",
    "mamba_n_groups": "n_groups",
    "mamba_d_state": "ssm_state_size",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_proj_bias": "use_bias",
}
MAMBA, ATTENTION, MLP, MOE = KINDS = ("linear_attention", "full_attention", "mlp", "moe")
LETTERS = {"M": MAMBA, "*": ATTENTION, "-": MLP, "E": MOE}
OLDER = {"mamba": MAMBA, "attention": ATTENTION, **{kind: kind for kind in KINDS}}
LAYER = "backbone.layers.{i}"
MIXER = f"{LAYER}.mixer"
ALWAYS: tuple[TensorRule, ...] = (
    ("backbone.embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("backbone.norm_f.weight", "output_norm.weight", ("hidden",)),
    (f"{LAYER}.norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
)
# no head turns; its values are dealt out as upstream does it, in queries and keys alike
ATTENTION_ROWS: tuple[TensorRule, ...] = (
    (f"{MIXER}.q_proj.weight", f"{B}.attn_q.weight", ("q", "hidden"), "q"),
    (f"{MIXER}.k_proj.weight", f"{B}.attn_k.weight", ("kv", "hidden"), "k"),
    (f"{MIXER}.v_proj.weight", f"{B}.attn_v.weight", ("kv", "hidden")),
    (f"{MIXER}.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
)
MLP_ROWS: tuple[TensorRule, ...] = (
    (f"{MIXER}.up_proj.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{MIXER}.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
MOE_ROWS: tuple[TensorRule, ...] = (
    (f"{MIXER}.gate.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (f"{MIXER}.gate.e_score_correction_bias", f"{B}.exp_probs_b.bias", ("experts",)),
    (f"{MIXER}.experts.{{e}}.up_proj.weight", f"{B}.ffn_up_exps.weight", ("expert_ffn", "latent")),
    (f"{MIXER}.experts.{{e}}.down_proj.weight", f"{B}.ffn_down_exps.weight", ("latent", "expert_ffn")),
    (f"{MIXER}.shared_experts.up_proj.weight", f"{B}.ffn_up_shexp.weight", ("shared", "hidden")),
    (f"{MIXER}.shared_experts.down_proj.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "shared")),
)
LATENT_ROWS: tuple[TensorRule, ...] = (
    (f"{MIXER}.fc1_latent_proj.weight", f"{B}.ffn_latent_down.weight", ("latent", "hidden")),
    (f"{MIXER}.fc2_latent_proj.weight", f"{B}.ffn_latent_up.weight", ("hidden", "latent")),
)
DRAFTS = LeftOut("", "a layer that predicts tokens further ahead", prefix="mtp.")
STEPS_NOTE = "the source takes no time step below {:g}, llama.cpp every one"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(**WORDS)
    kinds = _kinds(config)
    config = Config({**config.values, "num_hidden_layers": len(kinds)}, config.where, config.problems, config.spellings)
    sparse = MOE in kinds
    decoder = read_decoder(config, replace(GRAPH, name="nemotron_h_moe" if sparse else "nemotron_h"))
    if sparse and MLP in kinds:
        config.complain(
            "layers_block_type", "both mlp and moe", "one of them", "llama.cpp's graph has one or the other"
        )
    config.require("mlp_bias", False, "llama.cpp's graph has no such biases")
    config.require("attention_bias", False, "transformers never has them")
    mamba = read_mamba2(config, config.size("mamba_num_heads") * config.size("mamba_head_dim"))
    decoder = decoder.having(**mamba.sizes, ffn=config.size("intermediate_size"))
    fields = [*_fields(decoder, kinds), *mamba.fields(decoder.graph.name)]
    tensors = [
        *expand(mamba2_rows(MIXER), decoder.sizes, mamba.transforms, _numbers(kinds, MAMBA)),
        *expand(ATTENTION_ROWS, decoder.sizes, side_by_side(decoder), _numbers(kinds, ATTENTION)),
        *expand(MLP_ROWS, decoder.sizes, layers=_numbers(kinds, MLP)),
    ]
    if sparse:
        more, expert_tensors = _experts(decoder, kinds)
        fields, tensors = [*fields, *more], [*tensors, *expert_tensors]
    low = config.number("time_step_min", 0.001, above=False)
    notes = [STEPS_NOTE.format(low)] if low else []
    return decoder_spec(decoder, ALWAYS, fields, extra=Extra(tensors=tensors, left_out=[DRAFTS], notes=notes))


def _kinds(config: Config) -> tuple[str, ...]:
    """What each layer is, by a word of letters or a list of words."""
    pattern = config.values.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        config.words("hybrid_override_pattern", len(pattern), tuple(LETTERS)) if not set(pattern) <= set(
            LETTERS
        ) else ()
        return tuple(LETTERS.get(letter, MAMBA) for letter in pattern)
    listed = config.values.get("layers_block_type", config.values.get("layer_types"))
    key = "layers_block_type" if config.has("layers_block_type") else "layer_types"
    count = len(listed) if isinstance(listed, list | tuple) else 0
    return tuple(OLDER[word] for word in config.words(key, count, tuple(OLDER))) or (MAMBA, ATTENTION, MLP)


def _fields(decoder: Decoder, kinds: tuple[str, ...]) -> list[Field]:
    """The hyper-parameters but for those of Mamba and of experts."""
    name, sizes, config = decoder.graph.name, decoder.sizes, decoder.config
    width = config.size("moe_intermediate_size", 7688) if MOE in kinds else sizes["ffn"]
    epsilons = [
        Field.float32(f"{name}.attention.layer_norm_rms_epsilon", decoder.epsilon)
        for key in ("rms_norm_eps", "norm_eps")
        if config.has(key)
    ]
    return [
        Field.uint32(f"{name}.context_length", NO_POSITIONS),
        Field.uint32(f"{name}.vocab_size", decoder.vocab),
        Field.int32s(f"{name}.feed_forward_length", [width if kind in (MLP, MOE) else 0 for kind in kinds]),
        Field.int32s(
            f"{name}.attention.head_count_kv", [decoder.kv_heads if kind == ATTENTION else 0 for kind in kinds]
        ),
        Field.uint32(f"{name}.attention.key_length", decoder.head_dim),
        Field.uint32(f"{name}.attention.value_length", decoder.head_dim),
        Field.uint32(f"{name}.rope.dimension_count", decoder.hidden // decoder.heads),  # nothing turns
        Field.boolean(f"{name}.rope.scaling.finetuned", False),
        *epsilons[:1],
    ]


def _experts(decoder: Decoder, kinds: tuple[str, ...]) -> tuple[list[Field], list[SourceTensor]]:
    """The fields and tensors of layers of experts."""
    config, name = decoder.config, decoder.graph.name
    experts = read_experts(decoder, count="n_routed_experts")
    latent = config.size("moe_latent_size") if config.has("moe_latent_size") else 0
    shared = config.size("moe_shared_expert_intermediate_size", 7688)
    decoder = with_experts(decoder, experts).having(shared=shared, latent=latent or decoder.hidden)
    groups = config.size("n_group", 1, most=experts.count)
    used = config.size("topk_group", 1, most=groups)
    fields = [
        *expert_fields(decoder, experts),
        Field.uint32(f"{name}.expert_shared_feed_forward_length", shared),
        Field.uint32(f"{name}.expert_shared_count", config.size("n_shared_experts", 1)),
        Field.boolean(f"{name}.expert_weights_norm", config.flag("norm_topk_prob", True)),
        Field.float32(f"{name}.expert_weights_scale", config.number("routed_scaling_factor", 1.0)),
        Field.uint32(f"{name}.expert_group_count", groups),
        Field.uint32(f"{name}.expert_group_used_count", used),
        *([Field.uint32(f"{name}.moe_latent_size", latent)] if latent else []),
    ]
    rows = (*MOE_ROWS, *(LATENT_ROWS if latent else ()))
    return fields, list(expand(rows, decoder.sizes, layers=_numbers(kinds, MOE)))


def _numbers(kinds: tuple[str, ...], kind: str) -> list[int]:
    return [i for i, one in enumerate(kinds) if one == kind]


FAMILY = Family(
    name="nemotron_h",
    title="Nemotron-H, Nemotron 3",
    classes=("NemotronHForCausalLM",),
    text=text,
    renames=(("model.", "backbone."),),
)
