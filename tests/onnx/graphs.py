"""Helpers for tests of exports: run the stage as the pipeline does, run its graphs, and the model it was made from."""

from __future__ import annotations

import atexit
import inspect
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.bundle import Bundle
from convert.formats.onnx.stage import STAGE as stage
from convert.progress import Silent
from tests import tiny
from tests.fixtures_gguf import source_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from convert.formats.onnx.bind import Ledger


def export(folder: Path, out: Path, **options: Any) -> Bundle:
    """Run the stage as the pipeline does: check, then run; all in one folder unless a layout is named."""
    beside = {} if options.get("flavor") == "genai" else {"layout": "flat"}
    inputs, words = source_inputs(folder), stage.Options(**(beside | options))
    problems = [str(problem) for problem in stage.check(words, inputs)]
    assert problems == [], problems
    out.mkdir(parents=True, exist_ok=True)
    return stage.run(words, inputs, out, Silent())


def open_graph(path: Path) -> Any:
    """An ONNX Runtime session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class TextGraph:
    """A text model's graph: logits, and the cache that goes from one call to the next."""

    def __init__(self, path: Path) -> None:
        self._session = open_graph(path)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]

    def empty(self, batch: int) -> dict[str, np.ndarray]:
        """A cache of no tokens: none of the rows that grow, and states of zeros."""
        return {name: _empty(one, batch) for name, one in self._inputs.items() if name.startswith("past_")}

    def __call__(
        self,
        tokens: np.ndarray,
        cache: Mapping[str, np.ndarray] | None = None,
        mask: np.ndarray | None = None,
        embeds: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(logits, longer cache) of tokens (batch, sequence) after a cache; `mask` covers both.

        `embeds` are what a graph takes in the place of tokens.
        """
        batch, sequence = tokens.shape
        cache = self.empty(batch) if cache is None else cache
        past = next((held.shape[2] for name, held in cache.items() if name.endswith(".key")), 0)
        mask = np.ones((batch, past + sequence), np.int64) if mask is None else mask
        positions = np.maximum(np.cumsum(mask > 0, axis=1) - 1, 0)[:, -sequence:]
        given = {"input_ids": tokens, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
        given |= cache
        feeds = {name: given[name] for name in self._inputs}
        made = dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        return made.pop("logits"), {
            n.replace("present_", "past_").replace("present.", "past_key_values."): v for n, v in made.items()
        }


def _empty(port: Any, batch: int) -> np.ndarray:
    shape = [size if isinstance(size, int) else 0 if axis else batch for axis, size in enumerate(port.shape)]
    return np.zeros(shape, TYPES[port.type])


@cache
def reference_model(folder: Path, images: bool = False) -> Any:
    """transformers' model in float32, plain attention; with `images` the whole of one that has a vision tower."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.set_num_threads(1)
    auto = AutoModelForImageTextToText if images else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def reference_logits(
    folder: Path, tokens: np.ndarray, mask: np.ndarray | None = None, images: bool = False, **others: Any
) -> np.ndarray:
    """transformers' logits in float32."""
    import torch

    model = reference_model(folder, images)
    mask = np.ones_like(tokens) if mask is None else mask
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    given = {"attention_mask": torch.tensor(mask), "position_ids": torch.tensor(positions), **others}
    takes = inspect.signature(model.forward).parameters
    given = {name: value for name, value in given.items() if name in takes}
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), use_cache=False, **given).logits.numpy()  # type: ignore[no-any-return]


@cache
def traced(make: Callable[[Path], Path] = tiny.tiny_qwen2) -> tuple[Path, ir.Model]:
    """A tiny checkpoint and its graph without weights; traced once a process. Clone it before changing it."""
    from convert.formats.onnx import families, trace

    folder = make(Path(tempfile.mkdtemp(prefix="traced-")) / "Tiny")
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    (part,) = families.load("decoder").parts(config_of(folder))
    return folder, trace.trace(part)


def config_of(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def ledger_of(folder: Path) -> Ledger:
    """The ledger of a checkpoint, problems included."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from convert.formats.onnx import bind
    from convert.formats.onnx.hollow import hollow

    config = config_of(folder)
    auto = AutoModelForImageTextToText if "vl" in config.model_type else AutoModelForCausalLM
    return bind.match_tensors(hollow(config, auto), bind.stored(source_inputs(folder)["source"]))


def bound(folder: Path, graph: ir.Model, **options: Any) -> ir.Model:
    """A copy of the graph with the checkpoint's weights."""
    from convert.formats.onnx import bind

    model = graph.clone()
    bind.bind(model, ledger_of(folder), **options)
    return model
