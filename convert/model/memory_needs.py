"""What running the source takes of a machine, for the stages that run it: read from headers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.needs import GB, MB, Needs
from convert.source.checkpoint import LazyTensor, open_bundle, open_tensors, packing
from validate import memory

GRAM_COLUMNS = 512  # of a Gram matrix at a time, from the diagonal on: the other half is the same
LIBRARIES = 700 * MB  # torch and transformers, loaded
_NAMES = (("hidden_size", "n_embd", "d_model"), ("vocab_size",))
SMALL = 256 * MB  # of weights: below it a step is more start-up than arithmetic, and keeps one core busy


def cores_for(source: Bundle) -> int:
    """How many cores a step keeps busy: one where the model is small, else all (0)."""
    return 1 if sum(a.size for a in source.of(Role.WEIGHTS)) < SMALL else 0


def weights_of(source: Bundle) -> memory.Weights:
    """What the source's weights take in memory, from headers; quantized ones as what they are made into."""
    if source.pending is not None:
        found = open_bundle(source).tensors.values()
        return memory.weights_of((tensor.name, tensor.dtype, tensor.shape) for tensor in found)
    files = [a.path for a in source.of(Role.WEIGHTS) if a.path.is_file() and a.format == "safetensors"]
    home = next((a.path.parent for a in source.of(Role.CONFIG)), None)
    return _weights(files, home, lambda: open_bundle(source).tensors)


def weights_in(folder: Path) -> memory.Weights:
    """The same of a checkpoint's folder."""
    return _weights([*folder.glob("*.safetensors")], folder, lambda: open_tensors(folder))


def _weights(
    files: Sequence[Path], home: Path | None, tensors: Callable[[], Mapping[str, LazyTensor]]
) -> memory.Weights:
    with contextlib.suppress(InputError):  # said by who reads them
        if files and home and packing(home) is not None:
            return memory.weights_of((tensor.name, tensor.dtype, tensor.shape) for tensor in tensors().values())
    return memory.weights(files)


@dataclass(frozen=True)
class Passes:
    """What goes through the model: tokens in all, and of a window whose logits are wanted; none where they are not."""

    tokens: int
    window: int = 0


def reference_needs(
    source: Bundle, more_bytes: int = 0, *, scratch_bytes: int = 0, passes: Passes = Passes(0)
) -> Needs:
    """Of the source on transformers, one layer at a time, and `more_bytes` beside it.

    Memory: the largest layer or matrix, what goes on inside a layer, what all passes hand to the next one (beyond a
    budget it lies in files), and logits of one window and of the one before. Disk: how far the passes are, twice while
    it is written anew.
    """
    weights = weights_of(source).layered_bytes
    hidden, vocabulary = _sizes(source)
    handed, logits = 4 * hidden * passes.tokens, 4 * vocabulary * passes.window
    spilled = 2 * handed if handed > GB else 0
    needed = LIBRARIES + weights + min(GB, weights // 4) + 2 * min(GB, handed) + 2 * logits + more_bytes
    return Needs(needed, cores_for(source), scratch_bytes + 2 * handed + spilled)


def _sizes(source: Bundle) -> tuple[int, int]:
    """Of a hidden state and of the vocabulary; 0 where the config does not say."""
    try:
        config = json.loads(next(iter(source.of(Role.CONFIG))).path.read_bytes())
        text = config.get("text_config") or config
        found = [next((text[name] for name in names if isinstance(text.get(name), int)), 0) for names in _NAMES]
    except (StopIteration, OSError, ValueError, AttributeError, TypeError):
        return 0, 0  # the source's own stage says what is wrong with it
    return found[0], found[1]
