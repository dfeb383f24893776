"""The words of `validate:`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from convert.options import Options, RecipePath
from convert.validation.limits import LIMITS, Limits
from validate import kv_cache
from validate.kv_cache import CacheQuestion

MIN_TOKENS = 16
AUTO: Literal["auto"] = "auto"


class Elsewhere(Options):
    """Where a runtime lives that is not in this environment."""

    python: RecipePath = Field(description="the Python of an environment that has the runtime")
    worker: RecipePath | None = Field(None, description="the file that answers there; not for vllm, which has one")
    options: dict[str, bool | int | float | str] = Field({}, description="what the worker is told: {dtype: float16}")


CACHE_TYPES = (
    f"types of llama.cpp's key-value cache, as -ctk and -ctv take them ({', '.join(kv_cache.NAMES)}): "
    "q8_0 for both, q8_0/q4_0 for K and V apart"
)


class ReferenceOptions(Options):
    """How the source computes."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the arithmetic; bfloat16 is faster where the CPU has instructions for it"
    )
    layered: bool | None = Field(
        None,
        description="one layer at a time, in a few GB at any size of the model; when left out where the whole does not "
        "fit into the free memory",
    )


class KvCache(Options):
    """Types of the key-value cache, and on which outputs and how long texts they are measured."""

    types: list[str] = Field(min_length=1, description=CACHE_TYPES)
    on: list[str] = Field([], description="names as in `limits`: the GGUF outputs to measure; all when left out")
    longest: int | None = Field(
        None,
        ge=256,
        description="tokens of the longest text in which facts are to be found again; when left out as many as the "
        "model was made for, or as a quarter of an hour allows for each output",
    )

    @field_validator("types", "on", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("types")
    @classmethod
    def _known(cls, types: list[str]) -> list[str]:
        for word in types:
            kv_cache.CacheTypes.parse(word)
        return list(dict.fromkeys(types))

    @property
    def question(self) -> CacheQuestion:
        """What is asked of each output."""
        return kv_cache.CacheQuestion([kv_cache.CacheTypes.parse(word) for word in self.types], self.longest)


CacheWords = str | list[str] | KvCache | None


def _types_alone(value: object) -> object:
    """`kv_cache: [f16, q8_0]` is short for `kv_cache: {types: [f16, q8_0]}`."""
    return {"types": value} if isinstance(value, str | list) else value


class ValidateOptions(Options):
    """What to measure on, and what every output has to keep."""

    text: list[RecipePath] = Field(
        [],
        description="input sets for drift and perplexity, one path or a list: UTF-8 texts, and conversations in "
        ".jsonl (messages, tools), which the model's own template renders; a varied set of our own when left out",
    )
    tokens: Annotated[int, Field(ge=MIN_TOKENS)] | Literal["auto"] = Field(
        2048,
        description="how many tokens to use in all, from the start of each text; or auto: each output reads 2,048, "
        "4,096 and so on until the interval of every metric that has a limit lies on one side of it, 65,536 at most",
    )
    window: int = Field(512, ge=16, le=32768, description="tokens a window; the cache is empty at the start of each")
    images: list[RecipePath] = Field(
        [],
        description="images for the projector, beside one of our own drawing in a size that the source does not resize",
    )
    image_text: str = Field("What is in this picture?", description="what is asked behind each image")
    clicks: RecipePath | None = Field(
        None,
        description="JSON lines of image, instruction and row: a computer-use model's clicks are compared on them",
    )
    clicks_limit: int | None = Field(None, ge=1, description="use only the first so many of the clicks")
    choices: list[Literal["ours"] | RecipePath] = Field(
        [],
        description="multiple-choice items on which answers are compared with the source's, one or a list: 'ours', a "
        "small set in English, and JSON lines as lm-eval's data sets have them or its --log_samples writes; none when "
        "left out",
    )
    choices_limit: int | None = Field(None, ge=1, description="use only the first so many items of each file")
    kv_cache: Annotated[KvCache | None, BeforeValidator(_types_alone, json_schema_input_type=CacheWords)] = Field(
        None,
        description=f"{CACHE_TYPES}; a list, or {{types, on, longest}}: the drift of each from the F32 cache of the "
        "same file, its memory, and which facts in long texts it loses; none when left out",
    )
    limits: Limits = Field({}, description=LIMITS)
    runtimes: dict[str, Elsewhere] = Field(
        {}, description="runtimes that live in another environment: vllm, or a name of yours with its worker file"
    )
    also_on: list[str] = Field([], description="runtimes that run an output once more where they can: openvino, vllm")
    jinja_js: RecipePath | None = Field(
        None,
        description="a folder in which `npm install @huggingface/jinja` was run: the chat templates of ONNX outputs "
        "are rendered by it too, in node, as transformers.js renders them in a browser",
    )
    require: Literal["run"] | dict[str, Literal["run"]] = Field(
        {},
        description="'run', or names as in `limits` -> 'run': an output that this machine has no device for fails, "
        "and is not just left out of the verdict",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; all when left out")
    reference: ReferenceOptions | None = Field(
        None, description="how the source computes: {dtype, layered}; in float32, as a whole where it fits"
    )
    trust_remote_code: bool = Field(False, description="let the reference run Python code that the model brings")

    @property
    def most_tokens(self) -> int:
        """How many tokens are used at most, which is what memory has to be there for."""
        from validate.enough import MOST_TOKENS

        return MOST_TOKENS if self.tokens == AUTO else self.tokens

    @field_validator("tokens", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        """One message where a union's members would each have theirs."""
        if value == AUTO:
            return value
        try:
            number = TypeAdapter(int).validate_python(value)
        except ValidationError:
            raise ValueError(f"tokens is {value!r}, wanted a number or auto") from None
        if number < MIN_TOKENS:
            raise ValueError(f"tokens is {number}, wanted at least {MIN_TOKENS}, or auto")
        return number

    @field_validator("require", mode="before")
    @classmethod
    def _run_is_all(cls, value: object) -> object:
        """One message where a union's members would each have theirs."""
        asked = value.items() if isinstance(value, dict) else [("require", value)]
        for name, word in asked:
            if word != "run":
                raise ValueError(
                    f"require: {name} is {word!r}, wanted 'run'"
                    if isinstance(value, dict)
                    else f"require is {word!r}, wanted 'run', or names -> 'run'"
                )
        return value

    @field_validator("runtimes")
    @classmethod
    def _can_live_elsewhere(cls, named: dict[str, Elsewhere]) -> dict[str, Elsewhere]:
        from validate import runtimes
        from validate.runtimes.vllm import Vllm

        for name, asked in named.items():
            ours = runtimes.load(name) if name in runtimes.names() else None
            if isinstance(ours, Vllm) and asked.worker is not None:
                raise ValueError(f"{name} has a worker of its own; leave out `worker`, or give yours another name")
            if ours is not None and not isinstance(ours, Vllm):
                raise ValueError(f"{name} runs in this environment only; a worker of yours needs another name")
            if ours is None and asked.worker is None:
                raise ValueError(f"{name} has no `worker`: the file that answers in its environment")
        return named

    @field_validator("text", "also_on", "choices", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value

    @field_validator("also_on")
    @classmethod
    def _known_runtimes(cls, names: list[str], info: ValidationInfo) -> list[str]:
        from validate import runtimes

        known = [name for name in runtimes.names() if runtimes.load(name).ALSO_RUNS]
        known += [name for name in info.data.get("runtimes", {}) if name not in known]
        for name in names:
            if name not in known:
                hint = "".join(f"; did you mean '{n}'?" for n in difflib.get_close_matches(name, known, 1))
                raise ValueError(f"there is no second runtime '{name}', only {', '.join(known)}{hint}")
        return list(dict.fromkeys(names))
