"""What a report says of its outputs together: their noise floors, and which drifts less than which."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from validate import statistics
from validate.measurement import Measurement
from validate.ranking import LEAST, Duel, Entrant, rank
from validate.report.advice import kept
from validate.report.schema import DuelEntry, FloorEntry, Output, RankingEntry, Report

_WIDEST = ("F32", "FP32")  # hold any checkpoint's weights as they are
_WIDE = ("BF16", "F16")  # hold those of most


def with_standing(report: Report, measurements: Sequence[Measurement]) -> Report:
    """The report with `noise_floor`, `ranking` and every output's `above_floor`; a measurement for each output."""
    floors = noise_floors(report["outputs"])
    by_runtime = {floor["runtime"]: floor["kl_mean"] for floor in floors}
    outputs = [_above(output, by_runtime.get(runtime(output))) for output in report["outputs"]]
    found: Report = {**report, "outputs": outputs, "noise_floor": floors}
    ranking = _ranking(outputs, measurements)
    return found if ranking is None else {**found, "ranking": ranking}


def runtime(output: Output) -> str:
    """The runtime's name without its versions."""
    return output["runtime"].partition(" (")[0]


# ---- noise floor


def noise_floors(outputs: Sequence[Output]) -> list[FloorEntry]:
    """Of each runtime the output that holds the source's weights as they are: its drift is the runtime's own."""
    found: dict[str, tuple[int, FloorEntry]] = {}
    for output in outputs:
        place, kl = _exactness(output), output["metrics"].get("kl_mean")
        if place is None or kl is None or not math.isfinite(kl) or _is_broken(output):
            continue
        name = runtime(output)
        if name not in found or place < found[name][0]:
            found[name] = place, {"runtime": name, "output": output["label"], "kl_mean": kl}
    return [entry for _, entry in found.values()]


def _exactness(output: Output) -> int | None:
    """0 for the best to take as a floor; None for what rounds weights, or may."""
    type_ = output["type"].upper()
    if type_ in _WIDEST:
        return 0
    if type_ in _WIDE and output["tensors"] and all(tensor["error"] == 0 for tensor in output["tensors"]):
        return 1 + _WIDE.index(type_)
    return None


def _is_broken(output: Output) -> bool:
    """Whether its drift is more than a sound file's would be."""
    return "kl_mean" in output["limits"] and kept(output, "kl_mean") is False


def _above(output: Output, floor: float | None) -> Output:
    kl = output["metrics"].get("kl_mean")
    if kl is None or floor is None or not math.isfinite(kl):
        return output
    return {**output, "above_floor": max(kl, LEAST) / max(floor, LEAST)}


# ---- ranking


def _ranking(outputs: Sequence[Output], measurements: Sequence[Measurement]) -> RankingEntry | None:
    known = [
        (output, kl, measurement)
        for output, measurement in zip(outputs, measurements, strict=True)
        if (kl := output["metrics"].get("kl_mean")) is not None and math.isfinite(kl)
    ]
    read = {len(measurement.windows) for _, _, measurement in known}
    shared = min(read) if len(read) > 1 else None  # some read on: they are compared on what all have read
    ranking = rank([_entrant(*one, shared) for one in known])
    if ranking is None:
        return None
    duels = [_duel(found) for found in ranking.duels if math.isfinite(found.low)]
    return {"metric": "kl_mean", "groups": [list(group) for group in ranking.groups], "duels": duels}


def _entrant(output: Output, kl: float, measurement: Measurement, shared: int | None) -> Entrant:
    """An output with the draws of its mean KL; where `shared` is a number, of its first so many windows."""
    draws = measurement.draws.get("kl_mean", np.empty(0))
    if shared is not None:
        windows = measurement.windows[:shared]
        kl, draws = statistics.over_windows([w.kl for w in windows], [w.positions for w in windows])
    return Entrant(output["label"], f"{output['format']} on {runtime(output)}", output["size_bytes"], kl, draws)


def _duel(found: Duel) -> DuelEntry:
    return {
        "better": found.better,
        "worse": found.worse,
        "by": found.by,
        "low": found.low,
        "high": found.high,
        "tied": found.tied,
        "same_size": found.same_size,
    }
