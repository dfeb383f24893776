"""The `generate()` folder on onnxruntime-genai, on the CPU: its own generate loop, its own tokenizer.

Templates and the vocabulary's spelling come from the companions in the folder; token ids come from the tokenizer that
an application gets, which is not the one the model was trained with but a second implementation of it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from validate.distribution import install_command
from validate.errors import RuntimeFailure, Unsupported
from validate.json_types import JsonObject
from validate.runtimes._folder import CheckpointFolder
from validate.runtimes._folder_settings import IMAGES, POSITIONS
from validate.runtimes._threads import useful_threads, weights_of
from validate.runtimes.base import IMAGE_MARK, Ability, Identity, ModelSettings, Runtime, Setting

if TYPE_CHECKING:
    from onnxruntime_genai import Generator, MultiModalProcessor, NamedTensors

CONFIG = "genai_config.json"
WORDS = 400  # characters of an error worth quoting
_READ = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)  # what pybind11 makes of its exceptions


_READ_WORDS = (
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("num_beams", "length_penalty", "diversity_penalty", "max_length", "min_length"),
    *("bos_token_id", "pad_token_id"),
)
_DEFAULTS: Mapping[str, Setting] = {  # where `search` says nothing (src/config.h, Config::Search)
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "min_length": 0,
}
_NO_PLACE: Mapping[str, str] = {
    "min_p": "onnxruntime-genai has no such sampler",
    "typical_p": "onnxruntime-genai has no such sampler",
    "max_new_tokens": "set max_length to the prompt's tokens and {value} more with each call",
    "min_new_tokens": "set min_length to the prompt's tokens and {value} more with each call",
    "stop_strings": "look for them in the application, and stop there",
    "suppress_tokens": "set their logits in the application",
}


class OnnxGenaiSession(CheckpointFolder):
    """A genai folder in this process; see Session for the methods."""

    def __init__(self, folder: Path, context: int, threads: int) -> None:
        super().__init__(folder)
        import onnxruntime_genai as og

        og.disable_telemetry_events()
        self._og, self.threads = og, threads
        self._config_json = _read_config(folder)
        self._longest = int(self._config_json["model"]["context_length"])
        self._context = min(context, self._longest)
        try:
            config = og.Config(str(folder))
            options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}
            config.overlay(json.dumps(options))
            with self.loading():
                self._model = og.Model(config)
            self._tokens = og.Tokenizer(self._model)
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not load {folder.name}: {_words(error)}") from error
        self._adds_special: bool | None = None
        self._sees = isinstance(self._config_json["model"].get("vision"), dict)

    def identity(self) -> Identity:
        """The graph's vocabulary and what stops generate(); special tokens and templates as the folder has them."""
        model = self._config_json["model"]
        ends = model.get("eos_token_id")
        listed = ends if isinstance(ends, list) else [ends]
        stops = frozenset(i for i in listed if isinstance(i, int) and i >= 0)
        return replace(
            super().identity(), vocab=int(model["vocab_size"]), end_of_generation=stops, has_vision=self._sees
        )

    def settings(self) -> ModelSettings:
        """What genai_config.json says; what its runtime has no word for is the application's."""
        said = {**self._config_json["model"], **self._config_json.get("search", {})}
        values = {word: said[word] for word in _READ_WORDS if isinstance(said.get(word), bool | int | float)}
        values["max_position_embeddings"] = self._longest
        elsewhere = {*IMAGES, *POSITIONS, "sliding_window"}  # in the graph, or for images, of which it takes none
        if super().identity().has_vision:
            elsewhere.add("pad_token_id")  # another on purpose: it is masked wherever it stands
        no_place = dict(_NO_PLACE)
        if values.get("do_sample") and values.pop("num_beams", 1) == 1:
            no_place["num_beams"] = "its runtime refuses beams together with sampling"
        return ModelSettings(CONFIG, values, dict(_DEFAULTS), no_place, frozenset(elsewhere))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        if not parse_special:
            # It reads special tokens wherever they stand and has no switch for it: there is no answer of its own.
            return super().tokenize(text, add_special=add_special, parse_special=False)
        if not text and not add_special:
            return []
        if self._adds_special != add_special:
            self._tokens.update_options(add_special_tokens=str(add_special).lower())
            self._adds_special = add_special
        try:
            return [int(token) for token in self._tokens.encode(text)]
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not tokenize {text[:40]!r}: {_words(error)}") from error

    # ---- text

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        generator = self._generator(tokens)
        return self._logits(generator, len(tokens))

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """As `logits`, with the tokens fed one at a time through the cache."""
        generator = self._generator(tokens[:1])
        rows = [self._logits(generator, 1)]
        for token in tokens[1:]:
            self._append(generator, [token])
            rows.append(self._logits(generator, 1))
        return np.concatenate(rows)

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return self._written(self._generator(tokens, count), count)

    def _written(self, generator: Generator, count: int) -> list[int]:
        made: list[int] = []
        try:
            while len(made) < count and not generator.is_done():
                generator.generate_next_token()
                made.append(int(generator.get_next_tokens()[0]))
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not generate: {_words(error)}") from error
        return made

    def _generator(self, tokens: Sequence[int], count: int = 0) -> Generator:
        """A generator that has read `tokens` and can take as many more as are asked for; greedy."""
        vocab = int(self._config_json["model"]["vocab_size"])
        wrong = [token for token in tokens if not 0 <= token < vocab]
        if wrong or not tokens:  # its own answer to either is to read memory that is not its
            got = f"token id {wrong[0]} of a vocabulary of {vocab}" if wrong else "no tokens"
            raise RuntimeFailure(f"onnxruntime-genai: {got}")
        generator = self._started(len(tokens) + count)
        self._append(generator, tokens)
        return generator

    def _started(self, length: int) -> Generator:
        """A generator with room for so many tokens, greedy."""
        length = min(max(self._context, length), self._longest)
        try:
            params = self._og.GeneratorParams(self._model)
            params.set_search_options(
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,  # genai_config.json may set one; greedy here means the largest logit
                min_length=0,
                no_repeat_ngram_size=0,
                max_length=length,
            )
            return self._og.Generator(self._model, params)
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not start: {_words(error)}") from error

    def _append(self, generator: Generator, tokens: Sequence[int]) -> None:
        try:
            generator.append_tokens(np.array(tokens, np.int32))
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not run: {_words(error)}") from error

    def _logits(self, generator: Generator, count: int | None) -> np.ndarray:
        """float32 (count, vocab): the graph's output for the tokens just read."""
        out = np.array(generator.get_output("logits")[0], np.float32)
        if count is not None and len(out) != count:
            raise RuntimeFailure(f"onnxruntime-genai gave {len(out)} rows of logits for {count} tokens")
        return out

    # ---- images

    def image_tokens(self, width: int, height: int) -> int:
        """As many as its own processor makes of a grey image of that size."""
        read = self._seen(IMAGE_MARK, np.full((height, width, 3), 127, np.uint8))
        return int(read["num_image_tokens"].as_numpy().reshape(-1)[0])

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        raise Unsupported("onnxruntime-genai does not give an image's embeddings away")

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        logits_tv = self._logits(self._generator_of(self._seen(prompt, pixels), 0), None)
        return np.asarray(logits_tv[-1])

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        rows = zip(prompts, images, strict=True)
        return [self._written(self._generator_of(self._seen(*row), count), count) for row in rows]

    @functools.cached_property
    def _image_processor(self) -> MultiModalProcessor:
        try:
            return self._model.create_multimodal_processor()
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai has no image processor: {_words(error)}") from error

    def _seen(self, prompt: str, pixels: np.ndarray) -> NamedTensors:
        """All that the graphs take of a prompt with one IMAGE_MARK, by its own processor."""
        if not self._sees:
            raise Unsupported("this folder holds a text decoder only")
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        text = prompt.replace(IMAGE_MARK, self.images.span)
        try:
            return self._image_processor(text, images=self._og.Images.open_bytes(file.getvalue()))
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai cannot read the image: {_words(error)}") from error

    def _generator_of(self, read: NamedTensors, count: int) -> Generator:
        """A generator that has read a prompt with an image."""
        length = int(read["input_ids"].as_numpy().size)
        generator = self._started(length + count)
        try:
            generator.set_inputs(read)
        except _READ as error:
            raise RuntimeFailure(f"onnxruntime-genai could not run: {_words(error)}") from error
        return generator

    def close(self) -> None:
        """Free the model; its library wants that before the process ends."""
        self._tokens = self._model = None


def _read_config(folder: Path) -> JsonObject:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        int(config["model"]["vocab_size"]), int(config["model"]["context_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(f"{folder / CONFIG} cannot be read: {type(error).__name__}: {error}") from error
    return dict(config)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:WORDS]


class OnnxRuntimeGenai(Runtime):
    """onnxruntime-genai, on the CPU."""

    NAME = "onnxruntime-genai"
    DISTRIBUTIONS = ("onnxruntime-genai",)
    FORMATS = ("onnx-genai",)
    NOT_ASKED: ClassVar[Mapping[Ability, str]] = {
        Ability.IMAGES: "onnxruntime-genai gives no image's embeddings away, so images are not compared on it"
    }

    def available(self) -> str | None:
        needs = {"onnxruntime_genai": "genai", "transformers": "onnx"}
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        remedy = install_command(*(needs[name] for name in missing))
        return f"{' and '.join(missing)} not installed: {remedy}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return f"onnxruntime-genai {importlib.metadata.version('onnxruntime-genai')}"

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> OnnxGenaiSession:
        """A session on the folder that `model`, its graph, lies in, with its vision graph where there is one."""
        del projector
        return OnnxGenaiSession(model.parent, context, threads or useful_threads(*weights_of(model)))


RUNTIME = OnnxRuntimeGenai()
