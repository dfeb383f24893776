from __future__ import annotations

from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, build, published, renamed
from tests.parity.families import Case

NAMES = (
    ("model.layers", "model.transformer.blocks"),
    ("model.embed_tokens", "model.transformer.wte"),
    ("model.norm", "model.transformer.ln_f"),
    ("lm_head", "model.transformer.ff_out"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ff_norm"),
    ("self_attn.o_proj", "attn_out"),
    ("self_attn.", ""),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.down_proj", "ff_out"),
    ("mlp.", ""),
)


def as_llama(folder: Path) -> Path:
    """A Llama that looks ahead."""
    config = {
        **SIZES,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "is_causal": False,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config, scales=SHARP)


def llada(folder: Path) -> Path:
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": 64,
        "embedding_size": QWEN.vocab,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "max_sequence_length": 512,
        "mlp_hidden_size": 128,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "weight_tying": False,
    }
    return published(as_llama(folder), config, renamed(*NAMES))


BOS = {"tokenizer.ggml.add_bos_token": "what the tokenizer does; upstream says true of every LLaDA"}

CASES = {"": Case(llada, equal=as_llama, allowed=BOS)}
