"""Room for hidden states: in memory up to a budget, beyond it in files that the system maps and that have no name.

A file is unlinked as soon as it is open: it goes away with the last tensor on it, or with the process.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

GB = 1_000_000_000


@dataclass
class Scratch:
    """`budget` is what the hidden states of all inputs may take in memory, in bytes; `folder` is where files lie."""

    budget: int = GB
    folder: Path | None = None
    _spills: bool = False

    def expect(self, size: int) -> None:
        """Say how large all hidden states are together."""
        self._spills = self._spills or size > self.budget

    def keep(self, output: object) -> object:
        """The output of a layer, its tensors in files where memory does not suffice."""
        if not self._spills:
            return output
        if isinstance(output, torch.Tensor):
            return self._spilled(output)
        return tuple(map(self.keep, output)) if type(output) is tuple else output

    def clear(self) -> None:
        """Begin anew."""
        self._spills = False

    def _spilled(self, tensor: Tensor) -> Tensor:
        if tensor.numel() == 0 or tensor.requires_grad:
            return tensor
        handle, name = tempfile.mkstemp(prefix="hidden-", dir=self.folder)
        os.close(handle)
        try:
            mapped = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        finally:
            Path(name).unlink()
        return mapped.view(tensor.shape).copy_(tensor)
