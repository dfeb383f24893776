"""The pass of a calibration stage: rows through the source, one layer at a time, what went into each layer kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact, Bundle
from convert.calibration.batches import batches
from convert.calibration.rows import Row, held_out, make_rows, summary
from convert.errors import StageError
from convert.formats.gguf.calibration import Gathered, model_key, read_matrices, silent
from convert.formats.gguf.imatrix import Imatrix
from convert.json_types import JsonDict
from convert.model import fisher_file, statistics
from convert.model.reference import open_layered
from convert.model.statistics import LayerInputs
from convert.progress import Progress

if TYPE_CHECKING:
    from convert.formats.gguf.calibration_stage import CalibrationOptions
    from convert.model.inputs import Inputs
    from convert.model.layered import Layer
    from convert.model.session import LayeredSession

FISHER_TOKENS = 8192  # more of them change no choice: F is a mean over all rows of a matrix
HELD_OUT_ROWS = 16


def gather(
    source: Bundle, options: CalibrationOptions, folder: Path, progress: Progress
) -> tuple[Imatrix, tuple[Artifact, ...], tuple[Artifact, ...]]:
    """The importance matrix, the files of all layers in `folder`, and where it is asked for what errors cost.

    Raises StageError for rows that are none, a model that does not load, and numbers that overflow.
    """
    from convert.model.inputs import GatherInputs
    from validate.runtimes import RuntimeFailure

    matrices = read_matrices(source)
    gathered, layers = Gathered(matrices), list[Artifact]()
    with open_layered(source, options.threads) as reference:
        rows = make_rows(reference, options.description)
        words: JsonDict = {
            "samples": options.samples,
            "length": options.length,
            "seed": options.seed,
            **summary(rows),
        }
        progress.note(f"calibrating on {len(rows)} rows, {words['tokens']} tokens")
        if len(rows) < options.samples:
            progress.warn(f"the calibration gives {len(rows)} rows, fewer than the {options.samples} asked for")

        def on_layer(layer: Layer, found: Mapping[str, Inputs]) -> None:
            gathered.take(layer, found)
            inputs = LayerInputs(layer.name, found, visitor.norms, gathered.names(found))
            path = folder / statistics.file_of(len(layers))
            layers.append(statistics.save(path, inputs, words, grams=options.grams))
            progress.advance(1)

        gathered.tensors = reference.layered.tensors
        decoder = reference.layered.decoder_layers()
        visitor = GatherInputs(
            reference.layered,
            on_layer,
            wanted=decoder.__contains__,
            grams=lambda _: options.grams,
            all_experts=options.calibrate_all_experts,
        )
        progress.start("calibrating", len(decoder), "layer")
        try:
            reference.put_through(list(batches(rows)), visitor)
        except RuntimeFailure as error:
            raise StageError("the reference", str(error)) from error
        gradients = _gradients(reference, options, rows, folder, progress) if options.fisher else ()
    silent(matrices, gathered.entries)
    imatrix = Imatrix(gathered.entries, (options.source_name,), len(rows), options.length, model_key(source))
    return imatrix, tuple(layers), gradients


def _gradients(
    reference: LayeredSession, options: CalibrationOptions, rows: Sequence[Row], folder: Path, progress: Progress
) -> tuple[Artifact, ...]:
    """The file of what errors in the matrices cost, over some of the rows, evenly spread, one row at a time."""
    from validate.runtimes import RuntimeFailure

    texts = [row for row in rows if row.keys() <= {"input_ids", "attention_mask"}]
    if not texts:
        raise StageError("calibration", "fisher: true, and no row is a text", "some text", "add `text:` or `chat:`")
    step = max(1, sum(row["input_ids"].size for row in texts) // FISHER_TOKENS)
    chosen = [batch for row in texts[::step] for batch in batches([row])]
    layers = len(reference.layered.layers)
    progress.start("gradients", 2 * layers * len(chosen), "call")
    try:
        found = reference.gradients(chosen, lambda _: progress.advance(1))
    except RuntimeFailure as error:
        raise StageError("the reference", str(error)) from error
    if not all(bool(values.isfinite().all()) for values in (*found.rows.values(), *found.by_token.values())):
        raise StageError("calibration", "gradients that are not finite", "finite numbers", "is the checkpoint sound?")
    unread = held_out(reference, options.description, rows, HELD_OUT_ROWS)
    if options.files and unread.rows is not unread.own:
        got = f"{len(unread.own)} rows of the files are not calibrated on"
        progress.warn(f"{got}: candidates of a fit are compared on the default mix; fewer `samples:` leave more")
    words = summary(chosen_rows := texts[::step]) | {"length": max(row["input_ids"].size for row in chosen_rows)}
    return (fisher_file.save(folder / fisher_file.FILE, found, reference.layered.tensors, unread.rows, words),)
