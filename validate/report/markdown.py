"""report.json -> report.md: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath

from validate.metrics import DEFINITIONS, number
from validate.report.advice import advice, kept
from validate.report.schema import CheckEntry, Output, Report
from validate.vision import SEES_NOTHING, judged

_WORDS = {"passed": "passed", "failed": "**FAILED**", "not_run": "**NOT RUN**"}


def to_markdown(report: Report) -> str:
    """The report as a page of GitHub-flavoured Markdown."""
    parts = [
        *_verdict(report),
        *_outputs(report),
        *_limits(report),
        *_contract(report),
        *_vision(report),
        *_method(report),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _verdict(report: Report) -> Iterable[str]:
    outputs = report["outputs"]
    noted = [o for o in outputs if o["status"] != "passed"]
    bad = [o for o in noted if not o["neutral"]]
    yield f"# {report['recipe']}: {_headline(outputs, bad)}"
    yield ""
    for output in noted:
        yield f"- {_WORDS[output['status']]} `{_name(output)}`: {_text(output['reason'])}"
        yield from (f"  - What to do: {sentence}" for sentence in advice(output))
    if noted:
        yield ""
    yield from _in_short([o for o in outputs if o["metrics"]])


def _in_short(outputs: Sequence[Output]) -> Iterable[str]:
    """The worst of each kind, in a sentence: what a reader wants to know before the tables."""
    drifted = [o for o in outputs if o["metrics"].get("kl_mean") is not None]
    if drifted:
        worst = max(drifted, key=lambda o: o["metrics"]["kl_mean"] or 0.0)
        kl, top = _metric("kl_mean", ".2g")(worst), _metric("top1", ".2%")(worst)
        yield f"- Drift: `{_name(worst)}` is furthest from the source: KL {kl}, the same top token at {top}."
    checked = [o for o in outputs if o["contract"]]
    if checked:
        differ = {c["title"] for o in checked for c in o["contract"].values() if "**" in _state(c, o)}
        told = {c["title"] for o in checked for c in o["contract"].values() if c["equal"] < c["total"]} - differ
        said = (
            "differs in " + ", ".join(sorted(differ)) if differ else "token ids, templates and special tokens are equal"
        )
        yield f"- Contract: {said}."
        if told:
            yield f"  - Differences that decide nothing here, shown below: {'; '.join(sorted(told))}."
    images = judged([i for o in outputs for i in o["vision"]["images"]], lambda i: i["name"])
    if images:
        same = sum(i["next_reference"] == i["next_candidate"] for i in images)
        yield f"- Vision: the source's next token after {same} of {len(images)} image prompts."
    for reason in dict.fromkeys(o["vision"]["reason"] for o in outputs):
        if reason and reason != SEES_NOTHING:
            blind = ", ".join(f"`{_name(o)}`" for o in outputs if o["vision"]["reason"] == reason)
            yield f"- Vision: **not looked at** for {blind}: {_text(reason)}."
    clicks = [(o, c) for o in outputs if (c := o["vision"]["clicks"]) is not None]
    if clicks:
        output, worst_clicks = min(clicks, key=lambda pair: pair[1]["accuracy"])
        yield (
            f"- Clicks: {worst_clicks['accuracy']:.1%} hit with `{_name(output)}`, "
            f"{worst_clicks['accuracy_reference']:.1%} with the source."
        )
    yield ""


def _headline(outputs: Sequence[Output], bad: Sequence[Output]) -> str:
    if not outputs:
        return "nothing was validated"
    ran = [o for o in outputs if not o["neutral"]]
    left = len(outputs) - len(ran)
    if not ran:
        return "the output was built and not run" if left == 1 else f"all {left} outputs were built and not run"
    if not bad:
        passed = "the output passed" if len(ran) == 1 else f"all {len(ran)} outputs passed"
        return f"{passed}, {left} more built and not run" if left else passed
    return f"{len(bad)} of {len(outputs)} outputs did not pass"


# ---- outputs

_Cell = Callable[[Output], str]


def _metric(name: str, form: str) -> _Cell:
    def cell(output: Output) -> str:
        value = output["metrics"].get(name)
        return "–" if value is None else format(value, form)

    return cell


def _greedy(output: Output) -> str:
    greedy = output["greedy"]
    return "–" if greedy is None else f"{greedy['equal']} of {greedy['tokens']}"


def _metric_se(name: str, spread: str, form: str) -> _Cell:
    def cell(output: Output) -> str:
        value, error = output["metrics"].get(name), output["metrics"].get(spread)
        if value is None:
            return "–"
        return format(value, form) if error is None else f"{value:{form}} ± {error:.2g}"

    return cell


_COLUMNS: tuple[tuple[str, str, _Cell], ...] = (  # heading, alignment, cell
    ("output", ":--", lambda o: f"`{_name(o)}`"),
    ("verdict", ":--", lambda o: _WORDS[o["status"]]),
    ("type", ":--", lambda o: o["type"]),
    ("size", "--:", lambda o: _size(o["size_bytes"])),
    ("bits per weight", "--:", lambda o: "–" if o["bits_per_weight"] is None else f"{o['bits_per_weight']:.2f}"),
    ("KL mean", "--:", _metric_se("kl_mean", "kl_mean_ci95", ".2g")),
    ("KL p99", "--:", _metric("kl_p99", ".2g")),
    ("KL max", "--:", _metric("kl_max", ".2g")),
    ("same top token", "--:", _metric("top1", ".2%")),
    ("one by one", "--:", _metric("decode_max_abs", ".1g")),
    ("perplexity", "--:", _metric("ppl", ".4g")),
    ("ratio", "--:", _metric_se("ppl_ratio", "ppl_ratio_se", ".5f")),
    ("same greedy text", "--:", _greedy),
    ("clicks", "--:", _metric("click_accuracy", ".1%")),
)


def _outputs(report: Report) -> Iterable[str]:
    outputs = report["outputs"]
    source = next((p for o in outputs if (p := o["metrics"].get("ppl_reference")) is not None), None)
    columns = [c for c in _COLUMNS if any(c[2](o) != "–" for o in outputs)]
    yield "## Outputs"
    yield ""
    yield from _table([c[0] for c in columns], [c[1] for c in columns], [[c[2](o) for c in columns] for o in outputs])
    yield ""
    if source is not None:
        yield (
            f"The source's own perplexity is {source:.4g}. ± behind KL is the 95 % confidence interval of the mean, "
            "behind the ratio its paired standard error; both from blocks of tokens, because neighbours are alike. "
            "One by one: the largest difference of a logit when tokens are fed one at a time instead of at once. "
            "Same greedy text: how many tokens both write alike, left alone after the text's first ones. "
            "Bits per weight are of the whole file."
        )
        yield ""


def _limits(report: Report) -> Iterable[str]:
    rows = []
    for output in (o for o in report["outputs"] if o["status"] != "not_run"):
        for name, limit in output["limits"].items():
            value = output["metrics"].get(name)
            inside = kept(output, name)
            if inside and limit["source"] == "default" and limit["limit"] == 1.0:
                continue  # the contract's own: its section below says it in words
            rows.append(
                [
                    f"`{_name(output)}`",
                    f"`{name}`",
                    "–" if value is None else number(value, limit["limit"]),
                    f"{limit['better']} {limit['limit']:g}",
                    limit["source"],
                    "kept" if inside else "**not measured**" if inside is None else "**broken**",
                ]
            )
    if not rows:
        return
    yield "## Limits"
    yield ""
    head = ["output", "metric", "value", "limit", "from", ""]
    yield from _table(head, [":--", ":--", "--:", "--:", ":--", ":--"], rows)
    yield ""
    named = dict.fromkeys(row[1].strip("`") for row in rows)
    yield from (f"- `{name}`: {_text(DEFINITIONS[name].meaning)}" for name in named)
    yield ""


# ---- contract


def _contract(report: Report) -> Iterable[str]:
    yield "## Contract: what must be equal, not close"
    yield ""
    for group in _alike(report["outputs"]):
        first = group[0]
        yield f"### {', '.join(f'`{_name(o)}`' for o in group)}"
        yield ""
        if not first["contract"]:
            yield "Not checked."
            yield ""
            continue
        rows = []
        for check in first["contract"].values():
            equal, total = check["equal"], check["total"]
            score = "nothing to compare" if not total else f"{equal} of {total}"
            rows.append([check["title"], score, _state(check, first), _text(check["note"])])
        yield from _table(["", "equal", "", "note"], [":--", "--:", ":--", ":--"], rows)
        yield ""
        for check in first["contract"].values():
            if check["differences"]:
                yield f"{check['title'].capitalize()}: the first of {check['total'] - check['equal']} differences"
                yield ""
                rows = [[_code(d["what"]), _code(d["reference"]), _code(d["candidate"])] for d in check["differences"]]
                yield from _table(["of", "source", "output"], [":--"] * 3, rows)
                yield ""


def _state(check: CheckEntry, output: Output) -> str:
    if check["equal"] == check["total"]:
        return "ok" if check["total"] else ""
    if check["metric"] is None:
        return "known limit of the runtime"
    limit = output["limits"].get(check["metric"])
    if limit is None:
        return "differs; no limit is set for it"
    return "differs, within its limit" if check["equal"] / check["total"] >= limit["limit"] else "**differs**"


def _alike(outputs: Sequence[Output]) -> list[list[Output]]:
    """Outputs with the same contract together: types of one model differ in weights, not in vocabulary."""
    groups: list[list[Output]] = []
    for output in outputs:
        for group in groups:
            if group[0]["contract"] == output["contract"]:
                group.append(output)
                break
        else:
            groups.append([output])
    return groups


# ---- vision


def _vision(report: Report) -> Iterable[str]:
    rows, clicks, reasons = [], [], dict[str, None]()
    for output in report["outputs"]:
        seen, name = output["vision"], f"`{_name(output)}`"
        if seen["reason"]:
            reasons[f"{name}: {seen['reason']}"] = None
        for i in seen["images"]:
            size = f"{i['width']} x {i['height']}" + (" (resized)" if i["resized"] else "")
            same = "same" if i["next_reference"] == i["next_candidate"] else "**other**"
            error, kl = _plain(i["max_error"], ".2g"), _plain(i["kl"], ".2g")
            cosine = _plain(i["cosine_min"], ".7f")
            projector = seen["projector"]
            rows.append(
                [
                    name,
                    f"`{PurePath(projector['path']).name}`" if projector else "–",
                    i["name"],
                    size,
                    str(i["tokens"]),
                    cosine,
                    error,
                    kl,
                    same,
                ]
            )
        if (c := seen["clicks"]) is not None:
            accuracy = [f"{c['accuracy_reference']:.1%}", f"{c['accuracy']:.1%}", f"{c['same']:.1%}"]
            clicks.append([name, str(c["tasks"]), *accuracy, f"{_plain(c['distance'], '.2f')} px"])
    if not rows and all(r.endswith(SEES_NOTHING) for r in reasons):
        return
    yield "## Vision"
    yield ""
    if rows:
        head = [
            "output",
            "projector",
            "image",
            "pixels",
            "image tokens",
            "cosine, worst",
            "largest error",
            "KL after it",
        ]
        yield from _table([*head, "next token"], [":--"] * 4 + ["--:"] * 4 + [":--"], rows)
        yield ""
    if clicks:
        head = ["output", "screenshots", "source hits", "output hits", "same pixel", "apart, mean"]
        yield from _table(head, [":--", *["--:"] * 5], clicks)
        yield ""
    if reasons:
        yield from (f"- {_text(reason)}" for reason in reasons)
        yield ""


# ---- method


def _method(report: Report) -> Iterable[str]:
    reference, text = report["reference"], report["text"]
    origin = f" ({reference['hub']} at {reference['revision'] or 'no pinned revision'})" if reference["hub"] else ""
    yield "## How it was measured"
    yield ""
    yield (
        f"- Reference: the source checkpoint **{reference['model']}**{origin} on {reference['runtime']}, "
        f"computing in {reference['dtype']}."
    )
    for runtime in dict.fromkeys(o["runtime"] for o in report["outputs"] if o["runtime"]):
        yield f"- Outputs on {runtime}{_SETTINGS.get(runtime.partition(' (')[0], '')}."
    yield (
        f"- Text: {text['name']} (sha256 {text['sha256'][:12]}…), its first {text['tokens']} tokens in "
        f"{text['windows']} windows of at most {text['window']}; the same token ids into both, every position "
        "compared, KL in float64."
    )
    yield "- Files, by sha256:"
    for path, digest in dict.fromkeys((file["path"], file["sha256"]) for o in report["outputs"] for file in o["files"]):
        yield f"  - `{path}` {digest}"


_SHIPPED = "tokenizer, templates and image processor are those beside the graph, read by transformers"
_SETTINGS = {
    "llama.cpp": ": CPU, KV cache in F32 and flash attention off, so that the weights' drift is seen, not the cache's",
    "ONNX Runtime": f": CPU; {_SHIPPED}",
    "onnxruntime-genai": ": CPU; its own tokenizer and its own loop of tokens",
    "TensorRT": f": CUDA; {_SHIPPED}",
    "OpenVINO": f": CPU, computing in float32, activations not quantized; {_SHIPPED}",
}


# ---- Markdown


def _table(head: Sequence[str], align: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join(align)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _name(output: Output) -> str:
    return output["label"]


def _plain(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _text(text: str) -> str:
    """Safe inside a table cell and not taken for markup: names and reasons hold what strangers wrote."""
    text = " ".join(text.split())
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def _code(text: str) -> str:
    """A code span that survives a table: one line, no backtick, pipes escaped as GitHub wants them in a table."""
    text = " ".join(text.replace("`", "'").replace("|", r"\|").splitlines())
    return f"`{text}`" if text.strip() else "(nothing)"
