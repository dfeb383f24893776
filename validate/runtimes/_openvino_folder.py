"""A folder of OpenVINO models as a session: the cache is the model's state, vision comes in two models.

Windows, masks and angles of Qwen2.5-VL's tower are made here as openvino.genai's C++ makes them
(src/cpp/src/visual_language/qwen2_5_vl/classes.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from validate.runtimes._graph_session import Graph, GraphSession, Port, _Batch, _feeds, _State
from validate.runtimes._openvino_graph import OpenVinoGraph

EMBEDDER = "openvino_text_embeddings_model.xml"
PATCHES, MERGER = "openvino_vision_embeddings_model.xml", "openvino_vision_embeddings_merger_model.xml"
BEAMS = "beam_idx"
THETA = 10000.0  # of the angles: the pipeline has it as a constant


class StatefulSession(GraphSession):
    """A folder with a cache inside the model; see Session for the methods."""

    def __init__(self, model: Path, load: Callable[[Path], OpenVinoGraph], threads: int) -> None:
        self._model_graph: OpenVinoGraph | None = None

        def loaded(path: Path) -> Graph:
            if path.name == EMBEDDER:
                return _Embedder(load(path))
            if path.name == PATCHES:
                return _Vision(load(path), load(path.with_name(MERGER)), Tower.of(self._config.vision_config))
            graph = load(path)
            self._model_graph = graph
            return graph

        super().__init__(model, loaded, None, threads)

    def _sibling(self, load: Callable[[Path], Graph], part: str) -> Graph | None:
        path = self._model.with_name(EMBEDDER if part == "embed_tokens" else PATCHES)
        return self._load(load, path) if path.is_file() else None

    def _run(self, batch: _Batch, state: _State, keep: bool = False) -> tuple[np.ndarray, _State]:
        """As on graphs whose cache goes in and out; what was read last is what the state holds."""
        assert self._model_graph is not None
        if not state.mask.shape[1]:
            self._model_graph.forget()
        mask, positions = np.concatenate([state.mask, batch.mask], 1), batch.positions
        port = self._main.inputs.get("position_ids")
        if port is not None and len(port.shape) == 3 and positions.ndim == 2:
            positions = np.broadcast_to(positions, (3, *positions.shape))
        rows = np.arange(len(batch.ids), dtype=np.int32)
        given = {"input_ids": batch.ids, "attention_mask": mask, "position_ids": positions, BEAMS: rows}
        if self._embedder is not None:
            given["inputs_embeds"] = self._embed(batch.ids) if batch.embeds is None else batch.embeds
        out = self._main.run(_feeds(self._main, given), ["logits"])
        return out["logits"].astype(np.float32, copy=False), _State({}, mask, state.deltas)


class _Embedder:
    """The table of embeddings, whose input is called otherwise."""

    def __init__(self, graph: OpenVinoGraph) -> None:
        self._graph = graph
        (port,) = graph.inputs.values()
        self.inputs: Mapping[str, Port] = {"input_ids": port}
        self.outputs = graph.outputs
        (self._name,) = graph.inputs

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        return self._graph.run({self._name: feeds["input_ids"]}, wanted)

    def close(self) -> None:
        self._graph.close()


class _Vision:
    """pixel_values, image_grid_thw -> the embeddings of all images, by both models of the tower."""

    def __init__(self, patches: OpenVinoGraph, merger: OpenVinoGraph, tower: Tower) -> None:
        self._patches, self._merger, self._tower = patches, merger, tower
        (values,) = patches.inputs.values()
        self.inputs: Mapping[str, Port] = {
            "pixel_values": values,
            "image_grid_thw": Port(np.dtype(np.int64), (None, 3)),
        }
        self.outputs = merger.outputs

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        del wanted
        embedded = self._patches.run({"hidden_states": feeds["pixel_values"]})["last_hidden_state"]
        given = {"hidden_states": embedded, **self._tower.places(feeds["image_grid_thw"])}
        found = self._merger.run(_feeds(self._merger, given))["last_hidden_state"]
        return dict.fromkeys(("image_embeds", "image_features"), found)  # whatever the caller calls it

    def close(self) -> None:
        self._patches.close()
        self._merger.close()


@dataclass(frozen=True)
class Tower:
    """What of a vision config decides where its patches are."""

    merge: int
    side: int  # of a window, in merge units
    half: int  # numbers of an angle: half a head

    @classmethod
    def of(cls, config: object) -> Tower:
        """Of transformers' vision config of Qwen2.5-VL."""
        numbers = vars(config)
        merge, patch = int(numbers["spatial_merge_size"]), int(numbers["patch_size"])
        side = int(numbers["window_size"]) // merge // patch
        return cls(merge, side, int(numbers["hidden_size"]) // int(numbers["num_heads"]) // 2)

    def places(self, grid: np.ndarray) -> dict[str, np.ndarray]:
        """All that the merger takes beside the patches, of images of `grid` (image, 3): frames, height, width."""
        order, windows, frames, angles = [], [0], [0], []
        for count, height, width in grid.tolist():
            for _ in range(count):
                start = frames[-1] // self.merge**2
                for units in self._windows(height // self.merge, width // self.merge):
                    order.append(units.reshape(-1) + start)
                    windows.append(windows[-1] + units.size * self.merge**2)
                frames.append(frames[-1] + height * width)
                angles.append(self._angles(height, width))
        return {
            "window_index": np.concatenate(order),
            "attention_mask": _mask(frames),
            "window_attention_mask": _mask(windows),
            "rotary_pos_emb": np.concatenate(angles),
        }

    def _windows(self, rows: int, columns: int) -> list[np.ndarray]:
        """Numbers of the units of a frame, a window at a time."""
        units = np.arange(rows * columns).reshape(rows, columns)
        starts = ((top, left) for top in range(0, rows, self.side) for left in range(0, columns, self.side))
        return [units[top : top + self.side, left : left + self.side] for top, left in starts]

    def _angles(self, height: int, width: int) -> np.ndarray:
        """float32 (patch, half): rows turn the first half of them, columns the second; patches unit by unit."""
        places = np.moveaxis(np.indices((height, width), np.float32), 0, -1)
        units = places.reshape(height // self.merge, self.merge, width // self.merge, self.merge, 2)
        flat = units.transpose(0, 2, 1, 3, 4).reshape(-1, 2, 1)
        frequencies = THETA ** -(np.arange(0, self.half, 2, dtype=np.float32) / self.half)
        return np.asarray((flat * frequencies).reshape(len(flat), -1), np.float32)


def _mask(bounds: Sequence[int]) -> np.ndarray:
    """float32 (1, patch, patch): 0 inside of the same part, -inf elsewhere."""
    parts = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return np.where(parts[:, None] == parts, np.float32(0), np.float32(-np.inf))[None]
