from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Tensors, published, renamed
from tests.parity.checkpoints.glm import glm
from tests.parity.checkpoints.glm4 import ROLES
from tests.parity.families import Case

RENAMES = (
    ("model.layers.", "transformer.encoder.layers."),
    ("model.embed_tokens", "transformer.embedding.word_embeddings"),
    ("model.norm", "transformer.encoder.final_layernorm"),
    ("lm_head", "transformer.output_layer"),
    ("self_attn.o_proj", "self_attention.dense"),
    ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
    ("mlp.down_proj", "mlp.dense_4h_to_h"),
)


def chatglm(folder: Path, biases: bool = True, **words: Any) -> Path:
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": biases,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": 128,
        "hidden_size": 64,
        "kv_channels": 16,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": 2,
        "padded_vocab_size": 512,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": 5,
        "seq_length": 512,
        "tie_word_embeddings": False,
    }
    return published(glm(folder, attention_bias=biases), config | words, packed)


def packed(tensors: Tensors) -> Tensors:
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv"]
        tensors[name.replace("self_attn.q_proj", "self_attention.query_key_value")] = torch.cat(parts)
    tensors["model.rotary_pos_emb.inv_freq"] = torch.ones(4)
    return renamed(*RENAMES, ("model.rotary_pos_emb", "transformer.rotary_pos_emb"))(tensors)


CONDITIONAL = {"architectures": ["ChatGLMForConditionalGeneration"]}
CASES = {
    "": Case(chatglm, equal=glm, allowed=ROLES),
    "no biases, the other class": Case(
        lambda folder: chatglm(folder, biases=False, **CONDITIONAL),
        equal=lambda folder: glm(folder, attention_bias=False),
        allowed=ROLES,
    ),
}
