from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, Tensors, build, published, renamed
from tests.parity.families import Case

NAMES = (
    ("model.layers", "transformer.h"),
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "ln_f"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("self_attn.o_proj", "attn.c_proj"),
    ("self_attn.q_proj", "attn.q"),
    ("self_attn", "attn"),
    ("mlp.down_proj", "mlp.c_proj"),
)
NO_MODEL = "transformers has no model with slopes on its scores and such norms: its bytes are the proof"
ROLES = {
    f"tokenizer.ggml.{name}_token_id": "upstream says StarCoder's ids; ours are the tokenizer's"
    for name in ("prefix", "suffix", "middle", "fim_pre", "fim_suf", "fim_mid")
}


def together(tensors: Tensors) -> Tensors:
    """k and v in one matrix, gate and up in another, by the names of Small Magellanic Cloud."""
    import torch

    made = dict(tensors)
    for layer in range(SIZES["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        made[f"{start}.self_attn.kv.weight"] = torch.cat([made.pop(f"{start}.self_attn.{x}_proj.weight") for x in "kv"])
        halves = [made.pop(f"{start}.mlp.{x}_proj.weight") for x in ("gate", "up")]
        made[f"{start}.mlp.gate_up_proj.weight"] = torch.cat(halves)
    return renamed(*NAMES)(made)


def refact(folder: Path) -> Path:
    """The tensors of a Llama with one head of keys; its MLP is as wide as Refact's code makes it."""
    config = {
        **SIZES,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "intermediate_size": 256,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    published_config = {
        "architectures": ["GPTRefactForCausalLM"],
        "model_type": "gpt_refact",
        "activation_function": "silu",
        "do_layer_norm_before": True,
        "layer_norm_epsilon": 1e-5,
        "multi_query": True,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 512,
    }
    return published(build(folder, QWEN, config, scales=SHARP), published_config, together)


CASES = {"": Case(refact, allowed=ROLES, no_logits=NO_MODEL)}
