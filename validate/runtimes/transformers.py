"""The reference: a source checkpoint on transformers, float32 on the CPU."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from validate import memory
from validate.runtimes import IMAGE_MARK, Identity, Message, RuntimeFailure, Unsupported
from validate.runtimes._half import compute_in_float32
from validate.runtimes._threads import useful_threads

NAME = "transformers"
FORMATS = ("safetensors",)
ISOLATED = False

_IMAGE_IDS = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")


def available() -> str | None:
    """Why transformers cannot run here, or None."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'convert[validate]'" if missing else None


def version() -> str:
    """What ran, for the report."""
    return f"transformers {importlib.metadata.version('transformers')}, torch {importlib.metadata.version('torch')}"


def open(
    model: Path,
    *,
    projector: Path | None = None,
    context: int = 512,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> TransformersSession:
    """A session on a checkpoint folder. Code in the folder is never run unless `trust_remote_code` says so."""
    return TransformersSession(model, threads, trust_remote_code)


class TransformersSession:
    """A checkpoint in this process; see Session for the methods."""

    def __init__(self, folder: Path, threads: int | None, trust_remote_code: bool) -> None:
        import torch
        import transformers

        self._torch, self._folder = torch, folder
        self._threads_before = torch.get_num_threads()
        weights = [*folder.glob("*.safetensors")]
        torch.set_num_threads(threads or useful_threads(*weights))
        half = _half_type(weights)
        common = {"trust_remote_code": trust_remote_code, "local_files_only": True}  # a validation downloads nothing
        try:
            with _quiet():
                self._config = transformers.AutoConfig.from_pretrained(folder, **common)
                auto = transformers.AutoModelForCausalLM
                if getattr(self._config, "vision_config", None) is not None:
                    auto = transformers.AutoModelForImageTextToText
                self._model, loading = auto.from_pretrained(
                    folder,
                    dtype=getattr(torch, half or "float32"),
                    use_safetensors=True,
                    output_loading_info=True,
                    **common,
                )
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
        except Exception as error:  # transformers raises anything from OSError to KeyError for a folder it cannot read
            raise RuntimeFailure(f"transformers could not load {folder}: {_first_line(error)}") from error
        _refuse_incomplete(loading)
        if half:
            compute_in_float32(torch, self._model)
        self._model.eval()
        self._text = self._config.get_text_config()

    # ---- the vocabulary

    def identity(self) -> Identity:
        tokenizer = self.tokenizer
        eos = _id(tokenizer.eos_token_id)
        # What stops transformers' generate: the generation config's list, else the model config's, and the tokenizer's.
        generation = getattr(self._model, "generation_config", None)
        stops = getattr(generation, "eos_token_id", None)
        stops = self._text.eos_token_id if stops is None else stops
        ends = frozenset([*(stops if isinstance(stops, list | tuple) else [stops]), eos]) - {None, -1}
        plain, special = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        bos = _id(tokenizer.bos_token_id)
        return Identity(
            vocab=self._text.vocab_size,
            bos=bos,
            eos=eos,
            pad=_id(tokenizer.pad_token_id),
            end_of_generation=ends,
            adds_bos=len(special) > len(plain) and special[0] == bos,
            adds_eos=len(special) > len(plain) and special[-1] == eos,
            templates=self._templates(),
            image_ids={n: i for n in _IMAGE_IDS if isinstance(i := getattr(self._config, n, None), int)},
            added={str(token): token.special for token in tokenizer.added_tokens_decoder.values()},
            sees=getattr(self._config, "vision_config", None) is not None,
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

    # ---- text

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """No gradients; what torch raises becomes a RuntimeFailure."""
        try:
            with self._torch.inference_mode():
                yield
        except (RuntimeError, IndexError, ValueError, TypeError, MemoryError) as error:
            raise RuntimeFailure(f"transformers could not run the source: {_first_line(error)}") from error

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        with self._running():
            out = self._model(input_ids=self._torch.tensor([list(tokens)]), use_cache=False)
        return out.logits[0].numpy()  # type: ignore[no-any-return]

    @property
    def model(self) -> Any:
        """The torch module, for who looks into it while it runs."""
        return self._model

    def run_layers(self, tokens: Sequence[int]) -> None:
        """Put tokens through every layer below the head; what is hooked into `model` sees them go by."""
        with self._running():
            self._model.base_model(input_ids=self._torch.tensor([list(tokens)]), use_cache=False)

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        ids = self._torch.tensor([list(tokens)])
        return self._greedy({"input_ids": ids, "attention_mask": self._torch.ones_like(ids)}, count)[0]

    def _greedy(self, inputs: dict[str, Any], count: int) -> list[list[int]]:
        ends = sorted(self.identity().end_of_generation)
        pad = max(0, _id(self.tokenizer.pad_token_id))
        with self._running(), _quiet():
            out = self._model.generate(
                **inputs,
                max_new_tokens=count,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,  # a generation_config may set one; greedy here means the largest logit
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=ends or None,
                pad_token_id=pad,
            )
        return [_until_end(row, ends) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]

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
            raise RuntimeFailure(f"the image processor does not load: {_first_line(error)}") from error

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
        _, rows, columns = self._see([pixels])["image_grid_thw"][0].tolist()
        patch = self._processor.patch_size
        return columns * patch, rows * patch

    def _see(self, images: Sequence[np.ndarray]) -> dict[str, Any]:
        from PIL import Image

        return dict(self._processor([Image.fromarray(pixels) for pixels in images], return_tensors="pt"))

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        with self._running():
            out = self._model.get_image_features(**self._see([pixels]))
        out = getattr(out, "pooler_output", out)
        rows = out if isinstance(out, self._torch.Tensor) else self._torch.cat(list(out))
        return rows.numpy()  # type: ignore[no-any-return]

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        with self._running():
            out = self._model(**self._image_inputs([prompt], [pixels]), use_cache=False)
        return out.logits[0, -1].numpy()  # type: ignore[no-any-return]

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return self._greedy(self._image_inputs(prompts, images), count)

    def _image_inputs(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, Any]:
        """One batch, padded on the left; each image's placeholder repeated once per embedding."""
        torch, image_id = self._torch, self.identity().image_ids.get("image_token_id", -1)
        if image_id < 0:
            raise Unsupported("the config has no image_token_id: images of this family are not known here yet")
        seen = self._see(images)
        counts = seen["image_grid_thw"].prod(1) // self._processor.merge_size**2
        rows = []
        for prompt, count in zip(prompts, counts.tolist(), strict=True):
            ids = self.tokenize(prompt.replace(IMAGE_MARK, self.image_span))
            where = ids.index(image_id)
            rows.append(ids[:where] + [image_id] * count + ids[where + 1 :])
        longest = max(map(len, rows))
        pad = max(0, _id(self.tokenizer.pad_token_id))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        kinds = (ids == image_id).int() * mask.int()
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds, **seen}

    def close(self) -> None:
        self._model = None
        self._torch.set_num_threads(self._threads_before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _half_type(files: Sequence[Path]) -> str:
    """The 16-bit type to keep the matrices in where they leave too little of the free memory as float32, else none.

    Raises RuntimeFailure where they do not fit at all: the system would end this process without a word.
    """
    need, free = memory.weights(files), memory.free_bytes()
    if free is None or need.full_bytes <= free * memory.FREE_SHARE:
        return ""
    if need.half_bytes > free:
        raise RuntimeFailure(
            f"the source's weights take {need.half_bytes / 1e9:.1f} GB of memory to compute in float32, "
            f"{free / 1e9:.1f} GB are free: end what else runs here, or validate on a machine with more"
        )
    return need.half_type


def _refuse_incomplete(loading: dict[str, Any]) -> None:
    """A reference with a tensor made up, or one left out, is no reference: transformers only warns of them."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [str(key) for key in loading.get(kind) or ()]
        if found:
            raise RuntimeFailure(
                f"transformers loaded the source with {len(found)} {kind.replace('_', ' ')}: "
                + ", ".join(sorted(found)[:5])
                + (", …" if len(found) > 5 else "")
            )


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Without the padding that a batch puts behind a finished row."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]


def _id(token: int | None) -> int:
    return -1 if token is None else token


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


class _quiet:
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
