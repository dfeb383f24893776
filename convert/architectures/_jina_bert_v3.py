"""Jina embeddings v3: XLM-RoBERTa with rotary positions, and adapters for tasks, of its publisher's own code."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Graph, read_decoder
from convert.architectures._encoder import NO_POOLER, Encoding, encoder_spec, token_types
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import B
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "jina-bert-v3",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    activations=GELU,
    rotary=Rotary((), theta=20000.0),
    grouped=False,
    square=True,
)
L, P = "encoder.layers.{i}", "parametrizations.weight.original"
ROWS: tuple[TensorRule, ...] = (
    (f"embeddings.word_embeddings.{P}", "token_embd.weight", ("vocab", "hidden")),
    (f"embeddings.token_type_embeddings.{P}", "token_types.weight", ("types", "hidden")),
    ("emb_ln.weight", "token_embd_norm.weight", ("hidden",)),
    ("emb_ln.bias", "token_embd_norm.bias", ("hidden",)),
    (f"{L}.mixer.Wqkv.{P}", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.mixer.Wqkv.bias", f"{B}.attn_qkv.bias", ("q+kv+kv",)),
    (f"{L}.mixer.out_proj.{P}", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mixer.out_proj.bias", f"{B}.attn_output.bias", ("hidden",)),
    (f"{L}.norm1.weight", f"{B}.attn_output_norm.weight", ("hidden",)),
    (f"{L}.norm1.bias", f"{B}.attn_output_norm.bias", ("hidden",)),
    (f"{L}.mlp.fc1.{P}", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.fc1.bias", f"{B}.ffn_up.bias", ("ffn",)),
    (f"{L}.mlp.fc2.{P}", f"{B}.ffn_down.weight", ("hidden", "ffn")),
    (f"{L}.mlp.fc2.bias", f"{B}.ffn_down.bias", ("hidden",)),
    (f"{L}.norm2.weight", f"{B}.layer_output_norm.weight", ("hidden",)),
    (f"{L}.norm2.bias", f"{B}.layer_output_norm.bias", ("hidden",)),
)
ADAPTERS = "a task's adapter, which is a file of its own for llama.cpp"
LEFT_OUT = (LeftOut(".lora_A", ADAPTERS), LeftOut(".lora_B", ADAPTERS), LeftOut("", NO_POOLER, prefix="pooler."))
PADDING = 1
NOTE = "the adapters for tasks are not converted: embeddings are those of the model without a task"


def is_one(config: Config) -> bool:
    """Whether a config of the class XLMRobertaModel is one: it names its adapters."""
    return bool(config.values.get("lora_adaptations"))


def text(values: JsonObject) -> GraphSpec:
    """The encoder without adapters. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(rope_theta="rotary_emb_base")
    config.require("position_embedding_type", "rotary", "llama.cpp's jina-bert-v3 graph has no other positions")
    decoder = read_decoder(config, GRAPH).having(types=token_types(config, 1))
    before = 1 + config.size("pad_token_id", PADDING, least=0)  # rows of the table that it once had
    fields = [Field.uint32("tokenizer.ggml.token_type_count", decoder.sizes["types"])]
    encoding = Encoding(fields, left_out=LEFT_OUT, notes=[NOTE])
    return encoder_spec(replace(decoder, context=max(1, decoder.context - before)), ROWS, encoding)
