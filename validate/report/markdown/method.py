"""What was measured how, on what, with what: enough to measure it again."""

from __future__ import annotations

from collections.abc import Iterable

from validate.report.markdown.text import code, codes, folded, text
from validate.report.reading_words import reading
from validate.report.schema import Report, TextEntry
from validate.report.words import count, plural, scientific, size

_SHIPPED = "tokenizer, templates and image processor are those beside the graph, read by transformers"
_SETTINGS = {
    "llama.cpp": ", CPU, KV cache in F32 and flash attention off, so that the weights' drift is seen, not the cache's",
    "ONNX Runtime": f", CPU; {_SHIPPED}",
    "onnxruntime-genai": ", CPU; its own tokenizer and its own loop of tokens",
    "TensorRT": f", CUDA; {_SHIPPED}",
    "OpenVINO": f", CPU, computing in float32, activations not quantized; {_SHIPPED}",
}


def method(report: Report) -> Iterable[str]:
    """Reference, texts, runtimes, machine; files and versions unfold."""
    yield "## How it was measured"
    yield ""
    yield f"- Reference: {_reference(report)}"
    yield f"- Text: {_texts(report)}"
    yield from (f"- {text(said)}." for said in reading(report))
    yield (
        "- The same token ids go into both; every position is compared, KL(source || output) in float64 nats. "
        "Intervals and the certainty of a verdict come from resampled blocks of text, the same for both sides, because "
        "neighbours are alike."
    )
    yield from _runtimes(report)
    yield from _machine(report)
    yield ""
    yield from folded("Files, by sha256", _files(report))


def _reference(report: Report) -> str:
    reference, cache = report["reference"], report["reference"]["cache"]
    origin = ""
    if reference["hub"]:
        origin = f" ({text(reference['hub'])} at {text(reference['revision'] or 'no pinned revision')})"
    kept = "all logits were kept"
    if not cache["whole"]:
        kept = (
            f"of {count(reference['vocabulary'])} logits a position {cache['tokens_kept']:.0f} were kept, and of the "
            f"others, whose mass is {scientific(cache['tail_mass'])} on average, a random sample"
        )
    stored = f", whose weights are {text(reference['quantized'])}," if "quantized" in reference else ""
    return (
        f"the source checkpoint **{text(reference['model'])}**{origin}{stored} on {text(reference['runtime'])}, "
        f"computing in {text(reference['dtype'])}; {kept} ({size(cache['bytes'])})."
    )


def _texts(report: Report) -> str:
    texts = [
        f"{text(t['name'])} ({count(t['tokens'])} tokens{', conversations' if t['kind'] == 'chat' else ''}, "
        f"sha256 {text(t['sha256'][:12])}…{_ids(t)})"
        for t in report["texts"]
    ]
    windows = sum(t["windows"] for t in report["texts"])
    return f"{', '.join(texts) or 'none'}; {plural(windows, 'window')} of at most {report['window']} tokens."


def _ids(entry: TextEntry) -> str:
    return f", of its token ids {text(entry['tokens_sha256'][:12])}…" if "tokens_sha256" in entry else ""


def _runtimes(report: Report) -> Iterable[str]:
    for runtime in dict.fromkeys(o["runtime"] for o in report["outputs"] if o["runtime"]):
        ran = [o["label"] for o in report["outputs"] if o["runtime"] == runtime and o["status"] != "not_run"]
        how = _SETTINGS.get(runtime.partition(" (")[0], "")
        yield f"- {codes(ran)}: on {text(runtime)}{how}." if ran else f"- Nothing ran on {text(runtime)}."


def _machine(report: Report) -> Iterable[str]:
    made = report["provenance"]
    machine = made["machine"]
    memory = "" if machine["memory_bytes"] is None else f", {size(machine['memory_bytes'])} of memory"
    yield (
        f"- Machine: {text(machine['processor'])}, {plural(machine['cores'], 'core')}{memory}, "
        f"{text(machine['system'])}, Python {text(machine['python'])}."
    )
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in made["versions"].items())
    recipe = f"recipe sha256 {text(made['recipe_sha256'][:12])}…; " if made["recipe_sha256"] else ""
    command = f"{code(made['command'])}; " if made["command"] else ""
    yield f"- Made with {command}{recipe}{versions}."


def _files(report: Report) -> Iterable[str]:
    every = [*report["reference"]["files"], *(file for o in report["outputs"] for file in o["files"])]
    for path, digest in dict.fromkeys((file["path"], file["sha256"]) for file in every):
        yield f"- {code(path)} {text(digest)}".rstrip()
