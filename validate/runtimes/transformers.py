"""The reference: a source checkpoint on transformers, float32 on the CPU.

Its weights are loaded when something asks for what only they can answer: where all of that is kept from an earlier
run, they never are.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from validate import memory
from validate.distribution import install_command
from validate.embeddings import EMBEDDINGS, SCORES, TEXT
from validate.errors import RuntimeFailure
from validate.runtimes import _sentences
from validate.runtimes._folder import CheckpointFolder, by_length, first_line, quiet, token_id, until_end
from validate.runtimes._half import compute_in_float32
from validate.runtimes._optional import optional
from validate.runtimes._sentences import read_sentences
from validate.runtimes._threads import useful_threads
from validate.runtimes.base import Identity, Runtime
from validate.sentences import Sentences

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

Loading: TypeAlias = Mapping[str, Sequence[object]]  # what transformers says of keys that it missed, and the like


class TransformersSession(CheckpointFolder):
    """A checkpoint in this process; see Session for the methods.

    Opening it reads tokenizer, config and processors. Weights that do not load are a RuntimeFailure of the first method
    that needs them.
    """

    def __init__(self, folder: Path, threads: int | None, trust_remote_code: bool) -> None:
        self._use_threads(threads or useful_threads(*folder.glob("*.safetensors")))
        self._trust_remote_code = trust_remote_code
        super().__init__(folder, trust_remote_code)

    def _use_threads(self, threads: int) -> None:
        import torch

        self._torch, self.threads = torch, threads
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        half = _half_type([*self._folder.glob("*.safetensors")])
        dtype = {"bfloat16": self._torch.bfloat16, "float16": self._torch.float16}.get(half, self._torch.float32)
        with self.loading():
            model, loading = self._read_weights(dtype=dtype, trust_remote_code=self._trust_remote_code)
        _refuse_incomplete(loading, _sentences.UNUSED if self._gives_vectors else ())
        if half:
            compute_in_float32(self._torch, model)
        return model.eval()

    def _read_weights(self, **options: object) -> tuple[PreTrainedModel, Loading]:
        """The torch module, and what transformers says of keys it missed or did not expect."""
        try:
            with quiet():
                return self._auto_class.from_pretrained(  # type: ignore[no-any-return]
                    self._folder, use_safetensors=True, output_loading_info=True, local_files_only=True, **options
                )
        except Exception as error:  # transformers raises anything from OSError to KeyError for weights it cannot read
            raise RuntimeFailure(f"transformers could not load {self._folder}: {first_line(error)}") from error

    @property
    def _auto_class(self) -> type[_BaseAutoModelClass]:
        """What of transformers loads the weights: by what the config's own class gives."""
        import transformers

        auto: type[_BaseAutoModelClass] = transformers.AutoModelForCausalLM
        if self._class_name.endswith(_sentences.CLASSIFIER):
            auto = transformers.AutoModelForSequenceClassification
        elif self._gives_vectors:
            own = self._sentences is None or self._class_name.endswith("Model")
            auto = (optional(transformers, self._class_name) if own else None) or transformers.AutoModel
        elif optional(self._config, "vision_config") is not None:
            auto = transformers.AutoModelForImageTextToText
        elif optional(self._config, "audio_config") is not None:
            auto = class_of_sounds(self._config.model_type)
        return auto

    @functools.cached_property
    def _gives_vectors(self) -> bool:
        """Whether the class of the config, or sentence-transformers' files beside it, make of a text a vector."""
        remote = optional(self._config, "auto_map") or {}
        return self._sentences is not None or _sentences.gives_vectors(self._class_name, remote)

    @property
    def _class_name(self) -> str:
        named = optional(self._config, "architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @functools.cached_property
    def _sentences(self) -> Sentences | None:
        return read_sentences(self._folder)

    # ---- embeddings

    def identity(self) -> Identity:
        gives = EMBEDDINGS if self._gives_vectors else TEXT
        return replace(super().identity(), gives=SCORES if self._class_name.endswith(_sentences.CLASSIFIER) else gives)

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        if self._class_name.endswith(_sentences.CLASSIFIER):
            ids = self._torch.tensor([list(tokens)])
            with self._running():
                return self._model(input_ids=ids).logits[0].numpy()  # type: ignore[no-any-return]
        vectors = self._token_vectors(tokens)
        with self._running():
            vector = _sentences.pooled(vectors, self._sentences)
            for dense in self._sentences.dense if self._sentences else ():
                vector = _sentences.through(vector, dense, self._folder)
        return vector.numpy()  # type: ignore[no-any-return]

    def token_vectors(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (token, width), what `embed` pools."""
        return self._token_vectors(tokens).numpy()  # type: ignore[no-any-return]

    def _token_vectors(self, tokens: Sequence[int]) -> Tensor:
        ids = self._torch.tensor([list(tokens)])
        with self._running():
            out = self._model.base_model(input_ids=ids, attention_mask=self._torch.ones_like(ids))
        return out.last_hidden_state[0]

    # ---- text

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """The weights loaded, no gradients; what torch raises becomes a RuntimeFailure."""
        _ = self._model  # not inside: parameters made in inference mode are of another kind
        try:
            with self._torch.inference_mode():
                yield
        except (RuntimeError, IndexError, ValueError, TypeError, MemoryError) as error:
            raise RuntimeFailure(f"transformers could not run the source: {first_line(error)}") from error

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        with self._running():
            out = self._model(input_ids=self._torch.tensor([list(tokens)]), use_cache=False)
        return out.logits[0].numpy()  # type: ignore[no-any-return]

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        rows, cache = [], None
        with self._running():
            for place, token in enumerate(tokens):
                ids, at = self._torch.tensor([[token]]), self._torch.tensor([[place]])  # no image's shift of positions
                out = self._model(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                rows.append(out.logits[0])
        return self._torch.cat(rows).numpy()  # type: ignore[no-any-return]

    @property
    def model(self) -> PreTrainedModel:
        """The torch module, loaded by now, for who looks into it while it runs."""
        return self._model

    @property
    def bytes_to_load(self) -> int:
        """Memory that the weights will take once something asks for them; none when they are loaded."""
        if "_model" in vars(self):
            return 0
        need, free = memory.weights(self._folder.glob("*.safetensors")), memory.free_bytes()
        fits = free is None or need.full_bytes <= free * memory.FREE_SHARE
        return need.full_bytes if fits else need.half_bytes

    @property
    def bytes_held(self) -> int:
        if vars(self).get("_model") is None:
            return 0
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    def give_back(self) -> None:
        vars(self).pop("_model", None)
        gc.collect()  # a model's hooks point back at it

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return self.generate_all([tokens], count)[0]

    def generate_all(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return by_length(prompts, lambda rows: self._write(rows, count))

    def _write(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        ids = self._torch.tensor([list(prompt) for prompt in prompts])
        return self._greedy({"input_ids": ids, "attention_mask": self._torch.ones_like(ids)}, count)

    def _greedy(self, inputs: Mapping[str, Tensor], count: int) -> list[list[int]]:
        ends = sorted(self.identity().end_of_generation)
        pad = max(0, token_id(self.tokenizer.pad_token_id))
        with self._running(), quiet():
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
        return [until_end(row, ends) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]

    def choices(self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows are padded behind their end, where no causal model looks: any architecture may be read so."""
        rows = [[*prompt, *draft] for prompt, draft in zip(prompts, drafts, strict=True)]
        longest = max(map(len, rows))
        ids = self._torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        first = min(map(len, prompts)) - 1
        picked = self._likeliest({"input_ids": ids}, longest - first)
        return [
            picks[len(prompt) - 1 - first :][: len(draft) + 1]
            for prompt, draft, picks in zip(prompts, drafts, picked, strict=True)
        ]

    def _likeliest(self, inputs: Mapping[str, Tensor], count: int) -> list[list[int]]:
        """(row, count) the likeliest token behind each of the last `count` ones of every row."""
        with self._running():
            few = {"logits_to_keep": count} if self._keeps_few else {}
            out = self._model(**inputs, use_cache=False, **few)
        return out.logits[:, -count:].argmax(-1).tolist()  # type: ignore[no-any-return]

    @functools.cached_property
    def _keeps_few(self) -> bool:
        """Whether the model computes logits of the positions asked for alone: 600 MB for a thousand of 152k."""
        return "logits_to_keep" in inspect.signature(type(self._model).forward).parameters

    # ---- images

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        found = self.process_images([pixels]).arrays
        with self._running():
            out = self._model.get_image_features(**self._tensors(found))
            rows = self._rows(out if (pooled := optional(out, "pooler_output")) is None else pooled)
            deep = [self._rows(level) for level in optional(out, "deepstack_features") or ()]
            return self.images.completed(self._torch.cat([rows, *deep], -1).numpy(), found, self._embed)

    def _embed(self, token: int) -> np.ndarray:
        """The embedding of a token."""
        return self._model.get_input_embeddings()(self._torch.tensor([token]))[0].float().numpy()  # type: ignore[no-any-return]

    def _rows(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Embeddings (image token, hidden) of a tensor of any axes before the last, or of a list of such."""
        parts = [features] if isinstance(features, self._torch.Tensor) else features
        return self._torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        inputs = self._tensors(self.image_inputs([prompt], [pixels]))
        with self._running():
            out = self._model(**inputs, use_cache=False)
        return out.logits[0, -1].numpy()  # type: ignore[no-any-return]

    def image_embeddings_by_rule(self, pixels: np.ndarray) -> np.ndarray:
        with self.images.reordered(self._model):
            return self.image_embeddings(pixels)

    def image_logits_by_rule(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        with self.images.reordered(self._model):
            return self.image_logits(prompt, pixels)

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return self._greedy(self._tensors(self.image_inputs(prompts, images)), count)

    def image_choices(
        self, prompts: Sequence[str], images: Sequence[np.ndarray], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        arrays = self.image_inputs(prompts, images)
        longest = max(map(len, drafts))
        behind = np.zeros((len(drafts), longest), np.int64)
        for row, draft in zip(behind, drafts, strict=True):
            row[: len(draft)] = draft
        arrays["input_ids"] = np.concatenate([arrays["input_ids"], behind], 1)
        for name, more in (("attention_mask", np.ones_like(behind)), (self.images.kinds, np.zeros_like(behind))):
            if name:
                arrays[name] = np.concatenate([arrays[name], more.astype(arrays[name].dtype)], 1)
        picked = self._likeliest(self._tensors(arrays), longest + 1)
        return [picks[: len(draft) + 1] for picks, draft in zip(picked, drafts, strict=True)]

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: self._torch.from_numpy(array) for name, array in arrays.items()}

    def close(self) -> None:
        vars(self)["_model"] = None  # and what was never loaded, is not from here on
        self._torch.set_num_threads(self._threads_before)


def class_of_sounds(kind: str) -> type[_BaseAutoModelClass]:
    """transformers' own choice of a class for a model that hears; it files some as if they had a decoder apart."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as KNOWN

    found: type[_BaseAutoModelClass] = transformers.AutoModelForSeq2SeqLM
    if kind in KNOWN:
        found = transformers.AutoModelForMultimodalLM
    return found


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


def _refuse_incomplete(loading: Loading, unused: tuple[str, ...] = ()) -> None:
    """A reference with a tensor made up, or one left out, is no reference: transformers only warns of them.

    `unused` are beginnings of tensors that nothing asked of it goes through.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = [str(key) for key in loading.get(kind) or () if not str(key).startswith(unused)]
        if found:
            raise RuntimeFailure(
                f"transformers loaded the source with {len(found)} {kind.replace('_', ' ')}: "
                + ", ".join(sorted(found)[:5])
                + (", …" if len(found) > 5 else "")
            )


class Transformers(Runtime):
    """transformers on the CPU, in this process."""

    NAME = "transformers"
    DISTRIBUTIONS = ("transformers", "torch")
    FORMATS = ("safetensors", "checkpoint")
    ISOLATED = False

    def available(self) -> str | None:
        """Why transformers cannot run here, or None."""
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed: {install_command('validate')}" if missing else None

    def version(self) -> str:
        """What ran, for the report."""
        return f"transformers {importlib.metadata.version('transformers')}, torch {importlib.metadata.version('torch')}"

    def open(
        self,
        model: Path,
        *,
        projector: Path | None = None,
        context: int = 512,
        threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> TransformersSession:
        """A session on a checkpoint's folder, or that which the weights' file `model` lies in.

        Code in the folder is never run unless `trust_remote_code` says so.
        """
        return TransformersSession(model if model.is_dir() else model.parent, threads, trust_remote_code)


RUNTIME = Transformers()
