"""Mamba and Falcon-Mamba: layers of a selective state space and nothing else."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_attentionless
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import B
from convert.architectures._state_space import MAMBA, mamba_rows, read_mamba
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GRAPH = Graph(
    "mamba", epsilon="layer_norm_epsilon", default_epsilon=1e-5, grouped=False, rotary=None, mlp=False, tied=True
)
LAYER = "backbone.layers.{i}"
ENDS: tuple[TensorRule, ...] = (
    ("backbone.embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("backbone.norm_f.weight", "output_norm.weight", ("hidden",)),
    (f"{LAYER}.norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
)
FALCON = "FalconMambaForCausalLM"
MIXER_EPSILON = 1e-6  # of Falcon-Mamba's norms within a layer, where the config is silent
EPSILON_NOTE = "the source's norms within a layer have {} for epsilon, llama.cpp's that of all others, {}"
WORDS = {  # Jamba's word -> theirs
    "mamba_expand": "expand",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_proj_bias": "use_bias",
    "mamba_dt_rank": "time_step_rank",
    "mamba_d_state": "state_size",
    "mamba_d_conv": "conv_kernel",
}
SHORT = {"hidden_size": "d_model", "num_hidden_layers": "n_layer"}  # as mamba_ssm itself writes configs


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**WORDS)
    if not config.has("hidden_size"):
        config = config.spelled(**SHORT)
    decoder = read_attentionless(config, GRAPH)
    multiple = config.size("pad_vocab_size_multiple", 1)
    decoder = replace(decoder, vocab=-(-decoder.vocab // multiple) * multiple)
    mamba = read_mamba(config, decoder.hidden)
    config.require("intermediate_size", mamba.inner, "llama.cpp's graph has no other width")
    falcon = class_of(values) == FALCON
    mixer = config.number("mixer_rms_eps", MIXER_EPSILON)
    notes = [EPSILON_NOTE.format(mixer, decoder.epsilon)] if falcon and mixer != decoder.epsilon else []
    fields = [
        Field.uint32("mamba.feed_forward_length", 0),  # llama.cpp wants it there
        *mamba.fields("mamba"),
        Field.boolean("mamba.ssm.dt_b_c_rms", falcon),
    ]
    rows = (*ENDS, *mamba_rows(f"{LAYER}.mixer"))
    return decoder_spec(decoder.having(**mamba.sizes), rows, fields, MAMBA, Extra(notes=notes))


FAMILY = Family(
    name="mamba",
    title="Mamba, Falcon-Mamba",
    classes=("MambaForCausalLM", "MambaLMHeadModel", FALCON),
    text=text,
    renames=(("backbone.embedding.", "backbone.embeddings."),),
    tested=("onnx",),
)
