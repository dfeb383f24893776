"""The words of `fit:`: for which size, or memory, the best types are sought."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from convert.estimate.amounts import Size, tokens_of
from convert.options import Options
from convert.suggest import suggest
from quantize.encoders import ENCODERS
from quantize.mixes import MIXES

TARGETS = ("file", "bits", "like", "gpu")
EXAMPLE = "{file: 4.2GB}, {bits: 4.25}, {like: Q4_K_M} or {gpu: 8GB, context: 16384}"


def _tokens(value: object) -> object:
    return tokens_of(value) if isinstance(value, str) else value


def _cache(value: object) -> str:
    from validate.kv_cache import CacheTypes

    return str(CacheTypes.parse(str(value)))


def block_type(word: object) -> str:
    """A type of tensors by its name. Raises ValueError, which names the nearest, for what is none."""
    if word in ENCODERS:
        return str(word)
    raise ValueError(f"{word!r} is not a type that is written here; {suggest(str(word), ENCODERS, 'convert stages')}")


def _file_type(word: object) -> str:
    if word in MIXES:
        return str(word)
    raise ValueError(f"{word!r} is not a type of files; {suggest(str(word), MIXES, 'convert stages')}")


FitType = Annotated[str, BeforeValidator(block_type), WithJsonSchema({"enum": list(ENCODERS), "type": "string"})]
LikeType = Annotated[str, BeforeValidator(_file_type), WithJsonSchema({"enum": list(MIXES), "type": "string"})]


class Fit(Options):
    """One file: the types that lose least in a size."""

    file: Size | None = Field(None, description="bytes of the model's file, all of it: 4.2GB, 3.9GiB or a bare number")
    bits: float | None = Field(None, gt=1, le=16, description="bits a weight, over all tensors of the file")
    like: LikeType | None = Field(None, description="no larger than a file of this type: Q4_K_M")
    gpu: Size | None = Field(None, description="memory that model, cache, buffers and projector fit into: 8GB")
    context: Annotated[int, BeforeValidator(_tokens)] = Field(4096, ge=1, description="with gpu: tokens, or 16k")
    kv: Annotated[str, BeforeValidator(_cache)] = Field(
        "f16", description="with gpu: type of the cache, q8_0 or q8_0/q4_0"
    )
    images: int = Field(0, ge=0, description="with gpu: images in the context, for which the projector is loaded too")

    @model_validator(mode="after")
    def _one_target(self) -> Fit:
        said = [name for name in TARGETS if name in self.model_fields_set]
        if len(said) != 1:
            got = " and ".join(said) or "no size"
            raise ValueError(f"fit: {got}, wanted one of {EXAMPLE}")
        if stray := [n for n in ("context", "kv", "images") if n in self.model_fields_set and self.gpu is None]:
            raise ValueError(f"fit: {', '.join(stray)} without gpu, wanted {{gpu: 8GB, {stray[0]}: …}}")
        return self

    def __str__(self) -> str:
        """As in the recipe: the words it says, sizes in bytes."""
        return ", ".join(f"{name}: {value}" for name, value in self if name in self.model_fields_set)


def fits_of(value: object) -> object:
    """One fit, or a list of them; one message for what is neither."""
    if isinstance(value, Mapping | Fit):
        return [value]
    if value is None or (isinstance(value, list) and value and all(isinstance(one, Mapping | Fit) for one in value)):
        return value
    raise ValueError(f"{value!r} is no fit, wanted {EXAMPLE}, or a list of such")


def check_words(said: Set[str], *, types: bool, fit: bool) -> None:
    """Raise ValueError for options of a stage that do not go together; `said` are those that a recipe says."""
    if types == fit:
        got = "types and fit" if fit else "neither types nor fit"
        raise ValueError(f"{got}, wanted one of them: types: [Q4_K_M], or fit: {{like: Q4_K_M}}")
    ruled = said & {"output_tensor", "token_embedding", "overrides", "pure"}
    if fit and ruled:
        raise ValueError(f"fit chooses types, and {', '.join(sorted(ruled))} too, wanted keep: {{output: Q6_K}}")
    stray = said & {"keep", "prove"}
    if stray and not fit:
        raise ValueError(f"{', '.join(sorted(stray))} without fit, wanted fit: {{like: Q4_K_M}}")
