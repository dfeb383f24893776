"""Whisper's encoder, which hears thirty seconds at a time: the numbers of one, checked, and its rows.

A family adds the rows of its projector, and what llama.cpp wants to know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule, expand
from convert.architectures._rows import biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (  # of transformers' models of an encoder, a projector, and a text model of any family
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
PREFIX = ("audio_tower.", "multi_modal_projector.")
SPELLINGS = {  # Whisper's own words
    "hidden_size": "d_model",
    "intermediate_size": "encoder_ffn_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
}
DEFAULTS = {  # transformers' own, of the families that have this encoder
    "d_model": 1280,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}
POSITIONS = 1500  # two mel frames each: thirty seconds, what llama.cpp always encodes
MOST_BINS = 256  # clip.cpp, load_hparams
EPSILON = 1e-5  # torch's own for a LayerNorm: in no config
_T, _B = "audio_tower.layers.{i}", "a.blk.{i}"
WEIGHTS: tuple[TensorRule, ...] = (
    (f"{_T}.self_attn.q_proj.weight", f"{_B}.attn_q.weight", ("width", "width")),
    (f"{_T}.self_attn.v_proj.weight", f"{_B}.attn_v.weight", ("width", "width")),
    (f"{_T}.self_attn.out_proj.weight", f"{_B}.attn_out.weight", ("width", "width")),
    (f"{_T}.self_attn_layer_norm.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_T}.final_layer_norm.weight", f"{_B}.ln2.weight", ("width",)),
    (f"{_T}.fc1.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_T}.fc2.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
)
ROWS: tuple[TensorRule, ...] = (
    *WEIGHTS,
    *biases(WEIGHTS),
    (f"{_T}.self_attn.k_proj.weight", f"{_B}.attn_k.weight", ("width", "width")),
    ("audio_tower.embed_positions.weight", "a.position_embd.weight", ("positions", "width")),
    ("audio_tower.layer_norm.weight", "a.post_ln.weight", ("width",)),
    ("audio_tower.layer_norm.bias", "a.post_ln.bias", ("width",)),
)


@dataclass(frozen=True)
class Encoder:
    """The numbers of an encoder with a projector behind it."""

    projector: str  # clip.projector_type
    layers: int
    width: int
    ffn: int
    heads: int
    bins: int  # of the mel spectrogram
    text_width: int


def read_encoder(config: Config, projector: str, text_width: int) -> Encoder:
    """The encoder that an audio config describes, in Whisper's words or in transformers' usual ones."""
    config = config.spelled(**SPELLINGS)
    config.require("scale_embedding", False, "llama.cpp's graph of this encoder scales nothing")
    config.word("activation_function", "gelu", ("gelu",), "llama.cpp's graph of this encoder has no other")
    config.require("max_source_positions", POSITIONS, "llama.cpp encodes thirty seconds at a time")
    encoder = Encoder(
        projector,
        layers=_size(config, "num_hidden_layers", MAX_LAYERS),
        width=_size(config, "hidden_size"),
        ffn=_size(config, "intermediate_size"),
        heads=_size(config, "num_attention_heads"),
        bins=config.size("num_mel_bins", DEFAULTS["num_mel_bins"], MOST_BINS),
        text_width=text_width,
    )
    if encoder.width % encoder.heads:
        config.complain("num_attention_heads", encoder.heads, f"a divisor of the encoder's width, {encoder.width}")
    return encoder


def _size(config: Config, key: str, most: int = 1 << 24) -> int:
    return config.size(key, DEFAULTS[SPELLINGS[key]], most)


def audio_fields(encoder: Encoder) -> list[Field]:
    """The clip.* fields every such encoder has, but for whose it is where the file has another besides."""
    return [
        Field.boolean("clip.has_audio_encoder", True),
        Field.uint32("clip.audio.projection_dim", encoder.text_width),
        Field.uint32("clip.audio.embedding_length", encoder.width),
        Field.uint32("clip.audio.feed_forward_length", encoder.ffn),
        Field.uint32("clip.audio.block_count", encoder.layers),
        Field.uint32("clip.audio.attention.head_count", encoder.heads),
        Field.uint32("clip.audio.num_mel_bins", encoder.bins),
        Field.float32("clip.audio.attention.layer_norm_epsilon", EPSILON),
    ]


def whisper_spec(
    root: Config, encoder: Encoder, rows: Sequence[TensorRule], fields: Sequence[Field] = (), kernels: str = "F16"
) -> GraphSpec:
    """The mmproj file of an encoder with these rows of a projector; `kernels` is the convolutions' type in every file.

    Raises PlanError with every problem of the config.
    """
    root.finish()
    sizes = {
        "width": encoder.width,
        "ffn": encoder.ffn,
        "positions": POSITIONS,
        "text": encoder.text_width,
        "stacked": encoder.ffn,
    }
    return GraphSpec(
        "clip",
        (Field.string("clip.projector_type", encoder.projector), *audio_fields(encoder), *fields),
        (*convolutions(encoder, kernels), *expand([*ROWS, *rows], sizes, layers=encoder.layers)),
    )


def convolutions(encoder: Encoder, kernels: str) -> tuple[SourceTensor, ...]:
    """The two in front; llama.cpp adds their biases to columns."""
    made = []
    for number, width in enumerate((encoder.bins, encoder.width), 1):
        source, target = f"audio_tower.conv{number}", f"a.conv1d.{number}"
        shape = (encoder.width, width, 3)
        weight = OutputTensor(f"{target}.weight", shape, type=kernels)
        bias = OutputTensor(f"{target}.bias", (encoder.width, 1), lambda values: values.reshape(-1, 1))
        made.append(SourceTensor(f"{source}.weight", shape, (weight,)))
        made.append(SourceTensor(f"{source}.bias", (encoder.width,), (bias,)))
    return tuple(made)


def check_features(root: Config, preprocessor: JsonObject) -> None:
    """Add the problems of a feature extractor that makes other spectrograms than llama.cpp does."""
    features = Config(preprocessor, "preprocessor config", root.problems).merged("feature_extractor")
    why = "llama.cpp makes no other spectrogram for this encoder"
    for key, wanted in (("sampling_rate", 16000), ("n_fft", 400), ("hop_length", 160), ("chunk_length", 30)):
        features.require(key, wanted, why)
