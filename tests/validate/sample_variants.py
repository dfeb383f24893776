"""Reports that are hard to show: with little in them, with much, with numbers that are none, with hostile text."""

from __future__ import annotations

import copy
import math
from typing import Any

from tests.validate.sample_parts import kv_cache
from tests.validate.sample_report import sample_report
from validate.report.schema import Report

HOSTILE = (
    "\"'><script>window.hit=1</script><img src=x onerror=window.hit=1></title></style></svg></script><!--"
    "{{ 7*7 }}{% raw %}&lt;\u2028\u202e\x00\x1b\ud800]]>javascript:hit"
)


def small() -> Report:
    """One output of each family and each verdict: what costs seconds on all 26."""
    made = sample_report()
    first = {(o["format"], o["status"]): o for o in reversed(made["outputs"])}
    made["outputs"] = [{**o, "worst": o["worst"][:2]} for o in made["outputs"] if o in first.values()]
    made["outputs"][0]["kv_cache"] = kv_cache()
    return made


def hostile(made: Any) -> Any:
    """Every text of the report, but the words of the schema, with markup and what turns text around in front."""
    kept = {"status", "kind", "better", "format", "metric"}

    def spoil(value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            return value if name in kept else HOSTILE + value
        if isinstance(value, list):
            return [spoil(inner, name) for inner in value]
        if isinstance(value, dict):
            spoiled = name in ("contract", "versions")
            return {(HOSTILE + key if spoiled else key): spoil(inner, key) for key, inner in value.items()}
        return value

    return spoil(made)


def one(**changes: Any) -> Report:
    made = sample_report()
    made["outputs"] = [{**made["outputs"][0], **changes}]  # type: ignore[typeddict-item]
    return made


def zero_kl() -> Report:
    made = one()
    made["outputs"][0]["metrics"]["kl_mean"] = 0.0
    made["outputs"][0]["intervals"]["kl_mean"] = (0.0, 0.0)
    made["outputs"][0]["quantiles"] = [{"share": 0.5, "kl": 0.0}, {"share": 1.0, "kl": 1e-13}]
    return made


def nulls() -> Report:
    made = one()
    output = made["outputs"][0]
    output["metrics"] = dict.fromkeys(output["metrics"])
    output["intervals"] = {"kl_mean": (math.nan, math.inf), "top1": (0.5, math.inf)}
    output["metrics"]["top1"] = 0.9
    for part in output["slices"]:
        part.update(kl_mean=None, kl_low=None, kl_high=None, top1=None, ppl_ratio=None)
    for image in output["vision"]["images"]:
        image.update(cosine_min=None, cosine_mean=None, max_error=None, kl=None)
    output["tensors"] = [{**t, "error": None} for t in output["tensors"]]
    output["status"], output["reason"] = "failed", "kl_mean is not a finite number"
    return made


def empty() -> Report:
    made = sample_report()
    made["outputs"] = []
    return made


def not_run() -> Report:
    made = sample_report()
    made["outputs"] = [o for o in made["outputs"] if o["neutral"]]
    return made


def sixty() -> Report:
    made = sample_report()
    twice = [*made["outputs"], *copy.deepcopy(made["outputs"]), *copy.deepcopy(made["outputs"][:8])]
    made["outputs"] = [{**o, "label": f"{i}-{o['label']}"} for i, o in enumerate(twice)]
    return made
