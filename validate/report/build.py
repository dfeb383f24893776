"""Measurements -> the entries of report.json, and the verdict on each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, cast

import numpy as np

from validate import statistics
from validate.embeddings import TEXT
from validate.measurement import Measurement
from validate.metrics import DEFINITIONS, ENCODER_METRICS, Better, Metric, applies, resampled
from validate.report.schema import (
    CheckEntry,
    ClickEntry,
    FileEntry,
    Limit,
    Output,
    Report,
    SliceEntry,
    Status,
    TensorEntry,
    VisionEntry,
    WindowEntry,
    WorstEntry,
)
from validate.vision import ClickScore

REQUIRED: Mapping[str, tuple[str, ...]] = {  # an output without these was not validated, whatever else was measured
    TEXT: ("kl_mean", "top1", "ppl_ratio"),
    **ENCODER_METRICS,
}


def verdict(measurement: Measurement, limits: Mapping[str, float]) -> tuple[Status, str]:
    """Passed only when all was measured, finite and inside its limit; else the reasons, the gravest first."""
    if measurement.not_run and not measurement.failures:
        return "not_run", measurement.not_run
    reasons = list(measurement.failures)
    values = measurement.metrics
    reasons += [f"{name} is not a finite number" for name, value in values.items() if not math.isfinite(value)]
    judged = [Metric(name, values[name], limit) for name, limit in limits.items() if name in values]
    reasons += [
        f"{metric}{_doubt(metric, measurement.draws.get(metric.name))}"
        for metric in judged
        if math.isfinite(metric.value) and not metric.passed
    ]
    if not measurement.failures:
        gives = measurement.gives
        lacking = [name for name in dict.fromkeys((*REQUIRED[gives], *limits)) if name not in values]
        reasons += [_not_measured(name, gives) for name in lacking]
    return ("failed", "; ".join(reasons)) if reasons else ("passed", "")


def _not_measured(name: str, gives: str) -> str:
    return f"{name} was not measured" + ("" if applies(name, gives) else f": the model gives {gives}")


def _doubt(metric: Metric, draws: np.ndarray | None) -> str:
    """Words behind a limit that was missed, where it may have been by chance."""
    if draws is None or metric.limit is None:
        return ""
    worse = statistics.p_worse(draws, metric.limit, metric.better is Better.LOWER)
    if worse >= statistics.SURE:
        return ""
    return f" (not surely: kept on {1 - worse:.0%} of resampled {resampled(metric.name)}: measure on more)"


@dataclass(frozen=True)
class Subject:
    """The files a row of the report is about."""

    stage: str
    format: str
    type: str
    file: FileEntry
    projector: FileEntry | None = None
    projector_type: str = ""
    label: str = ""  # the file's name where it is left out
    files: tuple[FileEntry, ...] = ()  # every file, where there are more


def output(
    subject: Subject,
    measurement: Measurement,
    limits: Mapping[str, tuple[float, str]],
) -> Output:
    """One row of the report; `limits` maps a metric to its limit and where that comes from."""
    status, reason = verdict(measurement, {name: limit for name, (limit, _) in limits.items()})
    parameters = measurement.parameters or None
    return {
        "stage": subject.stage,
        "format": subject.format,
        "type": subject.type,
        "label": subject.label or PurePath(subject.file["path"]).name,
        "path": subject.file["path"],
        "size_bytes": subject.file["size_bytes"],
        "sha256": subject.file["sha256"],
        "files": list(subject.files or filter(None, (subject.file, subject.projector))),
        "parameters": parameters,
        "bits_per_weight": round(subject.file["size_bytes"] * 8 / parameters, 3) if parameters else None,
        "runtime": measurement.runtime,
        "status": status,
        "reason": reason,
        "neutral": status == "not_run" and measurement.lacking,
        "metrics": {name: _number(value) for name, value in measurement.metrics.items()},
        "intervals": {name: pair for name, pair in measurement.intervals.items() if all(map(math.isfinite, pair))},
        "limits": {
            name: _limit(name, limit, source, measurement.draws.get(name)) for name, (limit, source) in limits.items()
        },
        "quantiles": [{"share": share, "kl": kl} for share, kl in measurement.quantiles],
        "slices": [cast(SliceEntry, _finite(asdict(part))) for part in measurement.slices],
        "worst": [cast(WorstEntry, _finite(asdict(row))) for row in measurement.worst],
        "windows": [cast(WindowEntry, asdict(window)) for window in measurement.windows],
        "reading": _plain(measurement.reading),
        "embeddings": _plain(measurement.embeddings),
        "contract": contract_json(measurement),
        "greedy": _plain(measurement.greedy),
        "tool_calls": _plain(measurement.tool_calls),
        "choices": _plain(measurement.choices),
        "kv_cache": _plain(measurement.kv_cache),
        "vision": vision_json(measurement, subject),
        "speed": _plain(measurement.speed),
        "tensors": [cast(TensorEntry, _finite(asdict(tensor))) for tensor in measurement.tensors],
        "above_floor": None,  # known when all rows are: standing.py
    }


def _limit(name: str, limit: float, source: str, draws: np.ndarray | None) -> Limit:
    better = DEFINITIONS[name].better
    worse = None if draws is None else statistics.p_worse(draws, limit, better is Better.LOWER)
    return {"better": better, "limit": limit, "source": source, "p_worse": worse}


def _plain(part: Any) -> Any:
    """A dataclass as JSON has it; None stays None."""
    return None if part is None else _finite(asdict(part))


def contract_json(measurement: Measurement) -> dict[str, CheckEntry]:
    """Check name -> its entry."""
    return {
        check.name: {
            "title": check.title,
            "total": check.total,
            "equal": check.equal,
            "metric": check.metric or None,
            "note": check.note,
            "differences": [
                {"what": d.what, "reference": d.reference, "candidate": d.candidate} for d in check.differences
            ],
        }
        for check in measurement.checks
    }


def vision_json(measurement: Measurement, subject: Subject) -> VisionEntry:
    """The vision part; empty lists and a reason where there is none."""
    return {
        "reason": measurement.vision_reason,
        "projector": subject.projector,
        "projector_type": subject.projector_type,
        "images": [_finite(asdict(image)) for image in measurement.images],
        "clicks": None if measurement.clicks is None else _clicks(measurement.clicks),
    }


def _clicks(score: ClickScore) -> ClickEntry:
    """The score without its single tasks."""
    words = _finite(asdict(score))
    return cast(ClickEntry, {name: words[name] for name in ClickEntry.__annotations__})


def to_json(report: Report) -> str:
    """Strict JSON: no NaN, no infinity, no lone surrogate."""
    text = json.dumps(_finite(report), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="backslashreplace").decode() + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
