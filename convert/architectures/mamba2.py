"""Mamba 2: layers whose heads share a decay, and nothing else."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_attentionless
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._state_space import mamba2_rows, read_mamba2
from convert.architectures.mamba import ENDS, LAYER
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("mamba2", epsilon="layer_norm_epsilon", default_epsilon=1e-5, grouped=False, rotary=None, mlp=False)
WORDS = {  # Bamba's word -> theirs
    "mamba_n_heads": "num_heads",
    "mamba_d_head": "head_dim",
    "mamba_n_groups": "n_groups",
    "mamba_d_state": "state_size",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_proj_bias": "use_bias",
}
DEFAULTS = {"num_heads": 128, "head_dim": 64, "n_groups": 8, "state_size": 128}  # transformers' own


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(**WORDS)
    decoder = read_attentionless(config, GRAPH)
    mamba = read_mamba2(config, config.size("expand", 2) * decoder.hidden)
    fields = [Field.uint32("mamba2.feed_forward_length", 0), *mamba.fields("mamba2")]
    rows = (*ENDS, *mamba2_rows(f"{LAYER}.mixer"))
    return decoder_spec(decoder.having(**mamba.sizes), rows, fields, mamba.transforms)


FAMILY = Family(
    name="mamba2",
    title="Mamba 2",
    classes=("Mamba2ForCausalLM",),
    text=text,
    renames=(("model.backbone.", "backbone."), ("model.lm_head.", "lm_head.")),  # Mamba-Codestral's
)
