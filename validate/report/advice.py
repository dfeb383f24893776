"""What to do about an output that did not pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from validate.metrics import Better
from validate.report.schema import Output

_DRIFT = (
    "the weights give other answers than the source's. When every type of this model drifts like that, suspect the "
    "conversion (a tensor, a hyper-parameter); when only this one does, it is too coarse: publish a finer type, or set "
    "the limit you can answer for."
)
_CACHE = (
    "do not publish it: what it writes word by word is not what it makes of a text read at once. Suspect the cache's "
    "inputs and outputs, the attention mask and the positions."
)
_VOCABULARY = "do not publish it: it reads text as other tokens than the model learned. The contract below names them."
_TEMPLATE = "do not publish it: chats reach the model in another form than it learned. The contract below shows where."
_PROJECTOR = "check that the projector file was made from this source; its embeddings are compared below, under Vision."
_CLICKS = "see the drift and the projector first: clicks go wrong behind them."

_STOPS = (
    "do not publish it: it talks on where it should stop. Compare its end-of-text and end-of-turn ids with those of "
    "the source's generation_config.json and tokenizer."
)
_SETTINGS = (
    "it would be used in another way than its source: the contract below names each setting, what the source says and "
    "what the runtime takes. Write it into the file, or give it to the runtime with every call."
)
_SIZES = (
    "the projector cuts or scales images in another way than the source: compare its pixel limits, patch size and "
    "merge size with preprocessor_config.json."
)
_CALLS = (
    "its answers name no tool, or are no JSON: see the drift and the template first. A type that calls tools less "
    "often than the source is no use to an agent, however near it is on text."
)
_CHOICES = (
    "it answers other items right than the source does: see the drift first, and the items that changed. With few "
    "items a drop of one or two is chance; the test beside them says how likely."
)
_CACHE_TYPES = (
    "the file is as it was: a type of the key-value cache costs more than the limit allows. The table of the cache "
    "names it; recommend a wider one, for K and V together or for one of them."
)
_TENSORS = "do not publish it: its file does not hold the source's values, rounded. Convert it again."
_STATED = "do not publish it: its files describe another model than the source's config.json. Convert it again."
_EMBEDDINGS = (
    "texts do not compare as they do with the source. When every type of this model drifts like that, suspect the "
    "conversion (pooling, positions, a tensor); when only this one does, it is too coarse: publish a finer type."
)
PLACES = 4  # that are named of each kind
_KL = ("kl_mean", "kl_median", "kl_p95", "kl_p99", "kl_p999", "kl_max")

_ADVICE: dict[str, str] = {
    **dict.fromkeys(
        (*_KL, "top1", "top5", "p_rms", "p_p99", "logit_max_abs", "ppl_ratio", "ppl_change", "greedy_equal"),
        _DRIFT,
    ),
    **dict.fromkeys(("embedding_cosine", "embedding_cosine_mean", "score_error", "rank_agreement"), _EMBEDDINGS),
    "decode_max_abs": _CACHE,
    "decode_kl": _CACHE,
    **dict.fromkeys(("tokens_equal", "vocabulary_equal", "special_ids_equal"), _VOCABULARY),
    **dict.fromkeys(("templates_equal", "templates_runtime_equal", "templates_js_equal"), _TEMPLATE),
    **dict.fromkeys(
        ("image_cosine", "image_cosine_unresized", "image_max_error", "image_kl", "image_top1"), _PROJECTOR
    ),
    "settings_equal": _SETTINGS,
    "stops_equal": _STOPS,
    "tensors_equal": _TENSORS,
    "hyperparameters_equal": _STATED,
    "image_tokens_equal": _SIZES,
    **dict.fromkeys(("tool_calls_valid", "tool_call_drop"), _CALLS),
    **dict.fromkeys(("choice_accuracy", "choice_accuracy_norm", "choice_drop", "flips", "mcnemar_p"), _CHOICES),
    **dict.fromkeys(("kv_cache_kl", "kv_cache_top1", "kv_cache_recall_drop"), _CACHE_TYPES),
    **dict.fromkeys(("click_rate", "click_drop", "click_distance"), _CLICKS),
}


def kept(output: Output, name: str) -> bool | None:
    """Whether the limit on a metric was kept; None where the metric was not measured, which is never a pass."""
    value, limit = output["metrics"].get(name), output["limits"][name]
    if value is None:
        return None
    return value <= limit["limit"] if limit["better"] == Better.LOWER else value >= limit["limit"]


def advice(output: Output) -> Iterable[str]:
    """A sentence for each kind of trouble, the gravest first; none for an output that passed."""
    if output["neutral"]:
        yield "run it on a machine that can; with `require: run` in the recipe it fails where it cannot be run."
    elif output["status"] == "not_run":
        yield "nothing is known about it: give it its runtime and run again."
    if output["status"] != "failed":
        return
    broken = [name for name in output["limits"] if kept(output, name) is False]
    if not broken:
        yield "it could not be measured as a whole: convert it again, and do not publish it before it runs."
    yield from places(output, broken)
    yield from dict.fromkeys(_ADVICE[name] for name in broken)


def places(output: Output, broken: Iterable[str]) -> Iterable[str]:
    """Where the trouble is: tensors by their names, settings and texts with what they are and should be."""
    notes = [f"{t['name']}: {t['note']}" for t in output["tensors"] if t.get("note")]
    yield from _few("tensor ", notes)
    wrong = set(broken)
    for check in output["contract"].values():
        if check["metric"] in wrong:
            said = [f"{d['what']} is {d['candidate']}, by the source {d['reference']}" for d in check["differences"]]
            yield from _few(f"{check['title']}: ", said)


def _few(before: str, said: Sequence[str]) -> Iterable[str]:
    yield from (f"{before}{words}" for words in said[:PLACES])
    if len(said) > PLACES:
        yield f"{before.rstrip(': ')}: {len(said) - PLACES} more, in report.json"
