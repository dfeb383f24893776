"""EuroBERT: Llama's layers, every token sees every other. Jina's embeddings v5 (nano) are one."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, read_decoder
from convert.architectures._encoder import MASKED_HEAD, Encoding, encoder_spec
from convert.architectures._family import EMBEDDINGS, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("eurobert", default_epsilon=1e-5, rotary=Rotary(()), square=True)
ROWS = (*ENDS, *NORMS, *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The encoder. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's eurobert graph has no biases")
    fields = [
        Field.string("eurobert.rope.scaling.type", "none"),
        Field.uint32("eurobert.attention.key_length", decoder.head_dim),
        Field.uint32("eurobert.attention.value_length", decoder.head_dim),
    ]
    return encoder_spec(decoder, ROWS, Encoding(fields, left_out=[LeftOut("", MASKED_HEAD, prefix="lm_head.")]))


FAMILY = Family(
    name="eurobert",
    title="EuroBERT and Jina embeddings v5 (nano)",
    classes=("EuroBertModel", "EuroBertForMaskedLM", "JinaEmbeddingsV5Model"),
    text=text,
    gives={"EuroBertModel": EMBEDDINGS, "EuroBertForMaskedLM": EMBEDDINGS, "JinaEmbeddingsV5Model": EMBEDDINGS},
    graphs=TASK_GRAPH,
)
