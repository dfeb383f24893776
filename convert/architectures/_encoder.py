"""Encoders: every token sees every other, and what they make of a text is a vector, or a classifier's scores.

A family reads its config with `read_decoder`, whose Graph says what llama.cpp's graph can do, and gives `encoder_spec`
its rows and the fields that only it has. `classifier` is what a class for sequence classification has besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, decoder_fields
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, Transform, expand
from convert.architectures._rope import rope_tensors
from convert.architectures._rows import INVERSE_FREQUENCIES
from convert.gguf_field import Field
from convert.source.model_types import gives_scores
from convert.source.untrusted import shown

RANK = 4  # LLAMA_POOLING_TYPE_RANK: a classifier's scores
MAX_LABELS = 1 << 16

NO_POOLER = "llama.cpp has no pooler: an embedding is made of what the last layer gives"
MASKED_HEAD = "predicts masked tokens: llama.cpp gives embeddings and scores"
POSITION_IDS = LeftOut("position_ids", "the numbers 0, 1, 2, ..., not a weight")


@dataclass(frozen=True)
class Classifier:
    """What a model for sequence classification has beyond the encoder: rows, and the names of its outputs."""

    rows: tuple[TensorRule, ...] = ()
    labels: tuple[str, ...] = ()

    def fields(self, prefix: str) -> list[Field]:
        """As metadata of an architecture; none where there is no classifier."""
        if not self.labels:
            return []
        return [
            Field.uint32(f"{prefix}.pooling_type", RANK),
            Field.strings(f"{prefix}.classifier.output_labels", self.labels),
        ]


def classifier(config: Config, rows: Iterable[TensorRule]) -> Classifier:
    """The classifier of a config with these rows, which may name the dimension "labels"; empty where it has none."""
    return Classifier(tuple(rows), labels(config)) if gives_scores(config.values) else Classifier()


def labels(config: Config) -> tuple[str, ...]:
    """The names of a classifier's outputs, by their numbers; transformers' own where the config has none."""
    named = config.values.get("id2label")
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(config.size("num_labels", 2, MAX_LABELS)))
    items = list(named.items()) if isinstance(named, Mapping) else []
    by_number = {int(key): text for key, text in items if str(key).isascii() and str(key).isdigit() and len(key) < 8}
    good = sorted(by_number) == list(range(len(items))) and 0 < len(items) <= MAX_LABELS
    if not good or not all(isinstance(text, str) and _is_text(text) for text in by_number.values()):
        config.complain("id2label", shown(named, 50), "names of outputs by their numbers, from 0 on")
        return ("LABEL_0",)
    return tuple(by_number[number] for number in range(len(by_number)))


def _is_text(text: str) -> bool:
    """Whether it is no half of a surrogate pair, which no file can hold."""
    return text.encode(errors="replace").decode() == text


def token_types(config: Config, default: int = 2) -> int:
    """How many embeddings there are for the parts of a pair; llama.cpp adds the first one's to every token."""
    return config.size("type_vocab_size", default)


@dataclass(frozen=True)
class Encoding:
    """What an encoder's file has beyond its rows: fields, transforms, what is left out, and its classifier."""

    fields: Iterable[Field] = ()
    transforms: Mapping[str, Transform] | None = None
    left_out: Iterable[LeftOut] = ()
    tensors: Iterable[SourceTensor] = ()
    classifier: Classifier = Classifier()
    notes: Iterable[str] = ()
    causal: bool | None = False  # None: llama.cpp's graph knows by itself


def encoder_spec(decoder: Decoder, rows: Iterable[TensorRule], encoding: Encoding) -> GraphSpec:
    """The GraphSpec of an encoder whose tensors are `rows`. Raises PlanError with every problem the config has."""
    name, more = decoder.graph.name, encoding.classifier
    table = [*rows, *more.rows]
    sizes = {**decoder.sizes, "labels": len(more.labels)}
    causal = [] if encoding.causal is None else [Field.boolean(f"{name}.attention.causal", encoding.causal)]
    decoder.config.finish()
    return GraphSpec(
        name,
        (*decoder_fields(decoder), *causal, *encoding.fields, *more.fields(name)),
        (*expand(table, sizes, encoding.transforms, decoder.layers), *encoding.tensors),
        rope_tensors(decoder.rope) if decoder.rope else (),
        (INVERSE_FREQUENCIES, POSITION_IDS, *encoding.left_out),
        (*decoder.notes, *encoding.notes),
    )
