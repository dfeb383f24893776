"""What a recipe says under `release:`: which outputs are published, under which names, and what with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo

from convert.options import Options, RecipePath

PASSED, ALL = "passed", "all"
SIGSTORE = "sigstore"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
PLACES = ("hf", "s3", "gs", "gcs", "az", "abfs", "file", "memory")  # what may stand before :// of a place
Backend = Literal["onnxruntime", "openvino", "tensorrt", "vllm"]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


def _which(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, str) and value not in (PASSED, ALL):
        raise ValueError(f"{value!r} is neither 'passed' nor 'all'; write patterns as a list: [{value}]")
    if not value:
        raise ValueError("an empty list, wanted 'passed', 'all', or patterns")
    return value


def _name(value: str | None) -> str | None:
    if value is not None and not NAME.fullmatch(value):
        raise ValueError(f"{value!r}, wanted letters, digits, '.', '_' and '-': it becomes part of repositories' names")
    return value


def place(value: str | None) -> str | None:
    """The place as it is. Raises ValueError for one of a kind that nothing is published at."""
    if value is None or "://" not in value:
        return value
    kind, _, rest = value.partition("://")
    if kind not in PLACES:
        raise ValueError(f"{value!r}: nothing is published at {kind}://, wanted a folder or {', '.join(PLACES)}://")
    if kind == "hf" and not re.fullmatch(r"[\w.-]+(/\{name\})?/?", rest):
        raise ValueError(f"{value!r}, wanted hf://ORGANIZATION/{{name}}")
    return value


def _key(value: str | None, info: ValidationInfo) -> str | None:
    """As RecipePath, where it is one."""
    folder = (info.context or {}).get("folder")
    if value is None or value == SIGSTORE or folder is None:
        return value
    return str(Path(folder) / Path(value).expanduser())


class ReleaseOptions(Options):
    """What `convert release` publishes, and how."""

    name: Annotated[str | None, AfterValidator(_name)] = Field(
        None, description="the model's name in those of repositories; its own when left out"
    )
    to: Annotated[str | None, AfterValidator(place)] = Field(
        None, description="a folder, hf://ORGANIZATION/{name}, s3://bucket/prefix …; --to says it for one time"
    )
    which: Annotated[str | tuple[Text, ...], AfterValidator(_which)] = Field(
        PASSED, description="passed; all, which has those that were not measured too; or patterns of outputs"
    )
    base_model: Text | None = Field(None, description="the hub's id of the source; of `hub:` when left out")
    license: Text | None = Field(None, description="SPDX id, where the source's card has none")
    languages: tuple[Text, ...] = Field((), description="where the source's card has none: [en, de]")
    tags: tuple[Text, ...] = Field((), description="more tags for the cards")
    card: RecipePath | None = Field(None, description="a Jinja template for the cards in place of our own")
    ollama: bool = Field(True, description="a Modelfile beside GGUF files")
    lmstudio: bool = Field(True, description="model.yaml beside GGUF files, where they go to the hub")
    llamafile: bool | RecipePath = Field(
        False, description="true: .args of a llamafile; the path of a llamafile binary: the executable too"
    )
    triton: tuple[Backend, ...] = Field((), description="backends to write a Triton model repository for")
    private: bool = Field(True, description="a repository that is new on the hub is private")
    sign: Annotated[str | None, AfterValidator(_key)] = Field(
        None, description="a private key (PEM) to sign repositories with, or sigstore"
    )
    certificate: RecipePath | None = Field(None, description="the key's certificate (PEM)")
    chain: tuple[RecipePath, ...] = Field((), description="the certificates above it, up to the root's")
