"""The process that quantizes, `convert.child.run(["convert.formats.compressed.worker", "REQUEST.json"])`.

Its result says what it calibrated on, how many rows and tokens and their hash, and in which folder the layers lie.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from convert import messages
from convert.calibration.batches import batches
from convert.calibration.rows import Description, Row, make_rows, summary
from convert.formats.compressed.scheme import Scheme
from convert.model.statistics import Statistics

TRIED = Description(samples=1, length=32)


def main(request_file: str) -> None:
    """Do what the request says."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    from validate.runtimes._folder import CheckpointFolder

    source, asked = Path(request["source"]), Description(**request["calibration"])
    measured = _measured(request["statistics"])
    # what was measured needs no rows; one is put through the layers to try what can take factors
    rows = make_rows(CheckpointFolder(source), TRIED if measured else asked)
    calibrated_on = summary(rows)
    parent = messages.parent()
    if measured:
        calibrated_on = {word: measured.rows[word] for word in calibrated_on}
    parent.note(f"calibrating on {calibrated_on['rows']} rows, {calibrated_on['tokens']} tokens")
    if not measured and len(rows) < asked.samples:
        parent.warn(f"the calibration gives {len(rows)} rows, fewer than the {asked.samples} asked for")
    folder = _folder(Path(request["kept"]), request["key"], calibrated_on["sha256"])
    _quantize(source, request, rows, folder, measured)
    parent.result({**calibrated_on, "layers": str(folder)})


def _measured(files: Sequence[str]) -> Statistics | None:
    """What a calibration stage kept of every layer."""
    return Statistics.read([Path(file) for file in files]) if files else None


def _folder(kept: Path, key: str, rows: object) -> Path:
    """Where this run's layers lie; those of other runs of the stage are thrown away."""
    name = hashlib.sha256(f"{key} {rows}".encode()).hexdigest()
    for other in kept.iterdir() if kept.is_dir() else ():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return kept / name


def _quantize(
    source: Path, request: Mapping[str, object], rows: Sequence[Row], folder: Path, measured: Statistics | None
) -> None:
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
        model,
        layout,
        scheme.how,
        KeptLayers(folder),
        on_layer=lambda: parent.advance(1),
        warn=parent.warn,
        measured=measured,
    )
    for _ in model.run(list(batches(rows)), quantizer, head=False):
        pass
    quantizer.finish()


if __name__ == "__main__":
    main(sys.argv[1])
