"""What each tensor of a model is for. A format that asks "can I take this model" asks for roles, not for names.

A rule's role is read off the GGUF tensor it becomes: llama.cpp has one name for each purpose, whatever a checkpoint
calls it (gguf-py, constants.py, TENSOR_NAMES). Several GGUF tensors out of one source tensor make a fused role. Only
what llama.cpp keeps fused under a plain name (Phi-3's and GLM's gate and up in `ffn_up`) is said in the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum


class TensorRole(Enum):
    """What a tensor is for; a bias has the role of its weight. The value is the word that messages and tables say."""

    EMBEDDING = "embedding"
    POSITIONS = "positions"  # a learned table
    HEAD = "head"
    NORM = "norm"  # any but the two below
    ATTENTION_NORM = "attention norm"  # in front of attention
    MLP_NORM = "MLP norm"  # in front of the MLP
    Q = "q"
    K = "k"
    V = "v"
    QKV = "qkv"
    O = "o"  # noqa: E741 - the field's name for it
    SINKS = "attention sinks"
    ATTENTION_GATE = "attention gate"  # what comes out of attention is multiplied by
    INDEXER = "indexer"  # what chooses the tokens that are attended to
    LATENT = "latent attention"  # MLA: projections into and out of the latent space
    GATE = "gate"
    UP = "up"
    GATE_UP = "gate_up"
    DOWN = "down"
    ROUTER = "router"
    EXPERT_GATE = "experts' gate"
    EXPERT_UP = "experts' up"
    EXPERT_GATE_UP = "experts' gate_up"
    EXPERT_DOWN = "experts' down"
    SHARED_ROUTER = "shared expert's router"
    SHARED_GATE = "shared expert's gate"
    SHARED_UP = "shared expert's up"
    SHARED_GATE_UP = "shared expert's gate_up"
    SHARED_DOWN = "shared expert's down"
    EXPERT_LATENT = "experts' latent space"  # into it and out of it
    STATE_SPACE = "state space"
    CHANNEL_DECAY = "decay of channels"  # delta attention's projections of what is forgotten and let out
    CONVOLUTION = "convolution"
    PER_LAYER = "per-layer input"  # an embedding for each layer, and what takes it in
    ALTERNATING = "alternating updates"  # AltUp: copies of the stream; and the low-rank residual beside (Laurel)
    SCALE = "scale"  # of a layer's output, of a router's input, of an expert
    STATE = "initial state"  # of a model that goes through its layers more than once
    TOWER = "vision tower"
    AUDIO = "audio encoder"
    PROJECTOR = "projector"
    CLASSIFIER = "classifier"  # from an encoder's output to its scores, or to another width


R = TensorRole

ATTENTION = frozenset({R.Q, R.K, R.V, R.QKV, R.O})
MLP = frozenset({R.GATE, R.UP, R.GATE_UP, R.DOWN})
EXPERTS = frozenset({R.EXPERT_GATE, R.EXPERT_UP, R.EXPERT_GATE_UP, R.EXPERT_DOWN})
SHARED_EXPERT = frozenset({R.SHARED_ROUTER, R.SHARED_GATE, R.SHARED_UP, R.SHARED_GATE_UP, R.SHARED_DOWN})
LINEARS = ATTENTION | MLP | EXPERTS | (SHARED_EXPERT - {R.SHARED_ROUTER})
"""The matrices of decoder layers that can be quantized."""
VISION = frozenset({R.TOWER, R.AUDIO, R.PROJECTOR})  # all of the mmproj file
DENSE = ATTENTION | MLP | {R.NORM, R.ATTENTION_NORM, R.MLP_NORM, R.EMBEDDING, R.HEAD}
"""All that a plain decoder has: layers of attention and an MLP, norms, an embedding, a head."""
TRAITS: tuple[tuple[str, frozenset[TensorRole]], ...] = (  # what a model has besides, in words
    ("a table of positions", frozenset({R.POSITIONS})),
    ("latent attention", frozenset({R.LATENT})),
    ("attention sinks", frozenset({R.SINKS})),
    ("an initial state", frozenset({R.STATE})),
    ("experts", EXPERTS | {R.ROUTER}),
    ("a shared expert", SHARED_EXPERT),
    ("a state space", frozenset({R.STATE_SPACE})),
    ("a decay for every channel", frozenset({R.CHANNEL_DECAY})),
    ("convolutions", frozenset({R.CONVOLUTION})),
    ("per-layer inputs", frozenset({R.PER_LAYER})),
    ("alternating updates", frozenset({R.ALTERNATING})),
    ("scales of layers", frozenset({R.SCALE})),
    ("a vision tower", frozenset({R.TOWER})),
    ("an audio encoder", frozenset({R.AUDIO})),
    ("a projector", frozenset({R.PROJECTOR})),
    ("a classifier", frozenset({R.CLASSIFIER})),
)

# gguf-py, constants.py, TENSOR_NAMES, without "blk.N." and the suffix
BY_GGUF_NAME: Mapping[str, TensorRole] = {
    "token_embd": R.EMBEDDING,
    "token_types": R.EMBEDDING,
    "position_embd": R.POSITIONS,
    "output": R.HEAD,
    "attn_norm": R.ATTENTION_NORM,
    "ffn_norm": R.MLP_NORM,
    "attn_q": R.Q,
    "attn_k": R.K,
    "attn_v": R.V,
    "attn_qkv": R.QKV,
    "attn_output": R.O,
    "attn_sinks": R.SINKS,
    "attn_gate": R.ATTENTION_GATE,
    "attn_q_a": R.LATENT,
    "attn_q_b": R.LATENT,
    "attn_kv_a_mqa": R.LATENT,
    "attn_kv_b": R.LATENT,
    "attn_k_b": R.LATENT,
    "attn_v_b": R.LATENT,
    "ffn_gate": R.GATE,
    "ffn_up": R.UP,
    "ffn_down": R.DOWN,
    "ffn_gate_inp": R.ROUTER,
    "exp_probs_b": R.ROUTER,
    "ffn_gate_exps": R.EXPERT_GATE,
    "ffn_up_exps": R.EXPERT_UP,
    "ffn_down_exps": R.EXPERT_DOWN,
    "ffn_gate_up_exps": R.EXPERT_GATE_UP,
    "ffn_gate_chexps": R.EXPERT_GATE,
    "ffn_up_chexps": R.EXPERT_UP,
    "ffn_down_chexps": R.EXPERT_DOWN,
    "ffn_latent_down": R.EXPERT_LATENT,
    "ffn_latent_up": R.EXPERT_LATENT,
    "ssm_f_a": R.CHANNEL_DECAY,
    "ssm_f_b": R.CHANNEL_DECAY,
    "ssm_g_a": R.CHANNEL_DECAY,
    "ssm_g_b": R.CHANNEL_DECAY,
    "ffn_gate_inp_shexp": R.SHARED_ROUTER,
    "ffn_gate_shexp": R.SHARED_GATE,
    "ffn_up_shexp": R.SHARED_UP,
    "ffn_down_shexp": R.SHARED_DOWN,
    "inp_gate": R.PER_LAYER,
    "proj": R.PER_LAYER,
    "layer_output_scale": R.SCALE,
    "ffn_gate_inp.scale": R.SCALE,
    "ffn_down_exps.scale": R.SCALE,
    "cls": R.CLASSIFIER,
    "attn_rel_b": R.POSITIONS,
    "cross_attn_q": R.Q,
    "cross_attn_k": R.K,
    "cross_attn_v": R.V,
    "cross_attn_o": R.O,
    "attn_o": R.O,
}
BEGINNINGS: tuple[tuple[str, TensorRole], ...] = (  # the first that fits
    ("v.deepstack.", R.PROJECTOR),  # of earlier layers of the tower, into the text's width
    ("v.", R.TOWER),
    ("a.", R.AUDIO),
    ("mm.", R.PROJECTOR),
    ("indexer.", R.INDEXER),
    ("cls.", R.CLASSIFIER),
    ("ssm_", R.STATE_SPACE),
    ("time_mix_", R.STATE_SPACE),
    ("channel_mix_", R.STATE_SPACE),
    ("shortconv.", R.CONVOLUTION),
    ("hrm.", R.STATE),
    ("per_layer_", R.PER_LAYER),
    ("altup_", R.ALTERNATING),
    ("laurel_", R.ALTERNATING),
)
FUSED: Mapping[frozenset[TensorRole], TensorRole] = {  # what one tensor of a checkpoint becomes -> its own role
    frozenset({R.Q, R.K, R.V}): R.QKV,
    frozenset({R.K, R.V}): R.QKV,  # one key and value of all heads, beside the queries
    frozenset({R.ATTENTION_GATE, R.Q, R.K, R.V}): R.QKV,
    frozenset({R.QKV, R.ATTENTION_GATE}): R.QKV,
    frozenset({R.EMBEDDING, R.HEAD}): R.EMBEDDING,  # tied, each with a factor of its own
    frozenset({R.GATE, R.UP}): R.GATE_UP,
    frozenset({R.EXPERT_GATE, R.EXPERT_UP}): R.EXPERT_GATE_UP,
    frozenset({R.SHARED_GATE, R.SHARED_UP}): R.SHARED_GATE_UP,
}
_BLOCK = re.compile(r"^(?:enc\.|dec\.)?blk\.\d+\.")  # of an encoder-decoder each stack has its own
_SUFFIX = re.compile(r"\.(?:weight|bias)$")


def in_words(traits: Sequence[str]) -> str:
    """ "experts", "latent attention and experts", "latent attention, experts and a shared expert"."""
    return " and ".join([*([", ".join(traits[:-1])] if traits[1:] else []), *traits[-1:]])


def role_of(gguf_names: Iterable[str]) -> TensorRole:
    """The role of a checkpoint tensor that becomes the GGUF tensors called so.

    Raises KeyError for a name that the table has not: a family that brings a new one adds it here.
    """
    roles = frozenset(map(_one, gguf_names))
    return next(iter(roles)) if len(roles) == 1 else FUSED[roles]


def _one(gguf_name: str) -> TensorRole:
    name = _SUFFIX.sub("", _BLOCK.sub("", gguf_name))
    if role := BY_GGUF_NAME.get(name):
        return role
    if role := next((role for start, role in BEGINNINGS if name.startswith(start)), None):
        return role
    if "norm" in name:  # attn_q_norm, post_ffw_norm, output_norm, token_embd_norm …
        return R.NORM
    raise KeyError(f"{gguf_name}: no role is known for it, see convert/architectures/_roles.py")
