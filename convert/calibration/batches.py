"""Rows to calibrate on, as a model is given them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from convert.calibration.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 2048  # rows of one length go together: matrix products are as fast as they get


def batches(rows: Sequence[Row]) -> Iterator[dict[str, Tensor]]:
    """The model's arguments: texts of one length together, an image alone."""
    import torch

    texts: dict[int, list[Tensor]] = {}
    for row in rows:
        if row.keys() - {"input_ids", "attention_mask"}:
            yield {name: torch.from_numpy(array) for name, array in row.items()}
        else:
            texts.setdefault(row["input_ids"].shape[1], []).append(torch.from_numpy(row["input_ids"]))
    for length, same in texts.items():
        together = max(1, BATCH_TOKENS // length)
        for start in range(0, len(same), together):
            yield {"input_ids": torch.cat(same[start : start + together])}
