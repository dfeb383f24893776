"""What a checkpoint's folder says beside its weights, read as transformers reads it: vocabulary, templates, images.

A session on any runtime that has no tokenizer of its own is this and something that computes: what was shipped beside
the weights is what answers.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.confined import Confined
from validate.errors import Endless, RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.runtimes import _folder_settings, _images
from validate.runtimes._file_tokenizer import FileTokenizer, file_tokenizer
from validate.runtimes._images.base import ImageInputs, Images
from validate.runtimes._optional import optional
from validate.runtimes.base import IMAGE_MARK, Identity, ModelSettings, ReferenceSession
from validate.silence import silence_torchao

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, GenerationConfig

_IMAGE_IDS = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")


class CheckpointFolder(ReferenceSession):
    """The part of a session that needs no weights; see Session and ReferenceSession for the methods."""

    def __init__(self, folder: Path, trust_remote_code: bool = False) -> None:
        silence_torchao()
        import transformers

        self._folder = folder
        common = {"trust_remote_code": trust_remote_code, "local_files_only": True}  # a validation downloads nothing
        try:
            with quiet():
                self._config = transformers.AutoConfig.from_pretrained(folder, **common)
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
                self._generation = _generation(folder)
        except Exception as error:  # transformers raises anything from OSError to KeyError for a folder it cannot read
            raise RuntimeFailure(f"transformers could not load {folder}: {first_line(error)}") from error
        self._text = self._config.get_text_config()
        self._file_tokenizer: tuple[FileTokenizer | None] | None = None  # once it was looked for
        self._confined = Confined(self, f"{folder}: its chat template or tokenizer")
        self._confined.start()  # before there are weights in this process, which a fork would keep

    # ---- the vocabulary

    def identity(self) -> Identity:
        tokenizer = self.tokenizer
        plain, special = self.tokenize("a"), self.tokenize("a", add_special=True)
        eos = token_id(tokenizer.eos_token_id)
        if eos < 0 and len(special) > len(plain) and special[-1:] == [tokenizer.sep_token_id]:
            eos = special[-1]  # and behind it
        # What stops transformers' generate: the generation config's list, else the model config's, and the tokenizer's.
        stops = optional(self._generation, "eos_token_id")
        stops = _config_ends(self._folder) if stops is None else stops
        ends = frozenset([*(stops if isinstance(stops, list | tuple) else [stops]), eos]) - {None, -1}
        bos = token_id(tokenizer.bos_token_id)
        if bos < 0 and special[:1] == [tokenizer.cls_token_id]:
            bos = special[0]  # as BERT calls what it puts before a text
        return Identity(
            vocab=self._text.vocab_size,
            bos=bos,
            eos=eos,
            pad=token_id(tokenizer.pad_token_id),
            end_of_generation=ends,
            adds_bos=len(special) > len(plain) and special[0] == bos,
            adds_eos=len(special) > len(plain) and special[-1] == eos,
            templates=self._templates(),
            image_ids={n: i for n in _IMAGE_IDS if isinstance(i := optional(self._config, n), int)},
            added={str(token): token.special for token in tokenizer.added_tokens_decoder.values()},
            has_vision=optional(self._config, "vision_config") is not None,
            own_templates=False,
            pixel_limits=self._pixel_limits,
        )

    def _templates(self) -> dict[str, str]:
        """The tokenizer's; where it has none, the processor's."""
        templates = self.tokenizer.chat_template
        if templates is None:
            return self._processor_templates()
        return dict(templates) if isinstance(templates, dict) else {"default": templates}

    def _processor_templates(self) -> dict[str, str]:
        for name in ("processor_config.json", "chat_template.json"):
            path = self._folder / name
            template = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
            if isinstance(template, str):
                return {"default": template}
        return {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return self._confined.ask(CheckpointFolder._encode, text, add_special, parse_special)

    def _encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        how = {"add_special_tokens": add_special, "split_special_tokens": not parse_special, "verbose": False}
        return list(self.tokenizer.encode(text, **how))

    def tokenize_by_file(self, text: str) -> list[int] | None:
        """By tokenizer.json, else tokenizer.model; transformers 5 takes classes such as LlamaTokenizer apart."""
        return self._confined.ask(CheckpointFolder._encode_by_file, text, self._lead)

    def _encode_by_file(self, text: str, lead: list[int]) -> list[int] | None:
        if self._file_tokenizer is None:
            self._file_tokenizer = (file_tokenizer(self._folder, self.tokenizer.added_tokens_encoder, lead),)
        (library,) = self._file_tokenizer
        return None if library is None else library.encode(text)

    @functools.cached_property
    def _lead(self) -> list[int]:
        identity = self.identity()
        return [identity.bos] if identity.adds_bos else []

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self) -> list[str]:
        pieces = [""] * self._text.vocab_size
        for piece, i in self.tokenizer.get_vocab().items():
            if i < len(pieces):
                pieces[i] = piece
        return pieces

    def settings(self) -> ModelSettings:
        """What generation_config.json, config.json and the image processor say, as transformers reads them."""
        path = self._folder / "generation_config.json"
        said = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
        values = {
            **_folder_settings.sampling(self._generation, said),
            **_folder_settings.tokens(self._generation, self._text),
            **_folder_settings.positions(self._text),
        }
        if not self.identity().has_vision:
            return ModelSettings("the folder", values, elsewhere=frozenset(_folder_settings.IMAGES))
        with contextlib.suppress(RuntimeFailure):  # no processor, which is told where images are asked for
            values |= _folder_settings.images(self._processor, self._pixel_limits)
        return ModelSettings("the folder", values)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        raise Unsupported("a folder without its weights computes nothing")

    # ---- the template

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        generation_prompt: bool,
        templates: Mapping[str, str] | None = None,
    ) -> str:
        """The rendered conversation; with `templates`, those instead of the checkpoint's own."""
        templates = self._templates() if templates is None else templates
        if not templates:
            raise RuntimeFailure("there is no chat template")
        # As transformers chooses: the template named tool_use when there are tools and there is one.
        name = "tool_use" if tools and "tool_use" in templates else "default"
        if name not in templates:
            raise RuntimeFailure("there is no default chat template")
        asked = (list(messages), list(tools) if tools else None, templates[name], generation_prompt)
        return self._confined.ask(CheckpointFolder._render, *asked)

    def _render(
        self, messages: list[Message], tools: list[Message] | None, template: str, generation_prompt: bool
    ) -> str:
        how = {"chat_template": template, "add_generation_prompt": generation_prompt, "tokenize": False}
        return str(self.tokenizer.apply_chat_template(messages, tools=tools, **how))

    # ---- images

    @functools.cached_property
    def _processor(self) -> BaseImageProcessor:
        """The image processor that needs PIL only: torchvision's would drag a CUDA build of torch along."""
        import transformers

        try:
            with quiet():
                return transformers.AutoImageProcessor.from_pretrained(
                    self._folder, backend="pil", local_files_only=True
                )
        except Exception as error:  # anything from OSError to KeyError, as for the rest of a folder
            raise RuntimeFailure(f"the image processor does not load: {first_line(error)}") from error

    @functools.cached_property
    def images(self) -> Images:
        """What the family makes of images; raises Unsupported for a family that is not known."""
        model_type = str(self._config.model_type)
        if optional(self._config.vision_config, "model_type") == "pixtral" and model_type == "llava":
            model_type = "pixtral"  # Pixtral 12B is published as a LLaVA
        found = _images.for_model(model_type)
        if found is None:
            known = ", ".join(_images.known())
            raise Unsupported(f"how images are put into {model_type} is not known here, only for {known}")
        images = found(self._processor, self._config, self.tokenizer)
        with _reading_images("the image processor does not suit the model"):
            _ = images.span, images.unit, images.pixel_limits  # all that both together say
        return images

    def image_tokens(self, width: int, height: int) -> int:
        """As the processor counts; raises RuntimeFailure for a size that it refuses, one side 200 times the other."""
        images = self.images
        with _reading_images(f"the image processor refuses {width} x {height}"):
            return images.tokens(width, height)

    def image_rules(self, width: int, height: int) -> Sequence[str]:
        images = self.images
        with _reading_images(f"the image processor refuses {width} x {height}"):
            return images.rules(width, height)

    def image_tokens_by_rule(self, width: int, height: int) -> int | None:
        images = self.images
        with _reading_images(f"the image processor refuses {width} x {height}"):
            return images.tokens_by_rule(width, height)

    def framed(self, pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        images = self.images
        with _reading_images("the image processor refuses an image"):
            return np.asarray(images.framed(Image.fromarray(pixels)))

    @property
    def image_unit(self) -> int:
        """Pixels of the side of what becomes one image token."""
        return self.images.unit

    @functools.cached_property
    def _pixel_limits(self) -> tuple[int, int] | None:
        if optional(self._config, "vision_config") is None:
            return None
        try:
            return self.images.pixel_limits
        except RuntimeFailure:  # no processor, or a family whose images are not known
            return None

    def image_prompt(self, text: str, tools: Sequence[Message] | None = None) -> str:
        """A user's turn of one image and `text`, rendered, with IMAGE_MARK where the image goes.

        By the tokenizer's template, else the processor's; a checkpoint whose templates know no images gets the bare
        two, one after the other. What the source writes around an image, and runtimes do not, is in the prompt.
        """
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        span, (before, behind) = self.images.span, self.images.around
        for templates in (self._templates(), self._processor_templates()):
            try:
                prompt = self.render([message], tools, True, templates)
            except Endless:
                raise
            except Exception:  # a template raises what it likes when content is not a string
                continue
            if prompt.count(span) == 1:
                return self.mark_images(prompt)
        return f"{before}{IMAGE_MARK}{behind}{text}"

    def mark_images(self, prompt: str) -> str:
        """A rendered prompt with IMAGE_MARK in the place of each image and of what runtimes write around one."""
        before, behind = self.images.around
        return prompt.replace(self.images.span, f"{before}{IMAGE_MARK}{behind}")

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        """(width, height) the source's processor gives the model; the image's own when nothing is resized."""
        return self.process_images([pixels]).size

    def process_images(self, images: Sequence[np.ndarray]) -> ImageInputs:
        """What the image processor makes of images. Raises RuntimeFailure for one that it refuses."""
        family = self.images
        with _reading_images("the image processor refuses an image"):
            return family.process(images)

    def image_inputs(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """All that the model takes of prompts with an IMAGE_MARK each: one batch, padded on the left."""
        processed, token = self.process_images(images), self.images.token
        ids, mask = self.image_rows(prompts, processed)
        places = (ids == self._config.image_token_id) * mask
        wanted = sum(placeholders.count(token) for placeholders in processed.placeholders)
        if places.sum() != wanted:
            raise RuntimeFailure(f"the prompt has {places.sum()} image tokens, {token!r}, for {wanted} embeddings")
        kinds = {self.images.kinds: places.astype(np.int32)} if self.images.kinds else {}
        return {"input_ids": ids, "attention_mask": mask, **kinds, **processed.arrays}

    def image_rows(self, prompts: Sequence[str], processed: ImageInputs) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their mask, int64 (prompt, token): a batch padded on the left.

        Each prompt has one IMAGE_MARK; in its place stands the image's token, once per embedding.
        """
        texts = [
            p.replace(IMAGE_MARK, placeholders) for p, placeholders in zip(prompts, processed.placeholders, strict=True)
        ]
        return self.padded([self.tokenize(text) for text in texts])

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of a batch, int64 (row, token), padded on the left."""
        longest, pad = max(map(len, rows)), max(0, token_id(self.tokenizer.pad_token_id))
        ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return np.array(ids, np.int64), np.array(mask, np.int64)


@contextlib.contextmanager
def _reading_images(what: str) -> Iterator[None]:
    """A processor and a config are strangers' files, and raise what they like."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:
        raise RuntimeFailure(f"{what}: {first_line(error)}") from error


def _generation(folder: Path) -> GenerationConfig | None:
    """generation_config.json, None where there is none."""
    import transformers

    if not (folder / "generation_config.json").is_file():
        return None
    return transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)


def by_length(
    prompts: Sequence[Sequence[int]], write: Callable[[Sequence[Sequence[int]]], list[list[int]]]
) -> list[list[int]]:
    """What `write` makes of the prompts, given those of one length together: a batch of them needs no padding."""
    written: dict[int, list[int]] = {}
    for length in dict.fromkeys(map(len, prompts)):
        rows = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        written |= zip(rows, write([prompts[i] for i in rows]), strict=True)
    return [written[i] for i in range(len(prompts))]


def _config_ends(folder: Path) -> object:
    """The ends of config.json, as transformers makes a generation config of it: the whole's, else the text model's.

    What the config's class fills in where the file is silent (2, in LlamaConfig) stops nothing.
    """
    said = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    inner: Mapping[str, object] = next(
        (said[name] for name in ("decoder", "generator", "text_config") if said.get(name)), {}
    )
    ends = said.get("eos_token_id")
    return inner.get("eos_token_id") if ends is None else ends


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Without the padding that a batch puts behind a finished row."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]


def token_id(token: int | None) -> int:
    """-1 where there is no such token."""
    return -1 if token is None else token


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


class quiet:
    """No progress bars and no advice on the screen while transformers loads or generates."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging, self._level = logging, logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bars:
            self._logging.enable_progress_bar()
