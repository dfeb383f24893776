"""What a projector file holds: the family's word on it, with the token ids that it needs of the tokenizer."""

from __future__ import annotations

from convert.architectures import Family
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonObject
from convert.source.companions import Companions


def projector_spec(family: Family, companions: Companions) -> GraphSpec:
    """The spec of the projector file of a family that has one. Raises ConvertError."""
    assert family.vision is not None
    return family.vision(_with_token_ids(family, companions), companions.preprocessor)


def _with_token_ids(family: Family, companions: Companions) -> JsonObject:
    """config.json with the ids that the family's table asks for, where the tokenizer has such tokens."""
    if not family.token_ids:
        return companions.config
    ids = {str(token["content"]): number for number, token in companions.added_tokens.items()}
    found = {key: ids[text] for key, text in family.token_ids if text in ids}
    return {**found, **{key: value for key, value in companions.config.items() if value is not None}}
