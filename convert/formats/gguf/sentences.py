"""sentence-transformers' files in a GGUF file: how llama.cpp pools, and which matrices it puts behind that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from convert.architectures import TensorRole
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor
from convert.errors import InputError
from convert.gguf_field import Field
from convert.source.checkpoint import LazyTensor, open_files
from convert.source.sentences import WEIGHTS
from validate.sentences import FILE, IDENTITY, Dense, Sentences

POOLING = {"mean": 1, "cls": 2, "last": 3}  # llama_pooling_type
DENSE = ("dense_2", "dense_3")  # llama.cpp's names of them, in order
TAKES_DENSE = ("gemma-embedding",)  # architectures whose loader reads them


def extended(spec: GraphSpec, sentences: Sentences | None) -> GraphSpec:
    """The spec with what sentence-transformers' files add to it.

    Raises InputError for matrices that llama.cpp has no place for.
    """
    if sentences is None:
        return spec
    prefix, fields = spec.architecture, {field.key for field in spec.fields}
    pooling = f"{prefix}.pooling_type"
    more = [] if pooling in fields else [Field.uint32(pooling, POOLING[sentences.pooling])]
    if not sentences.dense:
        return replace(spec, fields=(*spec.fields, *more))
    _check(prefix, sentences)
    tensors = []
    for name, dense in zip(DENSE, sentences.dense, strict=False):
        more += [Field.uint32(f"{prefix}.{name}_feat_in", dense.inputs)]
        more += [Field.uint32(f"{prefix}.{name}_feat_out", dense.outputs)]
        shape = (dense.outputs, dense.inputs)
        tensors.append(
            SourceTensor(_weight(dense), shape, (OutputTensor(f"{name}.weight", shape),), TensorRole.CLASSIFIER)
        )
    return replace(spec, fields=(*spec.fields, *more), tensors=(*spec.tensors, *tensors))


def without_lost_head(spec: GraphSpec, found: Mapping[str, LazyTensor]) -> GraphSpec:
    """The spec of an embedder without the head that its checkpoint does not have."""
    lost = [t for t in spec.tensors if t.role is TensorRole.HEAD and t.source not in found]
    if not lost:
        return spec
    return replace(spec, tensors=tuple(t for t in spec.tensors if t not in lost))


def dense_tensors(sentences: Sentences | None, files: Mapping[str, Path]) -> dict[str, LazyTensor]:
    """The weights of the matrices by the names that `extended` gives them. Raises InputError."""
    return dict(_dense_tensors(sentences, files)) if sentences else {}


def _dense_tensors(sentences: Sentences, files: Mapping[str, Path]) -> Iterator[tuple[str, LazyTensor]]:
    for dense in sentences.dense:
        path = files.get(f"{dense.folder}/{WEIGHTS}")
        if path is None:
            raise InputError(str(files[FILE]), f"names {dense.folder}, and there is no {WEIGHTS} in it", "its weights")
        for name, tensor in open_files([path]).items():
            yield f"{dense.folder}.{name}", replace(tensor, name=f"{dense.folder}.{name}")


def _weight(dense: Dense) -> str:
    return f"{dense.folder}.linear.weight"


def _check(architecture: str, sentences: Sentences) -> None:
    where, remedy = FILE, "take Dense out of modules.json to convert the encoder alone, and multiply behind it"
    if architecture not in TAKES_DENSE or len(sentences.dense) > len(DENSE):
        got = f"{len(sentences.dense)} matrices behind the pooling"
        wanted = f"{len(DENSE)} of {', '.join(TAKES_DENSE)}, or none: llama.cpp has no others"
        raise InputError(where, got, wanted, remedy)
    for dense in sentences.dense:
        if dense.bias or dense.activation != IDENTITY:
            got = f"{dense.folder} has {'a bias' if dense.bias else f'the activation {dense.activation}'}"
            raise InputError(where, got, "a plain matrix, which is all llama.cpp does", remedy)
