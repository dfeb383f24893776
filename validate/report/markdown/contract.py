"""What must be equal and not close, and what becomes of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from validate.report import sections
from validate.report.markdown.text import code, codes, folded, plain, table, text
from validate.report.schema import ImageEntry, Output, Report
from validate.report.words import NOTHING, percent, scientific
from validate.vision import judged


def contract(report: Report) -> Iterable[str]:
    """Checks that all outputs pass in a sentence, what differs once for all outputs in which it does."""
    outputs = report["outputs"]
    checked = [o for o in outputs if o["contract"]]
    if not outputs:
        return
    yield "## Contract: what must be equal, not close"
    yield ""
    alike = [title for name, title in sections.checks(report) if _alike(checked, name)]
    if alike:
        who = "the output" if len(checked) == 1 else f"all {len(checked)} outputs that were checked"
        yield f"Equal in {who}: {text('; '.join(alike))}."
        yield ""
    yield from _unchecked(outputs)
    found = sections.differences(report)
    for entry in (d for d in found if d.state == "bad"):
        yield from _difference(entry, "**differs**")
    quiet = [line for d in found if d.state != "bad" for line in _difference(d, _QUIET[d.state])]
    yield from folded("Notes, and differences that decide nothing here", quiet)


_QUIET = {"note": "known, or within its limit", "ok": "equal", "": "not compared"}


def _alike(outputs: Iterable[Output], name: str) -> bool:
    """Whether nothing differs where anything was compared."""
    compared = [c for o in outputs if (c := o["contract"].get(name)) is not None and c["total"]]
    return bool(compared) and all(check["equal"] == check["total"] for check in compared)


def _unchecked(outputs: Iterable[Output]) -> Iterable[str]:
    reasons: dict[str, list[str]] = {}
    for output in outputs:
        if not output["contract"]:
            reasons.setdefault(output["reason"], []).append(output["label"])
    for reason, labels in reasons.items():
        yield f"- Not checked: {codes(labels)}{f': {text(reason)}' if reason else ''}."
    if reasons:
        yield ""


def _difference(entry: sections.Differences, state: str) -> Iterable[str]:
    title = text(entry.title[:1].upper() + entry.title[1:])
    said = "; ".join(filter(None, (entry.missed, text(entry.note))))
    yield f"- {title}, {state}: {said} ({codes(entry.outputs)})"
    yield ""
    if entry.rows:
        rows = [[code(d["what"]), code(d["reference"]), code(d["candidate"])] for d in entry.rows]
        yield from table(["Of", "Source", "Output"], "lll", rows)


# ---- images


def vision(report: Report) -> Iterable[str]:
    """A row for each output with images or clicks; the worst over its images."""
    with_vision = [o for o in report["outputs"] if o["vision"]["images"] or o["vision"]["clicks"]]
    if not with_vision:
        return
    yield "## Vision: images and clicks"
    yield ""
    shown = [(head, cell) for head, cell in _COLUMNS if any(cell(o) != NOTHING for o in with_vision)]
    rows = [[code(o["label"]), *(cell(o) for _, cell in shown)] for o in with_vision]
    yield from table(["Output", *(head for head, _ in shown)], "l" + "r" * len(shown), rows)
    yield _legend(with_vision)
    yield ""


def _legend(with_vision: Iterable[Output]) -> str:
    images = {i["name"]: i for o in with_vision for i in o["vision"]["images"]}.values()
    sizes = [f"{text(i['name'])} {i['width']} x {i['height']}{' (resized)' if i['resized'] else ''}" for i in images]
    said = [f"Images: {', '.join(sizes)}."] if sizes else []
    said.append(
        "The worst over all images; the cosine is of the projector's embedding of an image token to the source's."
    )
    tasks = {c["tasks"] for o in with_vision if (c := o["vision"]["clicks"]) is not None}
    if tasks:
        said.append(f"Clicks: on {max(tasks)} held-out screenshots.")
    return " ".join(said)


def _projector(output: Output) -> str:
    file = output["vision"]["projector"]
    return code(PurePath(file["path"]).name) if file else NOTHING


def _cosine(output: Output) -> str:
    found = [i["cosine_min"] for i in output["vision"]["images"] if i["cosine_min"] is not None]
    return plain(min(found, default=None), ".7f")


def _error(output: Output) -> str:
    found = [i["max_error"] for i in output["vision"]["images"] if i["max_error"] is not None]
    return scientific(max(found)) if found else NOTHING


def _spoken(output: Output) -> Sequence[ImageEntry]:
    return judged(output["vision"]["images"], lambda image: image["name"])


def _kl(output: Output) -> str:
    found = [i["kl"] for i in _spoken(output) if i["kl"] is not None]
    return scientific(max(found)) if found else NOTHING


def _next(output: Output) -> str:
    images = _spoken(output)
    same = sum(i["next_reference"] == i["next_candidate"] for i in images)
    return (
        NOTHING if not images else f"{same} of {len(images)}" if same == len(images) else f"**{same} of {len(images)}**"
    )


def _hits(output: Output) -> str:
    clicks = output["vision"]["clicks"]
    return f"{percent(clicks['accuracy'])} % ({percent(clicks['accuracy_reference'])} %)" if clicks else NOTHING


def _same_pixel(output: Output) -> str:
    clicks = output["vision"]["clicks"]
    return f"{percent(clicks['same'])} %" if clicks else NOTHING


def _apart(output: Output) -> str:
    clicks = output["vision"]["clicks"]
    return f"{clicks['distance']:.2f} px" if clicks and clicks["distance"] is not None else NOTHING


_COLUMNS = (
    ("Projector", _projector),
    ("Cosine, worst", _cosine),
    ("Largest error", _error),
    ("KL after it", _kl),
    ("Same next token", _next),
    ("Clicks hit (source)", _hits),
    ("Same pixel", _same_pixel),
    ("Apart, mean", _apart),
)
