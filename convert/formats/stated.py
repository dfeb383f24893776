"""What the config.json of an output's folder states of the model, against the source's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from convert.formats.facts import Hyperparameter
from convert.json_types import JsonObject
from convert.source.checkpoint import CONFIG_NAME
from convert.source.untrusted import read_object

# Words that change what a model computes, whoever writes the others or leaves them out; rope and lengths, token ids and
# sampling are compared with the settings.
NUMBERS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "hidden_activation", "rms_norm_eps", "layer_norm_eps", "sliding_window"),
    *("use_sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "tie_word_embeddings"),
    *("logit_scale", "embedding_multiplier", "attention_multiplier", "residual_multiplier", "model_type"),
)
TOWER = (
    *("depth", "hidden_size", "num_heads", "intermediate_size", "patch_size", "spatial_merge_size", "window_size"),
    *("fullatt_block_indexes", "temporal_patch_size", "image_size", "num_hidden_layers", "num_attention_heads"),
)


def stated(folder: Path, source: Path) -> Iterator[Hyperparameter]:
    """Every number of the model that both files state."""
    mine, own = (read_object(home / CONFIG_NAME) for home in (folder, source))
    yield from _words("", NUMBERS, _text(mine), _text(own))
    towers = mine.get("vision_config"), own.get("vision_config")
    if isinstance(towers[0], dict) and isinstance(towers[1], dict):
        yield from _words("vision_config.", TOWER, towers[0], towers[1])


def _text(config: JsonObject) -> JsonObject:
    inner = config.get("text_config")
    return {**config, **inner, **_kind(config)} if isinstance(inner, dict) else config


def _kind(config: JsonObject) -> JsonObject:
    """The whole model's, which the text model's own would hide."""
    return {"model_type": config["model_type"]} if "model_type" in config else {}


def _words(before: str, words: tuple[str, ...], mine: JsonObject, own: JsonObject) -> Iterator[Hyperparameter]:
    for word in words:
        if word in mine and word in own:
            yield Hyperparameter(before + word, own[word], mine[word])
