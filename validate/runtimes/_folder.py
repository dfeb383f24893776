"""What a checkpoint's folder says beside its weights, read as transformers reads it: vocabulary, templates, images.

A session on any runtime that has no tokenizer of its own is this and something that computes: what was shipped beside
the weights is what answers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from validate.hush import hush_torchao
from validate.runtimes import IMAGE_MARK, Identity, Message, RuntimeFailure, Unsupported

_IMAGE_IDS = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")


class CheckpointFolder:
    """The part of a Session that needs no weights; see Session for the methods."""

    def __init__(self, folder: Path, trust_remote_code: bool = False) -> None:
        hush_torchao()
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

    # ---- the vocabulary

    def identity(self) -> Identity:
        tokenizer = self.tokenizer
        eos = token_id(tokenizer.eos_token_id)
        # What stops transformers' generate: the generation config's list, else the model config's, and the tokenizer's.
        stops = getattr(self._generation, "eos_token_id", None)
        stops = self._text.eos_token_id if stops is None else stops
        ends = frozenset([*(stops if isinstance(stops, list | tuple) else [stops]), eos]) - {None, -1}
        plain, special = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        bos = token_id(tokenizer.bos_token_id)
        return Identity(
            vocab=self._text.vocab_size,
            bos=bos,
            eos=eos,
            pad=token_id(tokenizer.pad_token_id),
            end_of_generation=ends,
            adds_bos=len(special) > len(plain) and special[0] == bos,
            adds_eos=len(special) > len(plain) and special[-1] == eos,
            templates=self._templates(),
            image_ids={n: i for n in _IMAGE_IDS if isinstance(i := getattr(self._config, n, None), int)},
            added={str(token): token.special for token in tokenizer.added_tokens_decoder.values()},
            sees=getattr(self._config, "vision_config", None) is not None,
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
        return list(
            self.tokenizer.encode(
                text, add_special_tokens=add_special, split_special_tokens=not parse_special, verbose=False
            )
        )

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self) -> list[str]:
        pieces = [""] * self._text.vocab_size
        for piece, i in self.tokenizer.get_vocab().items():
            if i < len(pieces):
                pieces[i] = piece
        return pieces

    # ---- the template

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        generation_prompt: bool,
        templates: dict[str, str] | None = None,
    ) -> str:
        """The rendered conversation; with `templates`, those instead of the checkpoint's own."""
        templates = self._templates() if templates is None else templates
        if not templates:
            raise RuntimeFailure("there is no chat template")
        # As transformers chooses: the template named tool_use when there are tools and there is one.
        name = "tool_use" if tools and "tool_use" in templates else "default"
        if name not in templates:
            raise RuntimeFailure("there is no default chat template")
        return str(
            self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                chat_template=templates[name],
                add_generation_prompt=generation_prompt,
                tokenize=False,
            )
        )

    # ---- images

    @functools.cached_property
    def _processor(self) -> Any:
        """The image processor that needs PIL only: torchvision's would drag a CUDA build of torch along."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        try:
            return Qwen2VLImageProcessorPil.from_pretrained(self._folder, local_files_only=True)
        except Exception as error:
            raise RuntimeFailure(f"the image processor does not load: {first_line(error)}") from error

    def image_tokens(self, width: int, height: int) -> int:
        """As the processor counts; raises RuntimeFailure for a size that it refuses."""
        try:
            patches = self._processor.get_number_of_image_patches(height, width)
        except (ValueError, ZeroDivisionError) as error:  # one side 200 times the other
            raise RuntimeFailure(f"the image processor refuses {width} x {height}: {first_line(error)}") from error
        return int(patches // self._processor.merge_size**2)

    @property
    def image_unit(self) -> int:
        """Pixels of the side of what becomes one image token."""
        return int(self._processor.patch_size * self._processor.merge_size)

    @functools.cached_property
    def _pixel_limits(self) -> tuple[int, int] | None:
        if getattr(self._config, "vision_config", None) is None:
            return None
        try:
            size = self._processor.size
            return int(size["shortest_edge"]), int(size["longest_edge"])
        except (RuntimeFailure, KeyError, TypeError):  # no processor, or one of another family
            return None

    def image_prompt(self, text: str, tools: Sequence[Message] | None = None) -> str:
        """A user's turn of one image and `text`, rendered, with IMAGE_MARK where the image goes.

        By the tokenizer's template, else the processor's; a checkpoint whose templates know no images gets the bare
        two, one after the other.
        """
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        for templates in (self._templates(), self._processor_templates()):
            try:
                prompt = self.render([message], tools, True, templates)
            except Exception:  # a template raises what it likes when content is not a string
                continue
            if prompt.count(self.image_span) == 1:
                return prompt.replace(self.image_span, IMAGE_MARK)
        return f"{IMAGE_MARK}{text}"

    @functools.cached_property
    def image_span(self) -> str:
        """What the source's chat template writes for one image."""
        ids = self.identity().image_ids
        names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
        return "".join(self.tokenizer.convert_ids_to_tokens(ids[name]) for name in names if name in ids)

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        """(width, height) the source's processor gives the model; the image's own when nothing is resized."""
        _, rows, columns = self.see([pixels])["image_grid_thw"][0].tolist()
        patch = self._processor.patch_size
        return columns * patch, rows * patch

    def see(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What the image processor makes of images: pixel_values (patch, value), image_grid_thw (image, 3)."""
        from PIL import Image

        return dict(self._processor([Image.fromarray(pixels) for pixels in images], return_tensors="np"))

    def image_rows(self, prompts: Sequence[str], image_grid_thw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their mask, int64 (prompt, token): a batch padded on the left.

        Each prompt has one IMAGE_MARK; its placeholder is repeated once per embedding of the image.
        """
        image_id = self.identity().image_ids.get("image_token_id", -1)
        if image_id < 0:
            raise Unsupported("the config has no image_token_id: images of this family are not known here yet")
        counts = image_grid_thw.prod(1) // self._processor.merge_size**2
        rows = []
        for prompt, count in zip(prompts, counts.tolist(), strict=True):
            ids = self.tokenize(prompt.replace(IMAGE_MARK, self.image_span))
            where = ids.index(image_id)
            rows.append(ids[:where] + [image_id] * count + ids[where + 1 :])
        return self.padded(rows)

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of a batch, int64 (row, token), padded on the left."""
        longest, pad = max(map(len, rows)), max(0, token_id(self.tokenizer.pad_token_id))
        ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return np.array(ids, np.int64), np.array(mask, np.int64)

    def close(self) -> None:
        """Nothing to give back; a session that computes has more to say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _generation(folder: Path) -> Any:
    """generation_config.json, None where there is none."""
    import transformers

    if not (folder / "generation_config.json").is_file():
        return None
    return transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)


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
