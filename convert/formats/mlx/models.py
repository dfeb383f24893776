"""The models of mlx-lm and mlx-vlm that are made here, by config.json's `model_type`: what each does with tensors.

Facts of mlx-lm 0.32 (mlx_lm/models/*.py: `sanitize`, `quant_predicate`, `cast_predicate`) and mlx-vlm 0.7. A model that
is not here is refused. Each is proven on a tiny checkpoint: same names, shapes and bytes as `mlx_lm.convert` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convert.formats.mlx.rules import Model, Rule, View

CONVOLUTION = View(axes=(0, 2, 1))  # torch (out, in, width), MLX (out, width, in)
PATCHES = View(axes=(0, 2, 3, 1)), View(axes=(0, 2, 3, 4, 1))  # of images, of clips
TURNED = View(axes=(1, 0))
DOWN = ("gate_proj", "up_proj", "down_proj")
W123 = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
BIAS = ("e_score_correction_bias",)


def stacked(at: str = "mlp", to: str = "mlp.switch_mlp", names: Mapping[str, str] | None = None) -> tuple[Rule, ...]:
    """Experts that are tensors of their own, as one each of gate, up and down: the SwitchGLU that mlx-lm has."""
    known = names or dict.fromkeys(DOWN, "")
    return tuple(
        Rule.renamed(rf"(.*)\.{at}\.experts\.(?P<e>\d+)\.{old}\.(weight|bias)", rf"\g<1>.{to}.{new or old}.\g<3>")
        for old, new in known.items()
    )


def convolutions(pattern: str) -> tuple[Rule, ...]:
    """Those whose names match: weights (out, in, width)."""
    return (Rule.renamed(rf"(.*{pattern}\.weight)", r"\1", CONVOLUTION),)


LATENT = (  # of kv_b_proj, a head at a time: what queries are taken into the latent space by, and values out of it
    Rule(
        r"(.*\.self_attn)\.kv_b_proj\.weight",
        (
            (
                r"\1.embed_q.weight",
                View(("num_attention_heads", -1, "kv_lora_rank"), 1, ":qk_nope_head_dim", (0, 2, 1)),
            ),
            (r"\1.unembed_out.weight", View(("num_attention_heads", -1, "kv_lora_rank"), 1, "qk_nope_head_dim:")),
        ),
    ),
)
DRAFTS = (Rule(r"(?:model\.)?mtp\..*"), Rule(r".*\.mtp\..*"))  # layers that only draft

PLAIN = Model()
"""Names and shapes are the checkpoint's own."""
MOE = Model(rules=stacked(), raw=("mlp.gate",))
DEEPSEEK = Model(rules=(*DRAFTS, *stacked(), *LATENT), raw=("mlp.gate",), uncast=BIAS)
ROUTED = Model(rules=stacked(), eight=("mlp.gate",))
TOWERS = (  # mlx-vlm's: what has such a word in its name stays as it is
    *("vision", "aligner", "vl_connector", "sam_model", "audio_model", "audio_tower", "code_predictor"),
    *("img_projector", "multi_modal_projector", "patch_merge_mlp"),
)


def seeing(*renames: tuple[str, str], patches: str, axes: View) -> Model:
    """A model of mlx-vlm, which mlx-lm loads too and leaves the tower out: text in `language_model.`."""
    inner = (
        ("model.language_model.", "language_model.model."),
        ("language_model.", "language_model."),
        ("lm_head.", "language_model.lm_head."),
    )
    return Model(
        renames=(*renames, *inner),
        rules=(Rule.renamed(rf"({patches}\.weight)", r"\1", axes),),
        towers=TOWERS,
        library="mlx-vlm",
        head="language_model.lm_head.weight",
    )


def with_tower(patches: str) -> Model:
    """One whose tower and projector lie beside the text, in a `model.` or not."""
    parts = ("vision_tower.", "multi_modal_projector.")
    return seeing(*((f"model.{part}", part) for part in parts), patches=patches, axes=PATCHES[0])


TEXT_ALONE = Model(  # as mlx-lm has it: mlx-vlm gives Gemma 3 a head of its own, which its text model has not
    renames=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
    rules=(Rule(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\..*"),),
    head="language_model.lm_head.weight",
)

QWEN_VL = seeing(
    ("model.visual.", "vision_tower."),
    ("visual.", "vision_tower."),
    ("model.language_model.", "language_model.model."),
    ("model.", "language_model.model."),
    patches=r"vision_tower\.patch_embed\.proj",
    axes=PATCHES[1],
)

MODELS: Mapping[str, Model] = {
    **dict.fromkeys(
        (
            *("cohere", "cohere2", "ernie4_5", "exaone", "exaone4", "gemma", "gemma2", "gemma3_text"),
            *("glm", "glm4", "gpt_bigcode", "hunyuan_v1_dense", "internlm2", "internlm3", "iquestcoder"),
            *("llama", "minicpm3", "ministral3", "mistral", "nanbeige", "nemotron", "nemotron-nas"),
            *("olmo2", "olmo3", "openelm", "phi", "phi3", "plamo3", "qwen", "qwen2", "qwen3", "seed_oss", "smollm3"),
            *("stablelm", "starcoder2", "xverse"),
        ),
        PLAIN,
    ),
    "granite": replace(PLAIN, eight=("self_attn.o_proj", "mlp.down_proj", "lm_head")),
    "minicpm": replace(PLAIN, copies_head=True),
    "gpt2": Model(
        renames=(("transformer.", "model."), *((name, f"model.{name}") for name in ("h.", "wte.", "wpe.", "ln_f."))),
        rules=(
            Rule(r"model\.h\.\d+\.attn\.bias"),
            Rule.renamed(
                r"(model\.h\.\d+\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight)", r"\1", TURNED
            ),
        ),
    ),
    # ---- experts
    **dict.fromkeys(("qwen3_moe", "mellum"), ROUTED),
    **dict.fromkeys(("deepseek", "deepseek_v2"), MOE),
    **dict.fromkeys(("deepseek_v3", "deepseek_v32", "glm4_moe_lite"), DEEPSEEK),
    **dict.fromkeys(("glm4_moe", "solar_open"), replace(MOE, uncast=BIAS)),
    **dict.fromkeys(("olmoe", "qwen2_moe"), Model(rules=stacked())),
    "dots1": Model(rules=stacked(to="mlp.experts"), raw=("mlp.gate",)),
    "ernie4_5_moe": Model(rules=(Rule(r".*\.moe_statics\.e_score_correction_bias"), *stacked())),
    "mixtral": Model(rules=stacked("block_sparse_moe", "block_sparse_moe.switch_mlp", W123)),
    "minimax_m2": Model(
        rules=stacked("block_sparse_moe", "block_sparse_moe.switch_mlp", W123),
        eight=("block_sparse_moe.gate",),
        uncast=BIAS,
    ),
    "bailing_moe": Model(
        rules=(*stacked(), Rule.renamed(r"(.*\.mlp\.gate)\.(weight|bias)", r"\1.gate_proj.\2")),
        eight=("mlp.gate.gate_proj",),
        uncast=("expert_bias",),
        refuses={"norm_head": "a head whose columns are divided by their norms"},
    ),
    "laguna": Model(
        rules=(
            *stacked(),
            Rule.renamed(r"(.*\.mlp\.gate)\.weight", r"\1.proj.weight"),
            Rule.renamed(r"(.*\.mlp)\.experts\.(e_score_correction_bias)", r"\1.gate.\2"),
        ),
        eight=("mlp.gate.proj",),
        uncast=BIAS,
    ),
    # ---- layers that keep a state
    "lfm2": Model(rules=convolutions(r"\.conv\.conv")),
    "lfm2_moe": Model(
        rules=(
            *convolutions(r"\.conv\.conv"),
            *stacked("feed_forward", "feed_forward.switch_mlp", W123),
            *(Rule.renamed(rf"(.*\.feed_forward)\.{old}\.weight", rf"\1.{new}.weight") for old, new in W123.items()),
        ),
        eight=("feed_forward.gate",),
        uncast=("expert_bias",),
    ),
    **dict.fromkeys(("mamba", "falcon_mamba"), Model(rules=convolutions(r"\.conv1d"))),
    "plamo2": Model(rules=convolutions(r"\.conv1d")),
    "jamba": Model(
        rules=(*convolutions(r"\.conv1d"), *stacked("feed_forward", "feed_forward.switch_mlp")),
        eight=("feed_forward.router",),
    ),
    # ---- within models that see
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), QWEN_VL),
    **dict.fromkeys(("gemma3", "mistral3"), TEXT_ALONE),
    "llava": with_tower(r"vision_tower\.vision_model\.embeddings\.patch_embedding"),
}

FAMILIES = frozenset(
    {
        *("bailingmoe", "bailingmoe2", "cohere", "cohere2", "deepseek", "deepseek2", "deepseek32", "dots1"),
        *("ernie4_5", "ernie4_5_moe", "exaone", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_vision"),
        *("glm", "glm4", "glm4_moe", "gpt2", "granite", "hunyuan_v1_dense", "internlm2", "internlm3"),
        *("jamba", "laguna", "lfm2", "lfm2_moe", "llama", "llava", "mamba", "mellum", "minicpm"),
        *("minicpm3", "minimax_m2", "mistral3", "mistral3_vision", "mixtral", "nanbeige", "nemotron"),
        *("olmo2", "olmoe", "openelm", "phi", "phi3", "plamo2", "plamo3", "qwen", "qwen2", "qwen2_5_vl"),
        *("qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_vl", "seed_oss", "smollm3", "solar_open"),
        *("stablelm", "starcoder", "starcoder2", "xverse"),
    }
)
"""Families of convert/architectures with a class that one of the models is for."""
