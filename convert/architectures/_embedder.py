"""Decoders that are asked for embeddings: their base model's class has no head, and may look both ways."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.gguf_field import Field
from convert.source.model_types import class_of


def without_head(config: Config, names: tuple[str, ...]) -> Config:
    """The config, its head taken for the embedding where its class is one of those that have none."""
    if class_of(config.values) not in names:
        return config
    return Config({**config.values, "tie_word_embeddings": True}, config.where, config.problems, config.spellings)


def direction_fields(config: Config, prefix: str) -> list[Field]:
    """That tokens see those behind them too, where the config says so."""
    return [] if config.flag("is_causal", True) else [Field.boolean(f"{prefix}.attention.causal", False)]
