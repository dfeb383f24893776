"""OpenVINO GenAI's pipelines on an OpenVINO folder, on the CPU in float32: what an application calls.

Its tokenizer, its template engine, its image processor and its generate loop are asked. Pipelines give no logits: those
are of the same models on OpenVINO itself, as the `openvino` runtime gives them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.distribution import install_command
from validate.errors import RuntimeFailure
from validate.json_types import Message
from validate.runtimes._openvino_folder import StatefulSession
from validate.runtimes._openvino_graph import OpenVinoGraph
from validate.runtimes._telemetry import refuse_telemetry
from validate.runtimes._threads import useful_threads, weights_of
from validate.runtimes.base import IMAGE_MARK, Runtime

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, LLMPipeline, Tokenizer, VLMPipeline

IMAGE = "<ov_genai_image_0>"  # its word for the first image, in a prompt of any family
WORDS = 400  # characters of an error worth quoting
_NEEDED = {"openvino_genai": "openvino", "openvino_tokenizers": "openvino", "transformers": "validate"}


class GenAiSession(StatefulSession):
    """A folder on both pipelines; see Session for the methods."""

    def __init__(self, model: Path, threads: int) -> None:
        super().__init__(model, lambda path: OpenVinoGraph(path, threads), threads)
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}

    @functools.cached_property
    def _tokens(self) -> Tokenizer:
        import openvino_genai

        try:
            return openvino_genai.Tokenizer(str(self._folder))
        except RuntimeError as error:
            raise _failure(error, "has no tokenizer for it") from error

    @functools.cached_property
    def _text_pipeline(self) -> LLMPipeline:
        import openvino_genai

        try:
            with self.loading():
                return openvino_genai.LLMPipeline(str(self._folder), "CPU", **self._settings)
        except RuntimeError as error:
            raise _failure(error, f"could not load {self._folder.name}") from error

    @functools.cached_property
    def _image_pipeline(self) -> VLMPipeline:
        import openvino_genai

        try:
            with self.loading():
                return openvino_genai.VLMPipeline(str(self._folder), "CPU", **self._settings)
        except RuntimeError as error:
            raise _failure(error, f"could not load {self._folder.name} for images") from error

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        if not parse_special:  # it reads special tokens wherever they stand and has no switch for it
            return super().tokenize(text, add_special=add_special, parse_special=False)
        if not text and not add_special:
            return []
        ids = self._tokens.encode(text, add_special_tokens=add_special).input_ids
        return [int(token) for token in np.array(ids.data).reshape(-1)]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._tokens.decode([int(token) for token in tokens])) if tokens else ""

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:  # type: ignore[override]
        try:
            return str(
                self._tokens.apply_chat_template(
                    list(messages), add_generation_prompt=generation_prompt, tools=list(tools) if tools else None
                )
            )
        except RuntimeError as error:
            raise _failure(error, "could not render the template") from error

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        if self.identity().has_vision:  # a folder with images has no model for the text pipeline
            return super().generate(tokens, count)
        import openvino

        ids = openvino.Tensor(self._ids(tokens))
        try:
            return [int(token) for token in self._text_pipeline.generate(ids, self._greedy(count)).tokens[0]]
        except RuntimeError as error:
            raise _failure(error, "could not generate") from error

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        """Its pipeline gives texts: ids are those of the text, and the end of generation where it stopped before."""
        return [self._seen(prompt, pixels, count) for prompt, pixels in zip(prompts, images, strict=True)]

    def _seen(self, prompt: str, pixels: np.ndarray, count: int) -> list[int]:
        import openvino

        self._require_vision()
        image = openvino.Tensor(np.ascontiguousarray(pixels[None]))
        text = prompt.replace(IMAGE_MARK, IMAGE)
        try:
            said = self._image_pipeline.generate(text, image=image, generation_config=self._greedy(count)).texts[0]
        except RuntimeError as error:
            raise _failure(error, "could not generate for an image") from error
        ids = self.tokenize(said)
        return ids if len(ids) >= count else [*ids, self.identity().eos]

    def _greedy(self, count: int) -> GenerationConfig:
        import openvino_genai

        settings = openvino_genai.GenerationConfig()
        settings.max_new_tokens, settings.do_sample, settings.apply_chat_template = count, False, False
        settings.stop_token_ids = set(self.identity().end_of_generation)
        settings.include_stop_str_in_output = True
        return settings

    def close(self) -> None:
        """Free the pipelines and the models."""
        for name in ("_text_pipeline", "_image_pipeline", "_tokens"):
            self.__dict__.pop(name, None)
        super().close()


def _failure(error: Exception, what: str) -> RuntimeFailure:
    return RuntimeFailure(f"OpenVINO GenAI {what}: {' '.join(str(error).split())[-WORDS:]}")


class OpenVinoGenai(Runtime):
    """OpenVINO GenAI, on the CPU."""

    NAME = "OpenVINO GenAI"
    DISTRIBUTIONS = ("openvino-genai", "openvino-tokenizers", "openvino")
    ALSO_RUNS = ("openvino",)

    def available(self) -> str | None:
        """Why it cannot run here, or None."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        remedy = install_command(*dict.fromkeys(_NEEDED[name] for name in missing))
        return f"{' and '.join(missing)} not installed: {remedy}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return f"openvino-genai {importlib.metadata.version('openvino-genai')}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> GenAiSession:
        """A session on the folder that `model` lies in."""
        del projector, context
        refuse_telemetry()
        return GenAiSession(model, threads or useful_threads(*weights_of(model)))


RUNTIME = OpenVinoGenai()
