"""Graphs of one model run together: text, and images where there is a vision graph.

    from validate.runtimes import onnxruntime
    with onnxruntime.RUNTIME.open(Path("out/demo/onnx/model.onnx")) as session:
        ids = session.tokenize("Hello")
        session.detokenize(session.generate(ids, 20))

The graph that gives logits is named; the others lie beside it under the same suffix (`decoder_model_merged_fp16.onnx`
finds `embed_tokens_fp16.onnx` and `vision_encoder_fp16.onnx`); tokenizer, templates and config.json lie there too, or
one folder up where the graphs are in `onnx/`, as on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from validate.errors import RuntimeFailure, Unsupported
from validate.runtimes._folder import CheckpointFolder, by_length, until_end
from validate.runtimes._images.base import ImageInputs
from validate.runtimes.base import Identity

MAIN_STEMS = ("decoder_model_merged", "model")  # what a file that gives logits is called before its suffix
PAST = "past_"  # what the cache's inputs begin with: past_key_values.0.key, past_conv.0, past_ssm.0
KEYS, PRESENT = "past_key_values.", "present."  # the cache of attention, and the outputs that take its place
MARKED = "token_type_ids"  # where a source takes it its images' tokens see each other: a graph's mask is 2 for them
IMAGE_ROWS = ("image_features", "image_embeds")  # what a vision graph's output is called
PREFILL_TOKENS = 512  # read at once where only the last logits are wanted: 311 MB of logits for a vocabulary of 152k


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph: its type, and its axes, numbers where they are fixed."""

    dtype: np.dtype
    shape: tuple[int | str | None, ...]


class Graph(Protocol):
    """A loaded graph on some runtime. Raises RuntimeFailure, in the runtime's own words, for what it cannot do."""

    @property
    def inputs(self) -> Mapping[str, Port]: ...

    @property
    def outputs(self) -> Mapping[str, Port]: ...

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The outputs named in `wanted`, all when left out. `feeds` has an array of the right type for every input."""

    def close(self) -> None: ...


Load = Callable[[Path], Graph]


@dataclass(frozen=True)
class _Batch:
    """Tokens to read, int64 (row, token), padded on the left."""

    ids: np.ndarray
    mask: np.ndarray  # 0 where padding is
    positions: np.ndarray  # (row, token), or (3, row, token) where images have rows and columns
    embeds: np.ndarray | None = None  # (row, token, hidden), where they are more than the tokens' own

    def __getitem__(self, part: slice) -> _Batch:
        embeds = None if self.embeds is None else self.embeds[:, part]
        return _Batch(self.ids[:, part], self.mask[:, part], self.positions[..., part], embeds)


@dataclass(frozen=True)
class _State:
    """What a batch has read so far."""

    past: Mapping[str, np.ndarray]  # input name -> (row, head, token, width)
    mask: np.ndarray  # int64 (row, token): 0 where padding is
    deltas: np.ndarray  # int64 (row, 1): the next token's position less the number of tokens, padding left out


class GraphSession(CheckpointFolder):
    """A model in graphs; see Session for the methods."""

    def __init__(self, model: Path, load: Load, vision: Path | None = None, threads: int | None = None) -> None:
        super().__init__(home_of(model))
        self.threads = threads
        self._model = model
        self._graphs: list[Graph] = []
        self._main = self._load(load, model)
        self._embedder = self._sibling(load, "embed_tokens") if "inputs_embeds" in self._main.inputs else None
        self._vision = self._sibling(load, "vision_encoder") if vision is None else self._load(load, vision)
        if "inputs_embeds" in self._main.inputs and self._embedder is None:
            raise RuntimeFailure(f"{model.name} takes embeddings, and beside it is no graph that makes them of tokens")
        self._identity = replace(super().identity(), vocab=self._vocab(), has_vision=self._vision is not None)

    def _load(self, load: Load, path: Path) -> Graph:
        with self.loading():
            self._graphs.append(load(path))
        return self._graphs[-1]

    def _sibling(self, load: Load, part: str) -> Graph | None:
        path = sibling(self._model, part)
        return None if path is None else self._load(load, path)

    def _vocab(self) -> int:
        if "logits" not in self._main.outputs:
            raise RuntimeFailure(f"{self._model.name} has no output called logits")
        vocab = self._main.outputs["logits"].shape[-1]
        return vocab if isinstance(vocab, int) else int(self._text.vocab_size)

    def identity(self) -> Identity:
        return self._identity

    def close(self) -> None:
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()

    # ---- text

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self._run(_text(self._ids(tokens)), self._empty_state(1))[0][0]  # type: ignore[no-any-return]

    def decode_logits(self, tokens: Sequence[int]) -> np.ndarray:
        ids, state, rows = self._ids(tokens), self._empty_state(1), []
        for i in range(ids.shape[1]):
            logits, state = self._next(ids[:, i : i + 1], state)
            rows.append(logits[0])
        return np.concatenate(rows)

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return self._continue(*self._read(_text(self._ids(tokens))), count)[0]

    def generate_all(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        if self._takes_one_row:
            return super().generate_all(prompts, count)
        return by_length(prompts, lambda rows: self._continue(*self._read(_text(self._rows(rows))), count))

    def _rows(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        return np.concatenate([self._ids(prompt) for prompt in prompts])

    @property
    def _takes_one_row(self) -> bool:
        """Whether a graph was made for one text at a time."""
        return any(isinstance(port.shape[0], int) for port in self._main.inputs.values() if port.shape)

    # ---- images

    def image_embeddings(self, pixels: np.ndarray) -> np.ndarray:
        return self._embed_images(self.process_images([pixels]).arrays)

    def image_logits(self, prompt: str, pixels: np.ndarray) -> np.ndarray:
        return self._read_images([prompt], [pixels])[0][0]  # type: ignore[no-any-return]

    def image_generate(self, prompts: Sequence[str], images: Sequence[np.ndarray], count: int) -> list[list[int]]:
        return self._continue(*self._read_images(prompts, images), count)

    def image_tokens(self, width: int, height: int) -> int:
        self._require_vision()
        return super().image_tokens(width, height)

    def process_images(self, images: Sequence[np.ndarray]) -> ImageInputs:
        self._require_vision()
        return super().process_images(images)

    def _require_vision(self) -> None:
        if self._vision is None:
            raise Unsupported("there is no vision graph beside this one")

    def _embed_images(self, processed: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (image token, hidden) of all images, one after the other."""
        assert self._vision is not None
        wanted = next((name for name in IMAGE_ROWS if name in self._vision.outputs), IMAGE_ROWS[0])
        made = self._vision.run(_feeds(self._vision, processed))[wanted].astype(np.float32, copy=False)
        return made.reshape(-1, made.shape[-1])

    def _read_images(self, prompts: Sequence[str], images: Sequence[np.ndarray]) -> tuple[np.ndarray, _State]:
        """The last logits of prompts with an image each, a batch padded on the left, and the state after them."""
        from validate.runtimes import _qwen2_5_vl_inputs as inputs  # shipped beside the graphs, and so proven with them

        processed = self.process_images(images)
        image_id = self._identity.image_ids.get("image_token_id", -1)
        ids, mask = self.image_rows(prompts, processed)
        embeds = inputs.merge_images(self._embed(ids), ids, self._embed_images(processed.arrays), image_id)
        grid = processed.arrays.get("image_grid_thw")
        if grid is None:  # image tokens are counted as text is
            seen = mask + (ids == image_id) * mask if self.images.kinds == MARKED else mask
            return self._read(_Batch(ids, seen, np.maximum(mask.cumsum(1) - 1, 0), embeds))
        positions, deltas = inputs.position_ids(
            ids, mask, grid, image_token_id=image_id, spatial_merge_size=self._processor.merge_size
        )
        logits, state = self._read(_Batch(ids, mask, positions, embeds))
        return logits, replace(state, deltas=deltas)

    # ---- running the graphs

    def _ids(self, tokens: Sequence[int]) -> np.ndarray:
        """int64 (1, token); no runtime is asked for tokens that do not exist."""
        wrong = [token for token in tokens if not 0 <= token < self._identity.vocab]
        if wrong or not tokens:
            what = f"token id {wrong[0]} is outside of a vocabulary of {self._identity.vocab}" if wrong else "no tokens"
            raise RuntimeFailure(f"{self._model.name}: {what}")
        return np.array([list(tokens)], np.int64)

    def _empty_state(self, rows: int) -> _State:
        """The state before the first token: a cache of no tokens."""
        past = {
            name: np.zeros(tuple(_fixed(port, name, axis, rows) for axis in range(len(port.shape))), port.dtype)
            for name, port in self._main.inputs.items()
            if name.startswith(PAST)
        }
        return _State(past, np.zeros((rows, 0), np.int64), np.zeros((rows, 1), np.int64))

    def _read(self, batch: _Batch) -> tuple[np.ndarray, _State]:
        """The last logits of a batch, float32 (row, vocab), and the state after it; read in pieces."""
        state, logits = self._empty_state(len(batch.ids)), np.empty(0)
        count = batch.ids.shape[1] if (batch.mask > 1).any() else PREFILL_TOKENS  # an image sees itself as a whole
        for start in range(0, batch.ids.shape[1], count):
            logits, state = self._run(batch[start : start + count], state, keep=True)
        return logits[:, -1], state

    def _next(self, ids: np.ndarray, state: _State) -> tuple[np.ndarray, _State]:
        """Logits (row, 1, vocab) of one more token a row."""
        positions = (state.mask > 0).sum(1, keepdims=True) + state.deltas
        return self._run(_Batch(ids, np.ones_like(ids), positions), state, keep=True)

    def _run(self, batch: _Batch, state: _State, keep: bool = False) -> tuple[np.ndarray, _State]:
        """Logits float32 (row, token, vocab) of a batch behind `state`; with `keep`, also the state after it."""
        mask, positions = np.concatenate([state.mask, batch.mask], 1), batch.positions
        port = self._main.inputs.get("position_ids")
        if port is not None and len(port.shape) == 3 and positions.ndim == 2:
            positions = np.broadcast_to(positions, (3, *positions.shape))  # text: all three axes alike
        given = {"input_ids": batch.ids, "attention_mask": mask, "position_ids": positions, **state.past}
        if self._embedder is not None:
            given["inputs_embeds"] = self._embed(batch.ids) if batch.embeds is None else batch.embeds
        out = self._main.run(_feeds(self._main, given), None if keep else ["logits"])
        past = {name: out[_present(name)] for name in state.past} if keep else {}
        return out["logits"].astype(np.float32, copy=False), _State(past, mask, state.deltas)

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        if self._embedder is None:
            raise Unsupported(f"{self._model.name} takes no embeddings")
        return self._embedder.run({"input_ids": ids})["inputs_embeds"].astype(np.float32, copy=False)

    def _continue(self, logits: np.ndarray, state: _State, count: int) -> list[list[int]]:
        """Greedy tokens of every row after its last logits (row, vocab), at most `count`."""
        ends = sorted(self._identity.end_of_generation)
        columns = [self._best(logits)]
        ended = np.isin(columns[-1], ends)
        while len(columns) < count and not ended.all():
            logits, state = self._next(columns[-1][:, None].astype(np.int64), state)
            columns.append(self._best(logits[:, -1]))
            ended |= np.isin(columns[-1], ends)
        return [until_end(row, ends) for row in np.stack(columns, 1).tolist()]

    def _best(self, logits: np.ndarray) -> np.ndarray:
        """The token of the largest logit of each row; of NaN the first would be the largest."""
        if not np.isfinite(logits).all():
            raise RuntimeFailure(f"{self._model.name}: the logits of a token it wrote are not finite")
        best: np.ndarray = logits.argmax(-1)
        return best


def home_of(model: Path) -> Path:
    """The folder of what a graph goes with, config.json and the tokenizer: its own, or the one that `onnx/` is in."""
    folder, outer = model.parent, model.parent.parent
    inner = folder.name == "onnx" and not (folder / "config.json").exists() and (outer / "config.json").is_file()
    return outer if inner else folder


def sibling(model: Path, part: str) -> Path | None:
    """The graph of another part of the model in the same precision; None where there is none."""
    for stem in MAIN_STEMS:
        if model.name.startswith(stem):
            path = model.with_name(part + model.name.removeprefix(stem))
            return path if path.is_file() else None
    return None


def _text(ids: np.ndarray) -> _Batch:
    """A batch without padding and without images."""
    return _Batch(ids, np.ones_like(ids), np.broadcast_to(np.arange(ids.shape[1]), ids.shape))


def _feeds(graph: Graph, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the graph takes of what there is, in its own types. An input that nobody knows is a RuntimeFailure."""
    unknown = [name for name in graph.inputs if name not in given]
    if unknown:
        raise RuntimeFailure(f"the graph has inputs that are not known here: {', '.join(unknown[:5])}")
    return {name: np.ascontiguousarray(given[name], port.dtype) for name, port in graph.inputs.items()}


def _present(name: str) -> str:
    """The output that takes an input's place: present.0.key of past_key_values.0.key, present_conv.0 of past_conv.0."""
    return PRESENT + name.removeprefix(KEYS) if name.startswith(KEYS) else f"present_{name.removeprefix(PAST)}"


def _fixed(port: Port, name: str, axis: int, rows: int) -> int:
    """The size of an axis of an empty cache: (row, head, token, width), or (row, ...) of a state."""
    keys = name.startswith(KEYS)
    if axis == 0 or (keys and axis == 2):
        return rows if axis == 0 else 0
    size = None if keys and len(port.shape) != 4 else port.shape[axis]
    if not isinstance(size, int):
        raise RuntimeFailure(
            f"{name} has the shape {port.shape}, wanted (row, head, token, width), heads and width fixed"
        )
    return size


def numpy_type(word: str) -> np.dtype:
    """The dtype of numpy's word for a type, and of bfloat16, which numpy itself does not know."""
    if word != "bfloat16":
        return np.dtype(word)
    import ml_dtypes

    dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return dtype
