"""An encoder that reads and a decoder that writes: two graphs, under the names that transformers.js and Optimum use.

    encoder_model           input_ids, attention_mask (or input_features) -> last_hidden_state
    decoder_model_merged    input_ids, encoder_attention_mask, encoder_hidden_states, cache -> logits, cache

One decoder serves the first step and those after it, without a branch. What it takes of the encoder is cut at the
length of the keys that are cached of it: in the first step all of it is left and becomes keys, later nothing is.

    keys of the encoder = past_key_values.N.encoder.key ++ k_proj(encoder_hidden_states[past length:])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from convert.errors import InputError
from convert.formats.onnx.families import Input, TracedGraph
from convert.formats.onnx.families._encoder import AXES, text_inputs
from convert.formats.onnx.families._forward import Forward, parameter_names
from convert.formats.onnx.hollow import MASKED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from convert.formats.onnx.families._pooling import Embedder
    from convert.formats.onnx.tasks import Task

# Example sizes: no two that may differ are equal, and none is 0 or 1.
BATCH, SEQUENCE, PAST, READ, READ_PAST = 2, 3, 4, 7, 5
OF = (("decoder", "past"), ("encoder", "encoder_past"))  # whose keys and values, and the name of their axis
OUT = {"decoder": "total", "encoder": "encoder_sequence"}
MAIN, READER = "decoder_model_merged", "encoder_model"
SOUNDS = "input_features"


def parts(config: PretrainedConfig, task: Task, embedder: Embedder | None) -> list[TracedGraph]:
    """Both graphs, the decoder first."""
    del embedder  # of encoders
    model = task.model(config)
    return [_decoder(model, config), _encoder(model, config)]


def _encoder(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    encoder = model.get_encoder()
    inputs = sound_inputs(model, config) if model.main_input_name == SOUNDS else text_inputs(encoder, config)
    return TracedGraph(
        READER,
        Forward(encoder, list(inputs), ("last_hidden_state",)),
        inputs,
        ("last_hidden_state",),
        {"last_hidden_state": {0: "batch"} if model.main_input_name == SOUNDS else AXES},
        parameters=parameter_names("model", encoder, _name_of(model, encoder)),
    )


def _decoder(model: PreTrainedModel, config: PretrainedConfig) -> TracedGraph:
    text = model.main_input_name != SOUNDS
    hidden = torch.zeros(BATCH, READ, _width(model, config))
    inputs = {"input_ids": Input(torch.zeros(BATCH, SEQUENCE, dtype=torch.long), AXES)}
    if text:
        mask = torch.ones(BATCH, READ, dtype=torch.long)
        inputs["encoder_attention_mask"] = Input(mask, {0: "batch", 1: "encoder_sequence"})
    inputs["encoder_hidden_states"] = Input(hidden, {0: "batch", 1: "encoder_sequence"})
    cache = cache_inputs(model)
    given = {**inputs, **cache}
    outputs = {name.replace("past_key_values", "present"): of for name, of in _slots(cache).items()}
    encoder = model.get_encoder()
    own = set(parameter_names("model", encoder, _name_of(model, encoder)).values())
    return TracedGraph(
        MAIN,
        Decoder(model, text),
        given,
        ("logits", *outputs),
        {"logits": AXES} | {name: {0: "batch", 2: OUT[of]} for name, of in outputs.items()},
        frozenset(outputs),
        {
            here: there
            for here, there in parameter_names("model", model).items()
            if there not in own or _is_shared(there)
        },
    )


def cache_inputs(model: PreTrainedModel) -> dict[str, Input]:
    """past_key_values.0.decoder.key, .decoder.value, .encoder.key, .encoder.value, and so on of every layer."""
    decoder = model.get_decoder()
    layers, heads, width = _shape(decoder.config)
    lengths = {"decoder": PAST, "encoder": READ_PAST}
    return {
        f"past_key_values.{layer}.{of}.{what}": Input(
            torch.zeros(BATCH, heads, lengths[of], width), {0: "batch", 2: axis}, half=True
        )
        for layer in range(layers)
        for of, axis in OF
        for what in ("key", "value")
    }


def _slots(cache: Mapping[str, Input]) -> dict[str, str]:
    return {name: name.split(".")[2] for name in cache}


def _shape(config: PretrainedConfig) -> tuple[int, int, int]:
    """Layers, heads and width of a head of a decoder, whatever its family calls them."""
    layers = _size(config, "decoder_layers", "num_decoder_layers", "num_layers")
    heads = _size(config, "decoder_attention_heads", "num_heads")
    return layers, heads, config.to_dict().get("d_kv") or _size(config, "d_model") // heads


def _width(model: PreTrainedModel, config: PretrainedConfig) -> int:
    return _size(config, "d_model")


def _size(config: PretrainedConfig, *names: str) -> int:
    """The first of these numbers that the config says. Raises InputError for one of another kind of model."""
    said = config.to_dict()
    found = next((said[name] for name in names if isinstance(said.get(name), int)), None)
    if found is None:
        got = f"'{config.model_type}' says no {' or '.join(names)}: no graph is known for it"
        raise InputError("config.json", got, "an encoder and a decoder, as T5, BART and Whisper are")
    return int(found)


def sound_inputs(model: PreTrainedModel, config: PretrainedConfig) -> dict[str, Input]:
    """A spectrogram of the one length that the model reads: two frames are one position."""
    said = config.to_dict()
    frames = 2 * said["max_source_positions"]
    return {SOUNDS: Input(torch.zeros(BATCH, said["num_mel_bins"], frames), {0: "batch"})}


class Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Tokens, what the encoder read, and the cache -> logits and the longer cache."""

    def __init__(self, model: nn.Module, text: bool) -> None:
        super().__init__()
        self.model, self.text = model, text

    def forward(self, input_ids: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        mask, hidden, *past = tensors if self.text else (None, *tensors)
        written, read = _layers(past[0::4], past[1::4]), _layers(past[2::4], past[3::4])
        cache = _Caches(Cache(layers=written), Cache(layers=read))
        cached = read[0].keys.shape[2]
        logits = self.model(
            decoder_input_ids=input_ids,
            attention_mask=None if mask is None else torch.where(mask[:, None, None, :] > 0, 0.0, MASKED),
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden[:, cached:]),
            past_key_values=cache,
            use_cache=True,
        ).logits
        pairs = ((own.keys, own.values, other.keys, other.values) for own, other in zip(written, read, strict=True))
        return logits, *(tensor for pair in pairs for tensor in pair)


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, none at all being a length of 0."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def get_seq_length(self) -> int:
        length: int = self.keys.shape[-2]  # a symbol while it is traced
        return length


def _layers(keys: Sequence[Tensor], values: Sequence[Tensor]) -> list[_Layer]:
    return [_Layer(*pair) for pair in zip(keys, values, strict=True)]


class _Caches(EncoderDecoderCache):  # type: ignore[misc]  # transformers has no types
    """Both caches of a decoder; that of the encoder is never taken for complete, for its length is a symbol."""

    def __init__(self, written: Cache, read: Cache) -> None:
        Cache.__init__(self, layers=[])
        self.self_attention_cache, self.cross_attention_cache = written, read
        self.is_updated = dict.fromkeys(range(len(read.layers)), False)


def _name_of(model: nn.Module, inner: nn.Module) -> str:
    found: str = next(name for name, module in model.named_modules() if module is inner)
    return found


def _is_shared(name: str) -> bool:
    """Whether an encoder's parameter may be the decoder's too: the one table of tokens."""
    return name.endswith(("embed_tokens.weight", "shared.weight"))
