"""What a model is for, by its class: which of transformers' auto classes makes it, and how its graphs are cut.

A class of a checkpoint is looked up in transformers' own tables (modeling_auto.py), those of the narrower tasks first:
BartForConditionalGeneration is in the table of masked language models too. Names of tasks are those of transformers.js
and Optimum, whose pipelines ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


@dataclass(frozen=True)
class Task:
    """A use of models that has graphs of its own."""

    name: str  # text-classification
    auto: str  # AutoModelForSequenceClassification
    table: str  # SEQUENCE_CLASSIFICATION: of modeling_auto, MODEL_FOR_…_MAPPING_NAMES
    cut: str = ""  # a module of families/ whose graphs are the whole model's; empty: the family's own, or a decoder's
    outputs: tuple[str, ...] = ()  # what the graph gives, where the model gives it
    own_attention: bool = False  # whether its classes know no attention but those they name themselves

    @property
    def is_text(self) -> bool:
        """Whether it writes text, token by token, with one stack: what this project's families describe."""
        return not self.cut

    def auto_class(self) -> type[_BaseAutoModelClass]:
        """transformers' class of that name."""
        from transformers.models.auto import modeling_auto

        found: type[_BaseAutoModelClass] = vars(modeling_auto)[self.auto]
        return found

    def model(self, config: PretrainedConfig) -> PreTrainedModel:
        """The whole model of a config, without weights: what is traced."""
        from convert.formats.onnx.hollow import ATTENTION, hollow

        return hollow(config, self.auto_class(), "eager" if self.own_attention else ATTENTION)


TEXT_GENERATION = Task("text-generation", "AutoModelForCausalLM", "CAUSAL_LM")
IMAGE_TEXT = Task("image-text-to-text", "AutoModelForImageTextToText", "IMAGE_TEXT_TO_TEXT")
FEATURES = Task("feature-extraction", "AutoModel", "", "_encoder", ("last_hidden_state",))
IMAGE_FEATURES = Task(
    "image-feature-extraction", "AutoModel", "IMAGE", "_vision", ("last_hidden_state", "pooler_output")
)
LOGITS = ("logits",)
TASKS = (
    Task("text2text-generation", "AutoModelForSeq2SeqLM", "SEQ_TO_SEQ_CAUSAL_LM", "_seq2seq"),
    Task("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq", "SPEECH_SEQ_2_SEQ", "_seq2seq"),
    Task("text-classification", "AutoModelForSequenceClassification", "SEQUENCE_CLASSIFICATION", "_encoder", LOGITS),
    Task("token-classification", "AutoModelForTokenClassification", "TOKEN_CLASSIFICATION", "_encoder", LOGITS),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "QUESTION_ANSWERING",
        "_encoder",
        ("start_logits", "end_logits"),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", "MASKED_LM", "_encoder", LOGITS),
    Task("image-classification", "AutoModelForImageClassification", "IMAGE_CLASSIFICATION", "_vision", LOGITS),
    Task("image-segmentation", "AutoModelForSemanticSegmentation", "SEMANTIC_SEGMENTATION", "_vision", LOGITS),
    Task("depth-estimation", "AutoModelForDepthEstimation", "DEPTH_ESTIMATION", "_vision", ("predicted_depth",)),
    Task("object-detection", "AutoModelForObjectDetection", "OBJECT_DETECTION", "_vision", ("logits", "pred_boxes")),
    Task(
        "image-segmentation",
        "AutoModelForImageSegmentation",
        "IMAGE_SEGMENTATION",
        "_vision",
        ("logits", "pred_boxes", "pred_masks"),
    ),
    Task(
        "zero-shot-image-classification",
        "AutoModelForZeroShotImageClassification",
        "ZERO_SHOT_IMAGE_CLASSIFICATION",
        "_contrastive",
    ),
    Task("mask-generation", "AutoModelForMaskGeneration", "MASK_GENERATION", "_segment", own_attention=True),
    IMAGE_FEATURES,
    FEATURES,
    Task("feature-extraction", "AutoModelForTextEncoding", "TEXT_ENCODING", "_encoder", ("last_hidden_state",)),
)
"""Those whose graphs are a whole model's; a class that two of them know is for the first."""


def find(config: PretrainedConfig, *, is_embedder: bool = False) -> Task:
    """What the model of this config is for; `is_embedder` where files beside it make of a text a vector.

    Raises InputError for a base model whose input no graph is known for.
    """
    from transformers.models.auto import modeling_auto as auto

    name = (config.architectures or [""])[0]
    found = FEATURES if is_embedder else next((task for task in TASKS if name in _classes(_table(task))), None)
    if found is FEATURES:
        return _features(config, name)
    if found is not None:
        return found
    has_vision = config.model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return IMAGE_TEXT if has_vision else TEXT_GENERATION


def _features(config: PretrainedConfig, name: str) -> Task:
    """A base model's task, by what it reads."""
    kinds = FEATURES.auto_class()._model_mapping[type(config)]
    first: type[PreTrainedModel] = kinds[0] if isinstance(kinds, tuple) else kinds
    reads = first.main_input_name
    if config.is_encoder_decoder or reads not in {"input_ids", "pixel_values"}:
        got = f"{name} is a base model of two stacks" if config.is_encoder_decoder else f"{name} reads {reads}"
        remedy = "name the class with its head in config.json's architectures, if the weights have it"
        raise InputError("config.json", f"{got}: no graph is known for it", known(), remedy)
    return FEATURES if reads == "input_ids" else IMAGE_FEATURES


def writes_text(name: str) -> bool:
    """Whether transformers knows a class as one that writes text, with images or without."""
    return any(name in _classes(_table(task)) for task in (TEXT_GENERATION, IMAGE_TEXT))


def known() -> str:
    """The tasks that there are graphs for, in words."""
    return f"a class for {', '.join(dict.fromkeys(task.name for task in (TEXT_GENERATION, IMAGE_TEXT, *TASKS)))}"


def _table(task: Task) -> Mapping[str, str | Sequence[str]]:
    """Model type -> its class, or classes, for the task."""
    from transformers.models.auto import modeling_auto

    name = f"MODEL_FOR_{task.table}_MAPPING_NAMES" if task.table else "MODEL_MAPPING_NAMES"
    found: Mapping[str, str | Sequence[str]] = vars(modeling_auto)[name]
    return found


def _classes(table: Mapping[str, str | Sequence[str]]) -> set[str]:
    return {name for named in table.values() for name in ([named] if isinstance(named, str) else named)}
