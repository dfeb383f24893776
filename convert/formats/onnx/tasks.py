"""What a model is for, by its class: which of transformers' auto classes makes it, and how its graphs are cut.

A class of a checkpoint is looked up in transformers' own tables (modeling_auto.py), those of the narrower tasks first:
BartForConditionalGeneration is in the table of masked language models too. Names of tasks are those of transformers.js
and Optimum, whose pipelines ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


@dataclass(frozen=True)
class Task:
    """A use of models that has graphs of its own."""

    name: str  # text-classification
    auto: str  # AutoModelForSequenceClassification
    table: str  # SEQUENCE_CLASSIFICATION: of modeling_auto, MODEL_FOR_…_MAPPING_NAMES
    cut: str = ""  # a module of families/ whose graphs are the whole model's; empty: the family's own, or a decoder's
    outputs: tuple[str, ...] = ()  # what the graph gives, where the model gives it

    @property
    def is_text(self) -> bool:
        """Whether it writes text, token by token, with one stack: what this project's families describe."""
        return not self.cut

    def auto_class(self) -> type[_BaseAutoModelClass]:
        """transformers' class of that name."""
        from transformers.models.auto import modeling_auto

        found: type[_BaseAutoModelClass] = vars(modeling_auto)[self.auto]
        return found


TEXT_GENERATION = Task("text-generation", "AutoModelForCausalLM", "CAUSAL_LM")
IMAGE_TEXT = Task("image-text-to-text", "AutoModelForImageTextToText", "IMAGE_TEXT_TO_TEXT")
FEATURES = Task("feature-extraction", "AutoModel", "", "_encoder", ("last_hidden_state",))
TASKS = (
    Task(
        "text-classification", "AutoModelForSequenceClassification", "SEQUENCE_CLASSIFICATION", "_encoder", ("logits",)
    ),
    Task("token-classification", "AutoModelForTokenClassification", "TOKEN_CLASSIFICATION", "_encoder", ("logits",)),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "QUESTION_ANSWERING",
        "_encoder",
        ("start_logits", "end_logits"),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", "MASKED_LM", "_encoder", ("logits",)),
    FEATURES,
)
"""Those whose graphs are a whole model's; a class that two of them know is for the first."""


def find(config: PretrainedConfig, *, is_embedder: bool = False) -> Task:
    """What the model of this config is for; `is_embedder` where files beside it make of a text a vector."""
    from transformers.models.auto import modeling_auto as auto

    if is_embedder:
        return FEATURES
    name = (config.architectures or [""])[0]
    found = next((task for task in TASKS if name in _classes(_table(task))), None)
    if found is not None:
        return found
    has_vision = config.model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return IMAGE_TEXT if has_vision else TEXT_GENERATION


def _table(task: Task) -> Mapping[str, str | Sequence[str]]:
    """Model type -> its class, or classes, for the task."""
    from transformers.models.auto import modeling_auto

    name = f"MODEL_FOR_{task.table}_MAPPING_NAMES" if task.table else "MODEL_MAPPING_NAMES"
    found: Mapping[str, str | Sequence[str]] = vars(modeling_auto)[name]
    return found


def _classes(table: Mapping[str, str | Sequence[str]]) -> set[str]:
    return {name for named in table.values() for name in ([named] if isinstance(named, str) else named)}
