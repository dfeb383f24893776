"""A row's own drift on a small axis that all rows share, and its limit."""

from __future__ import annotations

from markupsafe import Markup

from validate.report.html.axes import LogAxis, kl_axis
from validate.report.outputs import ends
from validate.report.schema import Output, Report

_START, _END = 4, 92


def gauges(report: Report) -> list[Markup]:
    """For each output its mean KL with interval, and the limit; empty where it was not measured."""
    outputs = report["outputs"]
    known = [kl for o in outputs if (kl := o["metrics"].get("kl_mean")) is not None]
    limits = [o["limits"]["kl_mean"]["limit"] for o in outputs if "kl_mean" in o["limits"]]
    axis = kl_axis([*known, *(limit for limit in limits if limit > 0)], _START, _END)
    return [_gauge(o, axis) for o in outputs]


def _gauge(output: Output, axis: LogAxis) -> Markup:
    kl = output["metrics"].get("kl_mean")
    if kl is None:
        return Markup("")
    low, high = ends(output, "kl_mean") or (kl, kl)
    parts = [Markup('<path class="rail" d="M{} 8H{}"/>').format(_START, _END)]
    if "kl_mean" in output["limits"]:
        x = axis.at(output["limits"]["kl_mean"]["limit"])
        over = Markup('<path class="over" d="M{0:.1f} 8H{1}"/><path class="limit" d="M{0:.1f} 2V14"/>')
        parts.append(over.format(x, _END))
    css = "bad" if output["status"] == "failed" else ""
    parts.append(Markup('<path class="span {}" d="M{:.1f} 8H{:.1f}"/>').format(css, axis.at(low), axis.at(high)))
    parts.append(Markup('<circle class="here {}" cx="{:.1f}" cy="8" r="3.2"/>').format(css, axis.at(kl)))
    return Markup('<svg class="gauge" viewBox="0 0 96 16" aria-hidden="true">{}</svg>').format(Markup("").join(parts))
