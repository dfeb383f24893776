"""The process that quantizes, `convert.child.run(["convert.formats.compressed.worker", "REQUEST.json"])`.

Its result says what it calibrated on, how many rows and tokens and their hash, and in which folder the layers lie.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert import messages
from convert.calibration.rows import Description, Row, digest, make_rows
from convert.formats.compressed.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 2048  # rows of one length go together: matrix products are as fast as they get


def main(request_file: str) -> None:
    """Do what the request says."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    from validate.runtimes._folder import CheckpointFolder

    source, asked = Path(request["source"]), Description(**request["calibration"])
    rows = make_rows(CheckpointFolder(source), asked)
    calibrated_on = {"rows": len(rows), "tokens": sum(row["input_ids"].size for row in rows), "sha256": digest(rows)}
    parent = messages.parent()
    parent.note(f"calibrating on {len(rows)} rows, {calibrated_on['tokens']} tokens")
    if len(rows) < asked.samples:
        parent.warn(f"the calibration gives {len(rows)} rows, fewer than the {asked.samples} asked for")
    folder = _folder(Path(request["kept"]), request["key"], calibrated_on["sha256"])
    _quantize(source, request, rows, folder)
    parent.result({**calibrated_on, "layers": str(folder)})


def _folder(kept: Path, key: str, rows: object) -> Path:
    """Where this run's layers lie; those of other runs of the stage are thrown away."""
    name = hashlib.sha256(f"{key} {rows}".encode()).hexdigest()
    for other in kept.iterdir() if kept.is_dir() else ():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return kept / name


def _quantize(source: Path, request: Mapping[str, object], rows: Sequence[Row], folder: Path) -> None:
    import torch

    from convert.formats.compressed.folder import Layout
    from convert.formats.compressed.kept_layers import KeptLayers
    from convert.formats.compressed.quantizer import Quantizer
    from convert.model.layered import Layered
    from convert.model.scratch import Scratch
    from convert.source.checkpoint import open_checkpoint

    torch.set_num_threads(int(str(request["threads"])))
    parent, scheme = messages.parent(), Scheme(**dict(request["scheme"]))  # type: ignore[call-overload]
    model = Layered.open(source, scratch=Scratch(folder=source.parent))
    layout = Layout(open_checkpoint(source), scheme)
    quantizer = Quantizer(
        model, layout, scheme.how, KeptLayers(folder), on_layer=lambda: parent.advance(1), warn=parent.warn
    )
    for _ in model.run(list(_batches(rows)), quantizer, head=False):
        pass
    quantizer.finish()


def _batches(rows: Sequence[Row]) -> Iterator[dict[str, Tensor]]:
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


if __name__ == "__main__":
    main(sys.argv[1])
