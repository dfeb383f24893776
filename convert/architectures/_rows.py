"""Rows that many families share, under the names most of them use; a family composes its table of these and its own.

The word in the last column is one that a family may have a `Transform` for: "norm" for Gemma, "q" and "k" for Llama;
for all others the values are as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from convert.architectures._graph_spec import LeftOut, TensorRule

L, B = "model.layers.{i}", "blk.{i}"

ENDS: tuple[TensorRule, ...] = (
    ("model.embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    ("model.norm.weight", "output_norm.weight", ("hidden",), "norm"),
)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",), "norm"),
    (f"{L}.post_attention_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",), "norm"),
)
QKV: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_proj.weight", f"{B}.attn_q.weight", ("q", "hidden"), "q"),
    (f"{L}.self_attn.k_proj.weight", f"{B}.attn_k.weight", ("kv", "hidden"), "k"),
    (f"{L}.self_attn.v_proj.weight", f"{B}.attn_v.weight", ("kv", "hidden")),
)
OUTPUT: tuple[TensorRule, ...] = ((f"{L}.self_attn.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),)
ATTENTION: tuple[TensorRule, ...] = (*QKV, *OUTPUT)
QK_NORM: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_norm.weight", f"{B}.attn_q_norm.weight", ("head",), "norm"),
    (f"{L}.self_attn.k_norm.weight", f"{B}.attn_k_norm.weight", ("head",), "norm"),
)
MLP: tuple[TensorRule, ...] = (
    (f"{L}.mlp.gate_proj.weight", f"{B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{L}.mlp.up_proj.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.down_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
# the most usual names of a router and its experts; sizes: experts, expert_ffn
ROUTER: tuple[TensorRule, ...] = ((f"{L}.mlp.gate.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),)
EXPERTS: tuple[TensorRule, ...] = (
    (f"{L}.mlp.experts.{{e}}.gate_proj.weight", f"{B}.ffn_gate_exps.weight", ("expert_ffn", "hidden")),
    (f"{L}.mlp.experts.{{e}}.up_proj.weight", f"{B}.ffn_up_exps.weight", ("expert_ffn", "hidden")),
    (f"{L}.mlp.experts.{{e}}.down_proj.weight", f"{B}.ffn_down_exps.weight", ("hidden", "expert_ffn")),
)
HEAD: TensorRule = ("lm_head.weight", "output.weight", ("vocab", "hidden"))

INVERSE_FREQUENCIES = LeftOut("rotary_emb.inv_freq", "llama.cpp computes the frequencies from rope.freq_base")


def biases(*tables: Iterable[TensorRule]) -> Iterator[TensorRule]:
    """The biases beside the weights of these tables: as long as the weight's first axis, with the same transform."""
    for row in (row for table in tables for row in table):
        names = row[1] if isinstance(row[1], str) else tuple(name.replace(".weight", ".bias") for name in row[1])
        if isinstance(names, str):
            names = names.replace(".weight", ".bias")
        yield (row[0].replace(".weight", ".bias"), names, row[2][:1], *row[3:])


def named(table: Iterable[TensorRule], *renames: tuple[str, str]) -> Iterator[TensorRule]:
    """The table with pieces of the checkpoint's names replaced: `named(MLP, ("mlp", "feed_forward"))`."""
    for row in table:
        source = row[0]
        for old, new in renames:
            source = source.replace(old, new)
        yield (source, *row[1:])
