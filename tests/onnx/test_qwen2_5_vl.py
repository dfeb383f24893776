"""Qwen2.5-VL's three graphs give transformers' embeddings and logits: images of every shape, text, both, by steps."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.onnx.graphs import export, open_graph
from tests.tiny import tiny_qwen2_5_vl
from validate.runtimes import _qwen2_5_vl_inputs as inputs

FARA = Path(__file__).parents[2] / "recipes/models/fara-nano"
GRIDS = {
    "one unit": [(1, 2, 2)],
    "less than a window": [(1, 4, 6)],
    "one window": [(1, 8, 8)],
    "windows cut on both sides": [(1, 10, 14)],
    "wide": [(1, 2, 200)],
    "tall": [(1, 40, 4)],
    "two images": [(1, 18, 6), (1, 12, 26)],
    "two frames": [(2, 10, 12)],
    "frames and images": [(2, 6, 10), (1, 16, 16), (3, 2, 6)],
}
DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "If", "Loop", "Scan", "TopK"}


@dataclass(frozen=True)
class Exported:
    """The graphs of a checkpoint, run as the docstring of the shipped helper says."""

    source: Path
    folder: Path

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.source)

    @cached_property
    def model(self) -> Any:
        import torch
        from transformers import AutoModelForImageTextToText

        torch.set_num_threads(1)
        return AutoModelForImageTextToText.from_pretrained(self.source, dtype=torch.float32).eval()

    def run(self, name: str, **given: np.ndarray) -> list[np.ndarray]:
        return self._sessions.setdefault(name, open_graph(self.folder / f"{name}.onnx")).run(None, given)

    @cached_property
    def _sessions(self) -> dict[str, Any]:
        return {}

    def cache(self, batch: int) -> dict[str, np.ndarray]:
        text = self.config.get_text_config()
        shape = (batch, text.num_key_value_heads, 0, text.hidden_size // text.num_attention_heads)
        names = [f"past_key_values.{n}.{what}" for n in range(text.num_hidden_layers) for what in ("key", "value")]
        return {name: np.zeros(shape, np.float32) for name in names}

    def embeds(self, ids: np.ndarray, seen: dict[str, np.ndarray] | None = None) -> np.ndarray:
        embeds = self.run("embed_tokens", input_ids=ids)[0]
        if seen is None:
            return embeds
        return inputs.merge_images(embeds, ids, self.run("vision_encoder", **seen)[0], self.config.image_token_id)

    def decode(
        self, embeds: np.ndarray, mask: np.ndarray, positions: np.ndarray, cache: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        logits, *present = self.run(
            "decoder_model_merged", inputs_embeds=embeds, attention_mask=mask, position_ids=positions, **cache
        )
        return logits, dict(zip(cache, present, strict=True))

    def logits(
        self, ids: np.ndarray, mask: np.ndarray, seen: dict[str, np.ndarray] | None = None, steps: int = 0
    ) -> np.ndarray:
        """Logits of every token; the last `steps` tokens are fed one at a time through the cache."""
        first = ids.shape[1] - steps
        grid = None if seen is None else seen["image_grid_thw"]
        places, deltas = inputs.position_ids(
            ids[:, :first], mask[:, :first], grid, image_token_id=self.config.image_token_id
        )
        made, cache = self.decode(self.embeds(ids[:, :first], seen), mask[:, :first], places, self.cache(len(ids)))
        rows = [made]
        for end in range(first + 1, ids.shape[1] + 1):
            places = inputs.next_position_ids(mask[:, :end], deltas)
            made, cache = self.decode(self.embeds(ids[:, end - 1 : end]), mask[:, :end], places, cache)
            rows.append(made)
        return np.concatenate(rows, 1)

    def wanted(self, ids: np.ndarray, mask: np.ndarray, seen: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """transformers' logits, with transformers' own positions."""
        import torch

        tokens, kept = torch.from_numpy(ids), torch.from_numpy(mask)
        images = {name: torch.from_numpy(value) for name, value in (seen or {}).items()}
        kinds = (tokens == self.config.image_token_id).int()
        places, _ = self.model.model.get_rope_index(tokens, kinds, images.get("image_grid_thw"), attention_mask=kept)
        with torch.inference_mode():
            made = self.model(input_ids=tokens, attention_mask=kept, position_ids=places, use_cache=False, **images)
        return made.logits.numpy()


def made(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Exported:
    folder = tmp_path_factory.mktemp("graphs")
    export(source, folder)
    return Exported(source, folder)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny one whose output layer is its embedding table."""
    return made(
        tmp_path_factory, tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny") / "Tiny-VL", tied=True, vision_layers=2)
    )


@pytest.fixture(scope="module")
def fara(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return made(tmp_path_factory, FARA)


def pixels(grid: list[tuple[int, int, int]], values: int) -> dict[str, np.ndarray]:
    """Noise of a grid's size."""
    patches = sum(int(np.prod(image)) for image in grid)
    noise = np.random.default_rng(patches).standard_normal((patches, values), np.float32)
    return {"pixel_values": noise, "image_grid_thw": np.array(grid, np.int64)}


def apart(got: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The largest difference where the mask is 1; NaN nowhere."""
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    differences = np.abs(got - wanted)
    return float((differences if mask is None else differences[mask == 1]).max())


def tokens(fara: Exported, batch: int, count: int) -> np.ndarray:
    """Rows of held-out text."""
    from transformers import AutoTokenizer

    text = (FARA / "heldout/text.txt").read_text(encoding="utf-8")[: batch * count * 16]
    ids = AutoTokenizer.from_pretrained(fara.source).encode(text, verbose=False)
    return np.array(ids[: batch * count]).reshape(batch, count)


def seen_by(fara: Exported, *names: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ids of a prompt with screenshots in it, and what the checkpoint's processor makes of them."""
    from PIL import Image
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(fara.source)
    seen = processor([Image.open(FARA / "heldout" / name) for name in names], return_tensors="np")
    ids: list[int] = []
    for count in inputs.tokens_per_image(seen["image_grid_thw"]):
        marks = [fara.config.vision_start_token_id, *[fara.config.image_token_id] * int(count)]
        ids += [*marks, fara.config.vision_end_token_id]
    ids += AutoTokenizer.from_pretrained(fara.source).encode("Click on the button.")
    return np.array([ids]), {name: np.asarray(value) for name, value in seen.items()}


# ---- the vision graph


def test_places_in_window_order_are_those_of_transformers() -> None:
    """On a hundred random sets of images: which unit lies where, where windows end, and the way back."""
    import torch
    from transformers.vision_utils import get_vision_window_index

    from convert.formats.onnx.families._qwen2_5_vision import Frames, Sizes, Windows, window_places

    sizes, draw = Sizes(merge=2, side=4, heads=1, head_dim=4), np.random.default_rng(0)
    for _ in range(100):
        grid = torch.tensor([[draw.integers(1, 4), *(2 * draw.integers(1, 14, 2))] for _ in range(draw.integers(1, 4))])
        places = torch.arange(int(grid.prod(1).sum()) // 4)
        index, ends = get_vision_window_index(grid, 2, 112, 14)
        frame = Frames.of(places, grid, sizes.merge)
        at = Windows.of(places, frame, sizes)
        assert torch.equal(at.source, index)
        assert torch.equal(at.window.unique() * 4, ends[:-1])
        assert torch.equal(at.source[window_places(places, frame, sizes)], places)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_image_embeddings_are_those_of_transformers(tied: Exported, grid: list[tuple[int, int, int]]) -> None:
    import torch

    seen = pixels(grid, 1176)
    with torch.inference_mode():
        wanted = tied.model.model.visual(*map(torch.from_numpy, seen.values())).pooler_output.numpy()
    assert apart(tied.run("vision_encoder", **seen)[0], wanted) < 1e-6


def test_an_image_is_seen_alike_alone_and_among_others(tied: Exported) -> None:
    several = pixels(GRIDS["frames and images"], 1176)
    whole = tied.run("vision_encoder", **several)[0]
    start = 0
    for grid in several["image_grid_thw"]:
        end = start + int(grid.prod())
        alone = {"pixel_values": several["pixel_values"][start:end], "image_grid_thw": grid[None]}
        assert apart(tied.run("vision_encoder", **alone)[0], whole[start // 4 : end // 4]) < 1e-6
        start = end


def test_the_vision_graph_on_openvino(tied: Exported) -> None:
    openvino = pytest.importorskip("openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(tied.folder / "vision_encoder.onnx"), "CPU", exact)
    for grid in GRIDS.values():
        seen = pixels(grid, 1176)
        assert apart(compiled(seen)[0], tied.run("vision_encoder", **seen)[0]) < 1e-6


def test_an_engine_of_the_vision_graph_is_built(tied: Exported) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(tied.folder / "vision_encoder.onnx")), parser.get_error(0)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("pixel_values", (4, 1176), (256, 1176), (1024, 1176))
    profile.set_shape("image_grid_thw", (1, 3), (1, 3), (4, 3))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


# ---- what the graphs are


def test_shapes_depend_on_shapes_only(tied: Exported) -> None:
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        graph = onnx.load(str(tied.folder / f"{name}.onnx"), load_external_data=False).graph
        assert not {node.op_type for node in graph.node} & DATA_DEPENDENT
        assert {node.domain for node in graph.node} == {""}


def test_inputs_and_outputs_have_the_names_people_know(tied: Exported) -> None:
    ports = {}
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        session = open_graph(tied.folder / f"{name}.onnx")
        ports |= {port.name: (port.type, port.shape) for port in [*session.get_inputs(), *session.get_outputs()]}
    real, whole = "tensor(float)", "tensor(int64)"
    assert ports == {
        "pixel_values": (real, ["patches", 1176]),
        "image_grid_thw": (whole, ["images", 3]),
        "image_embeds": (real, ["units", 64]),
        "input_ids": (whole, ["batch", "sequence"]),
        "inputs_embeds": (real, ["batch", "sequence", 64]),
        "attention_mask": (whole, ["batch", "total"]),
        "position_ids": (whole, [3, "batch", "sequence"]),
        "logits": (real, ["batch", "sequence", 512]),
        **{f"past_key_values.{n}.{kv}": (real, ["batch", 1, "past", 32]) for n in range(2) for kv in ("key", "value")},
        **{f"present.{n}.{kv}": (real, ["batch", 1, "total", 32]) for n in range(2) for kv in ("key", "value")},
    }


def test_a_tied_table_is_one_tensor_for_both_graphs(tied: Exported) -> None:
    homes = []
    for name in ("embed_tokens", "decoder_model_merged"):
        graph = onnx.load(str(tied.folder / f"{name}.onnx"), load_external_data=False).graph
        (table,) = [t for t in graph.initializer if tuple(t.dims) == (512, 64)]
        homes.append({entry.key: entry.value for entry in table.external_data})
    assert homes[0] == homes[1]
    assert homes[0]["location"] == "model.safetensors"


def test_the_example_in_the_shipped_helper_runs(fara: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, seen = seen_by(fara, "000.png")
    text = inspect.getdoc(inputs) or ""
    example = textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))
    monkeypatch.chdir(fara.folder)
    monkeypatch.syspath_prepend(str(fara.folder))
    names = {"ids": ids, "mask": np.ones_like(ids), "image": fara.config.image_token_id}
    names |= {"pixels": seen["pixel_values"], "grid": seen["image_grid_thw"]}
    exec(example, names)
    assert (fara.folder / "qwen2_5_vl_inputs.py").is_file()
    assert apart(names["logits"], fara.wanted(ids, np.ones_like(ids), seen)) < 1e-3
    assert len(names["present"]) == 2 * fara.config.get_text_config().num_hidden_layers


# ---- logits


@pytest.mark.parametrize("count", [1, 300])
def test_logits_of_text(fara: Exported, count: int) -> None:
    ids = tokens(fara, 1, count)
    assert apart(fara.logits(ids, np.ones_like(ids)), fara.wanted(ids, np.ones_like(ids))) < 1e-4


def test_logits_of_texts_padded_in_front_then_token_by_token(fara: Exported) -> None:
    ids = tokens(fara, 3, 40)
    mask = np.ones_like(ids)
    mask[0, :13], mask[2, :1] = 0, 0
    wanted = fara.wanted(ids, mask)
    assert apart(fara.logits(ids, mask), wanted, mask) < 1e-4
    assert apart(fara.logits(ids, mask, steps=8), wanted, mask) < 1e-4


def test_tokens_after_a_cache_of_200(fara: Exported) -> None:
    ids = tokens(fara, 1, 210)
    ones = np.ones_like(ids)
    assert apart(fara.logits(ids, ones, steps=10), fara.logits(ids, ones)) < 1e-4


@pytest.mark.parametrize("names", [("000.png",), ("001.png", "002.png")], ids=["one", "two"])
def test_logits_after_images(fara: Exported, names: tuple[str, ...]) -> None:
    ids, seen = seen_by(fara, *names)
    mask = np.ones_like(ids)
    wanted = fara.wanted(ids, mask, seen)
    assert apart(fara.logits(ids, mask, seen), wanted) < 1e-3
    assert apart(fara.logits(ids, mask, seen, steps=3), wanted) < 1e-3


def test_the_decoder_on_openvino(fara: Exported) -> None:
    openvino = pytest.importorskip("openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(fara.folder / "decoder_model_merged.onnx"), "CPU", exact)
    ids, seen = seen_by(fara, "003.png")
    mask = np.ones_like(ids)
    places, _ = inputs.position_ids(ids, mask, seen["image_grid_thw"], image_token_id=fara.config.image_token_id)
    given = {"inputs_embeds": fara.embeds(ids, seen), "attention_mask": mask, "position_ids": places}
    got = compiled(given | fara.cache(1))["logits"]
    assert apart(got, fara.logits(ids, mask, seen)) < 1e-3
