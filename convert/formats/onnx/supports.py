"""Which checkpoints ONNX graphs can be made of: by the roles of the tensors, then by what transformers knows of it.

A model of no family of ours is exported as any decoder of text, where transformers has it built in.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convert import architectures
from convert.architectures import TASK_GRAPH, TEXT, TEXT_GRAPH, Family, Roles
from convert.errors import InputError, Problem, raise_all
from convert.formats.base import Support
from convert.formats.onnx import families, tasks
from convert.json_types import JsonObject
from convert.source import quantized
from convert.source.checkpoint import read_config, stored_config
from convert.source.sentences import read_sentences, sentence_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from validate.sentences import Sentences

IMAGES = "images"  # the cut of a model whose images have one size: families/images.py
STAGE = "onnx"  # as families call it that are tested in it
COUNTS = {  # what transformers makes an object of each of -> how many there may be without a tensor for each
    re.compile(r"(num|n)_(hidden_)?layers?|(en|de)coder_layers|depth"): 1000,
    re.compile(r"(num|n)_(local_|routed_)?(experts|labels)"): 1 << 16,
}


@dataclass(frozen=True)
class ModelKind:
    """A model that has graphs: transformers' config object, how it is cut, and what to know of it."""

    config: PretrainedConfig
    cut: str  # a name of families/
    notes: tuple[str, ...] = ()
    task: tasks.Task = tasks.TEXT_GENERATION
    sentences: Sentences | None = None  # what becomes of an encoder's vectors of tokens
    files: Mapping[str, Path] = field(default_factory=dict)  # sentence-transformers', by their names

    def graphs(self, *, pooling: bool = True) -> families.GraphCut:
        """How it is cut into graphs; with `pooling`, an embedder's give the vector of a text too."""
        if self.task.is_text:
            return families.load(self.cut)
        from convert.formats.onnx.families._pooling import Embedder

        if self.sentences is None or not pooling:
            return families.load_task(self.task, None)
        return families.load_task(self.task, Embedder(self.sentences, self.files))


def supports_family(family: Family) -> Support:
    """Yes where a graph is known for the tensors that its models usually have."""
    return Support(tuple(map(str, _misfits(family, family.usual_roles()))))


def read_kind(home: Path, tensors: Collection[str], planned: JsonObject | None = None) -> ModelKind:
    """What the checkpoint in `home` is to the exporter; `tensors` are the names of its tensors.

    `planned` is its config.json where that is yet to be written.

    Raises ConvertError for a model that has no graphs.
    """
    config = transformers_config(home, len(tensors), planned)
    raw = read_config(home) if planned is None else planned
    files = sentence_files(home)
    sentences = read_sentences(files)
    task = tasks.find(config, is_embedder=sentences is not None)
    if not task.is_text:
        return ModelKind(config, task.cut, task=task, sentences=sentences, files=files)
    family = _family(raw)
    name = (config.architectures or [""])[0]
    if family is None and name and not tasks.writes_text(name):
        remedy = "name the class of the same model whose outputs you need in config.json's architectures"
        raise InputError("config.json", f"no graph is known for what {name} gives", tasks.known(), remedy)
    if family:
        raise_all(list(_misfits(family, family.roles(raw, tensors))))
    cut = _cut(config, family)
    notes: tuple[str, ...] = ()
    if family is None or STAGE not in family.tested:
        kind = config.model_type
        notes = (f"'{kind}' is exported as any decoder of text; no test covers it: let a validate stage look at it",)
    return ModelKind(config, cut, notes, task)


def _family(raw: JsonObject) -> Family | None:
    try:
        return architectures.find(raw)
    except InputError:
        return None


def _misfits(family: Family, roles: Roles) -> Iterator[Problem]:
    """What of the model has no graph, by what its tensors are for."""
    if family.graphs == TASK_GRAPH:
        return
    if roles.gives != TEXT:
        got = f"{family.title} gives {roles.gives}: no graph is known for that"
        yield Problem(STAGE, got, "a decoder of text", "the gguf stage knows this family")
    elif not family.graphs:
        got = f"{family.title}: no graph is known for it"
        yield Problem(STAGE, got, "a decoder that transformers has built in", "the gguf stage knows this family")


def transformers_config(home: Path, tensors: int, planned: JsonObject | None = None) -> PretrainedConfig:
    """transformers' config object. Raises InputError for a type it does not know; code in the folder is never run."""
    from transformers import AutoConfig

    from convert.formats.onnx.hollow import quiet

    raw = read_config(home) if planned is None else planned
    _check_counts(home / "config.json", raw, tensors)
    if words := stored_config(home).get(quantized.KEY):  # a graph's weights are the checkpoint's own bytes
        found = quantized.problem(words, str(home / "config.json"))
        raise InputError(*astuple(found))
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:  # as it was read: transformers knows no byte-order mark
            (Path(folder) / "config.json").write_text(json.dumps(raw), encoding="utf-8")
            return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a config comes from strangers, and transformers raises all kinds of errors
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        got = f"transformers cannot read it ({said})"
        raise InputError(str(home / "config.json"), got, "a model type that transformers has built in") from error


def _check_counts(where: Path, raw: JsonObject, tensors: int) -> None:
    """Raise InputError for layers beyond number: transformers would make an object of each before a shape is known."""
    rest = [*raw.items()]
    while rest:
        name, value = rest.pop()
        if isinstance(value, Mapping):
            rest += value.items()
        few = next((few for words, few in COUNTS.items() if words.fullmatch(name)), None)
        if few is not None and isinstance(value, int) and value > max(tensors, few):
            got = f"{name} is {str(value)[:20]}, and the checkpoint has {tensors} tensors"
            raise InputError(str(where), got, "the number of what there is", "download the model again")


def _cut(config: PretrainedConfig, family: Family | None) -> str:
    """How the model is cut into graphs. Raises InputError for one that transformers has no decoder of."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    if family is not None and family.graphs not in {"", TEXT_GRAPH}:
        return family.graphs
    if kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return _images(config)
    if kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError("config.json", f"model type '{kind}' is not exported to ONNX", "a decoder of text")
    return TEXT_GRAPH


def _images(config: PretrainedConfig) -> str:
    """The cut of a model whose images have one size: what gives their embeddings takes pixels alone."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText._model_mapping[type(config)]
    takes = inspect.signature(model.get_image_features).parameters if hasattr(model, "get_image_features") else {}
    asked = [name for name, one in takes.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if "pixel_values" not in takes or (more := [name for name in asked if name not in {"self", "pixel_values"}]):
        asks = f"asks for {', '.join(more)} beside the pixels" if "pixel_values" in takes else "takes no pixel_values"
        raise InputError(
            "config.json",
            f"the vision tower of '{config.model_type}' {asks}: no graph is known for it",
            "a decoder of text, or a model whose images all have one size",
            "save its language model alone as a checkpoint, and export that",
        )
    return IMAGES
