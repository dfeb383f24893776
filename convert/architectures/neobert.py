"""NeoBERT: RMS norms in front, rotary positions of neighbours, q, k and v of each head together."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, read_decoder
from convert.architectures._encoder import MASKED_HEAD, Encoding, classifier, encoder_spec
from convert.architectures._family import EMBEDDINGS, SCORES, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, Transform
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, biases
from convert.architectures.gpt_neox import heads_apart
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "neo-bert",
    epsilon="norm_eps",
    default_epsilon=1e-6,
    activations=("SwiGLU", "swiglu"),
    rotary=Rotary(()),
    grouped=False,
    square=True,
)
L = "transformer_encoder.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("encoder.weight", "token_embd.weight", ("vocab", "hidden")),
    ("layer_norm.weight", "enc.output_norm.weight", ("hidden",)),
    (f"{L}.attention_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.qkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    (f"{L}.wo.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.ffn_norm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.ffn.w12.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
    (f"{L}.ffn.w3.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
HEAD: tuple[TensorRule, ...] = (
    ("dense.weight", "cls.weight", ("hidden", "hidden")),
    ("classifier.weight", "cls.output.weight", ("labels", "hidden")),
)
FIRST_TOKEN = 2  # LLAMA_POOLING_TYPE_CLS, which its publisher uses


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with its classifier where it has one. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(max_position_embeddings="max_length")
    decoder = read_decoder(_narrowed(config), GRAPH)
    for key in ("rms_norm", "rope"):
        config.require(key, True, "llama.cpp's neo-bert graph has no other")
    scores = classifier(config, (*HEAD, *biases(HEAD)))
    encoding = Encoding(
        fields=_fields(bool(scores.labels)),
        transforms={"qkv": Transform(heads_apart(decoder.heads))},
        left_out=[LeftOut("", MASKED_HEAD, prefix="decoder.")],
        classifier=scores,
    )
    return encoder_spec(decoder, ROWS, encoding)


def _narrowed(config: Config) -> Config:
    """With the width of the MLP as it is built: two thirds of what the config says."""
    width = 2 * config.size("intermediate_size", least=2) // 3
    return Config({**config.values, "intermediate_size": width}, config.where, config.problems, config.spellings)


def _fields(scores: bool) -> list[Field]:
    pooling = [] if scores else [Field.uint32("neo-bert.pooling_type", FIRST_TOKEN)]
    return [
        *pooling,
        Field.string("neo-bert.rope.scaling.type", "none"),
        Field.uint32("tokenizer.ggml.token_type_count", 2),
    ]


FAMILY = Family(
    name="neobert",
    title="NeoBERT",
    classes=("NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"),
    text=text,
    renames=(("model.", ""),),
    gives={"NeoBERT": EMBEDDINGS, "NeoBERTLMHead": EMBEDDINGS, "NeoBERTForSequenceClassification": SCORES},
    graphs="",
)
