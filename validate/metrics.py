"""What is measured, which way is better, and the verdict on a number. Nothing is a pass because it is missing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from validate.embeddings import EMBEDDINGS, SCORES, TEXT


class Better(StrEnum):
    """Which side of its limit a metric has to stay on."""

    LOWER = "<="
    HIGHER = ">="


@dataclass(frozen=True)
class Definition:
    """What a metric's number means."""

    better: Better
    meaning: str


_LOWER, _HIGHER = Better.LOWER, Better.HIGHER

DEFINITIONS: Mapping[str, Definition] = {
    "kl_mean": Definition(_LOWER, "KL(reference || candidate) in nats, mean over token positions"),
    "kl_median": Definition(_LOWER, "KL, median over token positions"),
    "kl_p95": Definition(_LOWER, "KL, 95th percentile over token positions"),
    "kl_p99": Definition(_LOWER, "KL, 99th percentile over token positions"),
    "kl_p999": Definition(_LOWER, "KL, 99.9th percentile over token positions"),
    "kl_max": Definition(_LOWER, "KL, worst token position"),
    "top1": Definition(_HIGHER, "share of positions whose most likely token is the reference's"),
    "top5": Definition(_HIGHER, "share of the reference's five most likely tokens that are among the candidate's five"),
    "p_rms": Definition(_LOWER, "root mean square change of the probability of the text's own next token"),
    "p_p99": Definition(_LOWER, "99th percentile of |change| of the probability of the text's own next token"),
    "logit_max_abs": Definition(_LOWER, "largest difference of any logit"),
    "ppl_ratio": Definition(_LOWER, "perplexity over the reference's perplexity, on the same windows"),
    "ppl_change": Definition(_LOWER, "|perplexity ratio - 1|: a perplexity that falls is a change too"),
    "decode_max_abs": Definition(
        _LOWER, "largest difference of any logit between tokens read at once and one at a time through the cache"
    ),
    "decode_kl": Definition(
        _LOWER, "KL of tokens fed one at a time through the cache from the same read at once, mean: both of the output"
    ),
    "greedy_equal": Definition(_HIGHER, "share of greedy continuations that is written before the first difference"),
    "tool_calls_valid": Definition(_HIGHER, "share of answers that are a tool call, in JSON, of a tool there is"),
    "tool_call_drop": Definition(_LOWER, "the source's share of valid tool calls minus the candidate's"),
    "choice_accuracy": Definition(
        _HIGHER, "share of multiple-choice items answered right, by the sum of log-probabilities (lm-eval's acc)"
    ),
    "choice_accuracy_norm": Definition(_HIGHER, "the same by that sum over a choice's characters (lm-eval's acc_norm)"),
    "choice_drop": Definition(_LOWER, "the source's share of right answers minus the candidate's"),
    "flips": Definition(_LOWER, "share of multiple-choice items that one side answers right and the other wrong"),
    "mcnemar_p": Definition(
        _HIGHER, "chance of as uneven a split of the flips if either way were as likely: exact McNemar test, two-sided"
    ),
    "kv_cache_kl": Definition(
        _LOWER, "KL of a cache type the recipe names from the output's own F32 cache, mean, of the worst type"
    ),
    "kv_cache_top1": Definition(
        _HIGHER, "share of positions whose most likely token is that of the output's own F32 cache, of the worst type"
    ),
    "kv_cache_recall_drop": Definition(
        _LOWER, "share of facts in long texts that the F32 cache finds minus that of a cache type, of the worst type"
    ),
    "embedding_cosine": Definition(_HIGHER, "cosine of the embedding of a text to the source's, worst text"),
    "embedding_cosine_mean": Definition(_HIGHER, "cosine of the embedding of a text to the source's, mean over texts"),
    "score_error": Definition(
        _LOWER, "root mean square change of a classifier's scores, as a part of how the source's differ between texts"
    ),
    "rank_agreement": Definition(
        _HIGHER, "share of the pairs of texts, of those that the source tells apart, that stand in the source's order"
    ),
    "tokens_equal": Definition(_HIGHER, "share of the hard strings that get the reference's token ids"),
    "vocabulary_equal": Definition(_HIGHER, "share of the vocabulary whose text is the reference's"),
    "templates_equal": Definition(_HIGHER, "share of the conversations rendered like the reference, byte for byte"),
    "templates_runtime_equal": Definition(
        _HIGHER, "share of the conversations rendered like the reference by the runtime's own template engine"
    ),
    "templates_js_equal": Definition(
        _HIGHER, "share of the conversations rendered like the reference by transformers.js' template engine"
    ),
    "special_ids_equal": Definition(_HIGHER, "share of the special-token facts (BOS, EOS, …) that agree"),
    "settings_equal": Definition(
        _HIGHER, "share of the settings (sampling, lengths, positions, images) that the runtime takes as the source's"
    ),
    "stops_equal": Definition(_HIGHER, "share of the ends of text, of those it writes, at which the runtime stops"),
    "image_tokens_equal": Definition(_HIGHER, "share of image sizes that become as many tokens as in the source"),
    "tensors_equal": Definition(
        _HIGHER, "share of tensors whose values are the source's, up to what their type rounds"
    ),
    "hyperparameters_equal": Definition(
        _HIGHER, "share of the model's numbers that the file states as the source does"
    ),
    "image_cosine": Definition(_HIGHER, "cosine of the projector's embedding to the source's, worst image token"),
    "image_cosine_unresized": Definition(
        _HIGHER, "cosine of the projector's embedding, worst token of the images that neither side had to resize"
    ),
    "image_max_error": Definition(_LOWER, "largest difference of any value of the projector's embeddings"),
    "image_kl": Definition(_LOWER, "KL of the next token's distribution after an image, worst image"),
    "image_top1": Definition(_HIGHER, "share of image prompts whose next token is the reference's"),
    "click_rate": Definition(_HIGHER, "share of clicks that hit their target"),
    "click_drop": Definition(_LOWER, "the source's share of hits minus the candidate's"),
    "click_distance": Definition(_LOWER, "pixels between the candidate's clicks and the source's, mean"),
}

# What no output may miss, whatever the recipe says of drift; a recipe may relax each by name.
CONTRACT_LIMITS: Mapping[str, float] = {
    "tokens_equal": 1.0,
    "vocabulary_equal": 1.0,
    "templates_equal": 1.0,
    "special_ids_equal": 1.0,
    "settings_equal": 1.0,
    "stops_equal": 1.0,
    "image_tokens_equal": 1.0,
    "tensors_equal": 1.0,
    "hyperparameters_equal": 1.0,
}

# What a projector may not miss, by its type. Resizing, which the two sides do differently, moves an embedding by
# hundredths; where nothing is resized, F16 agrees to seven digits, and a single zeroed tensor of one block leaves 0.99.
# A graph that computes in fewer bits keeps less: fara-nano's tower 0.9986 in BF16, 0.993 with INT8 activations of one
# scale an image, 0.895 in INT4; with all three it clicks as well as before.
PROJECTOR_LIMITS: Mapping[str, Mapping[str, float]] = {
    "*": {"image_cosine": 0.9, "image_cosine_unresized": 0.999},
    "BF16": {"image_cosine": 0.9, "image_cosine_unresized": 0.995},
    "INT8": {"image_cosine": 0.9, "image_cosine_unresized": 0.97},
    "INT4": {"image_cosine": 0.75, "image_cosine_unresized": 0.75},
    "Q4F16": {"image_cosine": 0.75, "image_cosine_unresized": 0.75},
}

# Where a recipe sets no limit of its own: about eight times the drift published for each type on Llama-3-8B and
# wikitext-2 (F16 5e-5, Q8_0 0.0014, Q6_K 0.0055, Q5_K_M 0.011, Q4_K_M 0.031, Q3_K_M 0.10, Q2_K 0.45), because a small
# model drifts by four times as much: SmolLM2-135M has 0.0062 / 95.0 % in Q8_0, 0.104 / 83 % in Q4_K_M, 0.32 / 69 % in
# Q3_K_M, 0.84 in Q2_K and 0.11 in INT8. They catch a broken file, not a slightly worse one: that is what the recipe's
# own limits are for, and tensors_equal sees what one tensor does.
# W and A are the bits of weights and activations of compressed-tensors; rounded to nearest, SmolLM2-135M has 0.04 in
# FP8 and W8A8, 0.004 in W8A16 of rows, 0.3 / 70 % in NVFP4A16, 0.54 / 62 % in NVFP4, 0.63 in MXFP4A16, 1.5 / 39 % in
# MXFP4, 0.54 / 63 % in W4A16 of 64. Inputs are rounded token by token: read one at a time, they are the same.
# 8BIT to 2BIT are MLX's, in groups of 64: rounded to nearest, SmolLM2-135M has 0.0035 / 96 % in 8 bits, 0.56 / 58 % in
# 4, 2.1 / 25 % in 3 and 1.1 / 44 % in MXFP4; a mixed recipe falls under its fewer bits.
# FP32, FP16, INT8, INT4 are graphs, which compute in that type: activations too are rounded to it, in INT8 by one scale
# for all the tokens read at once, so that reading them one at a time gives other logits.
# `decode_kl` is for a cache that is not read, of which prefill shows nothing: fara-nano in INT4 then has 1.2, else 0.
DEFAULT_LIMITS: Mapping[str, Mapping[str, float]] = {
    "F32": {"kl_mean": 0.00002, "top1": 0.995, "decode_max_abs": 0.05},
    "FP32": {"kl_mean": 0.00002, "top1": 0.995, "decode_max_abs": 0.05},
    "FP16": {"kl_mean": 0.0005, "top1": 0.98, "decode_max_abs": 0.5},
    "INT8": {"kl_mean": 0.25, "top1": 0.8, "decode_kl": 0.2},
    "INT4": {"kl_mean": 0.4, "top1": 0.75, "decode_kl": 0.2},
    "Q4F16": {"kl_mean": 0.4, "top1": 0.75, "decode_kl": 0.2},
    "F8": {"kl_mean": 0.1, "top1": 0.82},
    "W8A16": {"kl_mean": 0.012, "top1": 0.92},
    "W8A8": {"kl_mean": 0.1, "top1": 0.82, "decode_kl": 0.05},
    "W4A16": {"kl_mean": 1.0, "top1": 0.5},
    "NVFP4A16": {"kl_mean": 0.6, "top1": 0.6},
    "NVFP4": {"kl_mean": 1.1, "top1": 0.5, "decode_kl": 0.05},
    "MXFP4A16": {"kl_mean": 1.3, "top1": 0.5},
    "MXFP4_MOE": {"kl_mean": 1.3, "top1": 0.5},  # weights alone, as MXFP4A16
    "MXFP4": {"kl_mean": 3.0, "top1": 0.3, "decode_kl": 0.05},
    "MXFP8": {"kl_mean": 0.1, "top1": 0.82},
    "8BIT": {"kl_mean": 0.012, "top1": 0.92},
    "6BIT": {"kl_mean": 0.09, "top1": 0.85},
    "5BIT": {"kl_mean": 0.3, "top1": 0.7},
    "4BIT": {"kl_mean": 1.1, "top1": 0.5},
    "MIXED_4": {"kl_mean": 1.1, "top1": 0.5},
    "3BIT": {"kl_mean": 4.0, "top1": 0.2},
    "MIXED_3": {"kl_mean": 4.0, "top1": 0.2},
    "2BIT": {"kl_mean": 12.0, "top1": 0.0},
    "MIXED_2": {"kl_mean": 12.0, "top1": 0.0},
    "F16": {"kl_mean": 0.0002, "top1": 0.985},
    "BF16": {"kl_mean": 0.004, "top1": 0.97, "decode_kl": 0.05},
    "Q8_0": {"kl_mean": 0.012, "top1": 0.92},
    "Q6_K": {"kl_mean": 0.045, "top1": 0.88},
    "Q5": {"kl_mean": 0.09, "top1": 0.85},
    "Q4": {"kl_mean": 0.25, "top1": 0.75},
    "IQ4": {"kl_mean": 0.25, "top1": 0.75},
    "Q3": {"kl_mean": 0.8, "top1": 0.6},
    "IQ3": {"kl_mean": 0.8, "top1": 0.6},
    "*": {"kl_mean": 3.0, "top1": 0.4},
}


# Of encoders, instead: wide enough for the tiny ones of the tests, whose few values a vector average out least. Like
# those above they catch a broken file; what a search can bear is for a preset, or the recipe's own numbers.
ENCODER_METRICS: Mapping[str, tuple[str, ...]] = {
    EMBEDDINGS: ("embedding_cosine", "embedding_cosine_mean", "rank_agreement"),
    SCORES: ("score_error", "rank_agreement"),
}
ENCODER_LIMITS: Mapping[str, Mapping[str, float]] = {
    "F32": {"embedding_cosine": 0.9999, "score_error": 0.01, "rank_agreement": 0.99},
    "F16": {"embedding_cosine": 0.999, "score_error": 0.02, "rank_agreement": 0.98},
    "BF16": {"embedding_cosine": 0.998, "score_error": 0.05, "rank_agreement": 0.97},
    "Q8_0": {"embedding_cosine": 0.98, "score_error": 0.2, "rank_agreement": 0.93},
    "Q6_K": {"embedding_cosine": 0.95, "score_error": 0.3, "rank_agreement": 0.9},
    "Q5": {"embedding_cosine": 0.9, "score_error": 0.4, "rank_agreement": 0.85},
    "Q4": {"embedding_cosine": 0.8, "score_error": 0.6, "rank_agreement": 0.8},
    "IQ4": {"embedding_cosine": 0.8, "score_error": 0.6, "rank_agreement": 0.8},
    "*": {"embedding_cosine": 0.5, "score_error": 1.5, "rank_agreement": 0.6},
}
_OF_ENCODERS = frozenset(name for names in ENCODER_METRICS.values() for name in names)


def applies(name: str, gives: str) -> bool:
    """Whether a metric is one of models that give this."""
    if name in CONTRACT_LIMITS:
        return True
    return name in ENCODER_METRICS[gives] if gives in ENCODER_METRICS else name not in _OF_ENCODERS


@dataclass(frozen=True)
class Metric:
    """One measured number and the limit it has to keep; NaN and infinity never keep any."""

    name: str
    value: float
    limit: float | None = None

    @property
    def better(self) -> Better:
        return DEFINITIONS[self.name].better

    @property
    def passed(self) -> bool:
        if not math.isfinite(self.value):
            return False
        if self.limit is None:
            return True
        return self.value <= self.limit if self.better is Better.LOWER else self.value >= self.limit

    def __str__(self) -> str:
        """`kl_mean 0.0132, limit <= 0.002`; what a reason quotes."""
        text = f"{self.name} {number(self.value, self.limit)}"
        return text if self.limit is None else f"{text}, limit {self.better} {self.limit:g}"


def number(value: float, limit: float | None = None) -> str:
    """Four digits, or as many as show on which side of its limit the value is: 0.99996 is not 1."""
    for digits in (4, 6, 9):
        text = f"{value:.{digits}g}"
        if limit is None or (float(text) > limit, float(text) < limit) == (value > limit, value < limit):
            return text
    return repr(value)


def resampled(name: str) -> str:
    """What a metric's draws are of."""
    if name in ("flips", "mcnemar_p") or name.startswith("choice_"):
        return "items"
    return "clicks" if name.startswith("click_") else "texts"


def default_limits(type_: str, projector: str | None = None, gives: str = TEXT) -> Mapping[str, float]:
    """The limits an output of this type has to keep where the recipe names none: `Q4_K_M` falls under `Q4`.

    `projector` is the type of its projector, None where there is none; `gives` what the model gives.
    """
    images = {} if projector is None else _of(PROJECTOR_LIMITS, projector)
    drift = _of(ENCODER_LIMITS if gives in ENCODER_METRICS else DEFAULT_LIMITS, type_)
    return {**CONTRACT_LIMITS, **{name: limit for name, limit in drift.items() if applies(name, gives)}, **images}


def _of(table: Mapping[str, Mapping[str, float]], type_: str) -> Mapping[str, float]:
    """The entry of the longest name that the type starts with."""
    return table[max((name for name in table if type_.upper().startswith(name)), key=len, default="*")]


def unknown_metrics(names: Mapping[str, object]) -> dict[str, str]:
    """Names that are no metric, each with the nearest one that is, or an empty string."""
    wrong = [name for name in names if name not in DEFINITIONS]
    return {name: next(iter(difflib.get_close_matches(name, DEFINITIONS, 1)), "") for name in wrong}
