"""ModernBERT: rotary positions, norms in front, a gated MLP in one matrix; most layers see a window both ways."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, read_decoder
from convert.architectures._encoder import MASKED_HEAD, Encoding, classifier, encoder_spec
from convert.architectures._family import EMBEDDINGS, SCORES, TASK_GRAPH, Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import B, biases
from convert.architectures._window import SLIDING
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import gives_scores

GRAPH = Graph(
    "modern-bert",
    layer_norm=True,
    epsilon="norm_eps",
    default_epsilon=1e-5,
    activations=("gelu", "silu"),
    activation="hidden_activation",
    rotary=Rotary((), theta=160000.0),
    grouped=False,
    square=True,
)
SPELLINGS = {"rope_theta": "global_rope_theta", "rope_local_base_freq": "local_rope_theta"}
DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
}
L = "layers.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("embeddings.tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("embeddings.norm.weight", "token_embd_norm.weight", ("hidden",)),
    ("final_norm.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.attn.Wqkv.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.attn.Wo.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp_norm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.mlp.Wi.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
    (f"{L}.mlp.Wo.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
LATER: tuple[TensorRule, ...] = ((f"{L}.attn_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),)  # not in the first
SCORE: tuple[TensorRule, ...] = (("classifier.weight", "cls.output.weight", ("labels", "hidden")),)
HEAD: tuple[TensorRule, ...] = (
    ("head.dense.weight", "cls.weight", ("hidden", "hidden")),
    ("head.norm.weight", "cls.norm.weight", ("hidden",)),
    *SCORE,
    *biases(SCORE),
)
MASKED = (LeftOut("", MASKED_HEAD, prefix="head."), LeftOut("", MASKED_HEAD, prefix="decoder."))
PLAIN = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
PERIOD = 3  # every so many layers, from the first on, one sees everything
POOLED = {"cls": 2, "mean": 1}  # llama_pooling_type


def text(values: JsonObject) -> GraphSpec:
    """The encoder, with its classifier where it has one. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(**DEFAULTS)
    decoder = read_decoder(config, GRAPH)
    for key in PLAIN:
        config.require(key, False, "llama.cpp's modern-bert graph has no such biases")
    config.require("classifier_activation", "gelu", "llama.cpp's modern-bert graph has no other")
    encoding = Encoding(
        fields=_fields(decoder),
        left_out=() if gives_scores(values) else MASKED,
        tensors=expand(LATER, decoder.sizes, None, range(1, decoder.layers)),
        classifier=classifier(config, HEAD),
    )
    return encoder_spec(decoder, ROWS, encoding)


def _fields(decoder: Decoder) -> list[Field]:
    """Windows, their frequencies, the activation, and how a classifier pools."""
    config = decoder.config
    pooled = config.word("classifier_pooling", "cls", tuple(POOLED))
    return [
        Field.uint32("modern-bert.attention.sliding_window", config.size("local_attention", 128, MAX_CONTEXT)),
        Field.uint32("modern-bert.attention.sliding_window_pattern", _period(decoder)),
        Field.float32("modern-bert.rope.freq_base_swa", sliding_theta(config, 10000.0)),
        Field.string("modern-bert.rope.scaling.type", "none"),
        Field.uint32("modern-bert.vocab_size", decoder.vocab),
        Field.string("modern-bert.hidden_activation", config.word("hidden_activation", "gelu", GRAPH.activations)),
        Field.uint32("modern-bert.classifier.pooling_type", POOLED[pooled]),
    ]


def _period(decoder: Decoder) -> int:
    """Every how many layers one sees everything, the first being one: what layer_types says, else the number itself."""
    config, layers = decoder.config, decoder.layers
    types = config.words("layer_types", layers, (SLIDING, "full_attention"))
    if not types:
        return config.size("global_attn_every_n_layers", PERIOD)
    wide = [number for number, kind in enumerate(types) if kind != SLIDING]
    period = wide[1] if len(wide) > 1 else layers
    if wide != list(range(0, layers, period)):
        config.complain("layer_types", "another pattern", "full attention in the first layer and every n-th after it")
    return period


FAMILY = Family(
    name="modern_bert",
    title="ModernBERT",
    classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    text=text,
    renames=(("model.", ""),),
    gives={
        "ModernBertModel": EMBEDDINGS,
        "ModernBertForMaskedLM": EMBEDDINGS,
        "ModernBertForSequenceClassification": SCORES,
    },
    graphs=TASK_GRAPH,
)
