"""A whole report.json of made numbers, of the kind a real one has: 26 outputs of every format, four of them in trouble.

report = sample_report()

The same call gives the same report. What is measured on fara-nano (sizes, mean KL, clicks) is close to what was; the
rest is drawn around it, so that intervals hold their means and quantiles rise.
"""

from __future__ import annotations

import math
import random

from tests.validate import sample_parts as parts
from tests.validate.sample_parts import BROKEN, NOT_RUN, Made
from validate.report.marks import FormatLook, Mark, format_entries
from validate.report.schema import SCHEMA_VERSION, Limit, Output, Report
from validate.report.standing import with_standing

_LLAMA = "llama.cpp (xllamacpp 2026.10.11549)"
_ORT = "ONNX Runtime (onnxruntime 1.31.1)"
_OPENVINO = "OpenVINO (openvino 2026.4.1)"
_GENAI = "onnxruntime-genai (onnxruntime-genai 0.18.0)"
_GPTQ = "transformers, quantized (gptqmodel 7.6.0, compressed-tensors 0.20.0, transformers 5.23.0, torch 2.13.0+cpu)"
_TENSORRT = "TensorRT (TensorRT for RTX 1.7.1.116, torch 2.13.0+cpu)"

FORMATS = {
    "gguf": FormatLook("GGUF", Mark("circle", "#1668c8", "#6aabff")),
    "onnx": FormatLook("ONNX", Mark("square", "#c24f06", "#ff9d5c")),
    "onnx-genai": FormatLook("ONNX genai", Mark("diamond", "#8338c0", "#c99aff")),
    "tensorrt": FormatLook(
        "TensorRT", Mark("cross", "#52606f", "#aab6c4"), "An engine holds its weights more than once."
    ),
    "gptq": FormatLook("GPTQ", Mark("up", "#0a7a68", "#3ecfb2")),
    "awq": FormatLook("AWQ", Mark("down", "#b0196b", "#ff85bf")),
}

_ROWS = (
    Made("fara-nano-F16.gguf", "gguf", "F16", _LLAMA, 9013312, 1.58e-8, 1.0, 0.95, 842.0),
    Made("fara-nano-BF16.gguf", "gguf", "BF16", _LLAMA, 9013312, 9.53e-7, 0.9989, 0.95, 811.0),
    Made("fara-nano-Q8_0.gguf", "gguf", "Q8_0", _LLAMA, 4835392, 2.54e-5, 0.9884, 0.95, 1130.0),
    Made("fara-nano-Q6_K.gguf", "gguf", "Q6_K", _LLAMA, 3756096, 1.54e-4, 0.9743, 0.94, 1064.0),
    Made("fara-nano-Q5_K_M.gguf", "gguf", "Q5_K_M", _LLAMA, 3312192, 3.47e-4, 0.9688, 0.96, 1098.0),
    Made("fara-nano-Q4_K_M.gguf", "gguf", "Q4_K_M", _LLAMA, 2894400, 1.20e-3, 0.9631, 0.95, 1175.0),
    Made("fara-nano-Q3_K_M.gguf", "gguf", "Q3_K_M", _LLAMA, 2436160, 3.63e-3, 0.9472, 0.95, 1021.0),
    Made("fara-nano-Q2_K.gguf", "gguf", "Q2_K", _LLAMA, 2005056, 2.62e-2, 0.9033, 0.85, 1089.0),
    Made("fara-nano-i1-Q6_K.gguf", "gguf", "Q6_K", _LLAMA, 3756320, 1.48e-4, 0.9750, 0.93, 1061.0),
    Made("fara-nano-i1-Q5_K_M.gguf", "gguf", "Q5_K_M", _LLAMA, 3312416, 3.19e-4, 0.9704, 0.95, 1104.0),
    Made("fara-nano-i1-Q4_K_M.gguf", "gguf", "Q4_K_M", _LLAMA, 2894624, 1.21e-3, 0.9661, 0.92, 1182.0),
    Made("fara-nano-i1-Q3_K_M.gguf", "gguf", "Q3_K_M", _LLAMA, 2436384, 3.46e-3, 0.9493, 0.95, 1019.0),
    Made("fara-nano-i1-Q2_K.gguf", "gguf", "Q2_K", _LLAMA, 2005280, 2.40e-2, 0.9061, 0.92, 1092.0),
    Made("onnx/fp32", "onnx", "fp32", _ORT, 11666652, 2.03e-13, 1.0, 0.95, 214.0),
    Made("onnx/fp32@openvino", "onnx", "fp32", _OPENVINO, 11666652, 2.36e-13, 1.0, 0.95, 187.0),
    Made("onnx/fp16", "onnx", "fp16", _ORT, 9009446, 8.34e-8, 0.9998, 0.95, 196.0),
    Made("onnx/fp16@openvino", "onnx", "fp16", _OPENVINO, 9009446, 2.39e-13, 1.0, 0.95, 188.0),
    Made("onnx/int8", "onnx", "int8", _ORT, 4653672, 1.44e-4, 0.9786, 0.95, 342.0),
    Made("onnx/int8@openvino", "onnx", "int8", _OPENVINO, 4653672, 1.34e-4, 0.9788, 0.95, 401.0),
    Made("onnx/int4", "onnx", "int4", _ORT, 3520660, 1.26e-3, 0.9588, 0.94, 388.0),
    Made("onnx/int4@openvino", "onnx", "int4", _OPENVINO, 3520660, 1.18e-3, 0.9591, 0.94, 395.0),
    Made("genai/int4", "onnx-genai", "int4", _GENAI, 5589089, 2.28e-3, 0.9271, None, 655.0),
    Made("tensorrt/fp32", "tensorrt", "fp32", _TENSORRT, 39216314, math.nan, math.nan, None, math.nan),
    Made("gptq/Int4", "gptq", "Int4", _GPTQ, 6993744, 8.11e-4, 0.9719, 0.95, 96.0),
    Made("gptq8/Int8", "gptq", "Int8", _GPTQ, 8578912, 2.70e-6, 0.9980, 0.95, 92.0),
    Made("awq/Int4", "awq", "Int4", _GPTQ, 6953624, 9.43e-4, 0.9602, 0.95, 88.0),
)

UNSURE = "fara-nano-Q3_K_M.gguf"  # misses its limit, by less than the noise
FAILED = ("fara-nano-Q2_K.gguf", UNSURE, BROKEN)


def sample_report() -> Report:
    """Twenty-six outputs: three failed, one of them perhaps by chance, one was built and not run."""
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "recipe": "demo",
        "reference": {
            "model": "fara-nano",
            "hub": "",
            "revision": "",
            "runtime": "transformers 5.23.0, torch 2.13.0+cpu",
            "dtype": "float32",
            "vocabulary": 2512,
            "files": [parts.file("model.safetensors", 11603128)],
            "cache": {
                "whole": True,
                "bytes": 102891520,
                "tokens_kept": 2512.0,
                "tail_mass": 0.0,
                "tail_mass_max": 0.0,
            },
        },
        "texts": [
            {"name": name, "kind": "chat" if name == "tools" else "text", "sha256": parts.digest(name)}
            | {"tokens": 2560, "windows": 5, "source": f"our own {name}", "tokens_sha256": parts.digest(f"{name} ids")}
            for name, _ in parts.SETS
        ],
        "window": 512,
        "formats": format_entries(FORMATS),
        "outputs": [sample_output(row) for row in _ROWS],
        "choices": [
            {"name": name, "sha256": parts.digest(name), "items": items}
            for name, items in (("ours", 82), ("arc_easy.jsonl", 100))
        ],
        "provenance": {
            "convert": "0.1.0",
            "recipe_sha256": parts.digest("recipe"),
            "command": "convert run recipes/demo.yaml",
            "versions": {
                "convert": "0.1.0",
                "numpy": "2.2.6",
                "onnxruntime": "1.31.1",
                "torch": "2.13.0+cpu",
                "transformers": "5.23.0",
                "xllamacpp": "2026.10.11549",
            },
            "machine": {
                "processor": "Intel(R) Xeon(R) Processor",
                "cores": 2,
                "memory_bytes": 25276502016,
                "system": "Linux 6.12.0 x86_64, glibc 2.41",
                "python": "3.11.13",
            },
        },
    }
    return with_standing(report, parts.measurements(_ROWS))


def sample_output(row: Made) -> Output:
    """One row of the report."""
    chance = random.Random(row.label)
    ran = row.label != NOT_RUN
    stage, _, _ = row.label.partition("/")
    stage = ("weighted" if "-i1-" in row.label else "gguf") if row.format == "gguf" else stage
    path = f"{stage}/{row.label}" if row.format == "gguf" else f"{stage}/model_{row.type}.onnx"
    weights, projector = parts.file(path, row.size), parts.file(f"{stage}/mmproj-fara-nano-F16.gguf", 2690592)
    greedy = parts.greedy(row, chance) if ran else None
    metrics = _metrics(row, chance) if ran else {}
    if greedy:
        metrics["greedy_equal"] = greedy["equal"] / greedy["tokens"]
    choices = parts.choices(row) if ran else None
    if choices:
        whole = choices["all"]
        metrics["choice_accuracy"] = whole["right"] / whole["items"]
        metrics["choice_accuracy_reference"] = whole["right_reference"] / whole["items"]
        metrics["flips"] = (whole["right_to_wrong"] + whole["wrong_to_right"]) / whole["items"]
    limits = _limits(row, metrics) if ran else {}
    contract = parts.contract(row) if ran else {}
    status, reason = _verdict(row)
    return {
        "stage": stage,
        "format": row.format,
        "type": row.type,
        "label": row.label,
        **weights,
        "files": [weights, projector] if row.format == "gguf" else [weights],
        "parameters": parts.PARAMETERS,
        "bits_per_weight": round(row.size * 8 / parts.PARAMETERS, 3),
        "runtime": row.runtime,
        "status": status,  # type: ignore[typeddict-item]
        "reason": reason,
        "neutral": not ran,
        "metrics": metrics,
        "intervals": _intervals(metrics, chance) if ran else {},
        "limits": limits,
        "quantiles": parts.quantiles(metrics["kl_median"], metrics["kl_max"]) if ran else [],
        "slices": parts.slices(row, chance) if ran else [],
        "worst": parts.worst(metrics["kl_max"], chance) if ran and row.kl > 1e-10 else [],
        "windows": parts.windows(row, chance) if ran else [],
        "contract": contract,
        "greedy": greedy,
        "tool_calls": {"asked": 12, "valid_reference": 11, "valid": 9 if row.type == "Q2_K" else 11} if ran else None,
        "choices": choices,
        "vision": parts.vision(row, projector, chance),
        "speed": parts.speed(row, chance) if ran else None,
        "tensors": parts.tensors(row, chance) if row.format == "gguf" else [],
    }


def _verdict(row: Made) -> tuple[str, str]:
    if row.label == NOT_RUN:
        return "not_run", "built, not run: no CUDA device"
    said = {
        FAILED[0]: "kl_mean 0.0262, limit <= 0.01; click_drop 0.1, limit <= 0.05",
        UNSURE: "kl_mean 0.00363, limit <= 0.0035",
        BROKEN: "templates_equal 0.9, limit >= 1",
    }
    return ("failed", said[row.label]) if row.label in said else ("passed", "")


def _metrics(row: Made, chance: random.Random) -> dict[str, float]:
    ratio = 1 + row.kl * chance.uniform(0.2, 1.0)
    median = row.kl * chance.uniform(0.03, 0.06)
    metrics = {
        "positions": float(parts.POSITIONS),
        "tokens": float(parts.POSITIONS),
        "kl_mean": row.kl,
        "kl_median": median,
        "kl_p95": row.kl * 2.4,
        "kl_p99": row.kl * 11.3,
        "kl_p999": row.kl * 90.0,
        "kl_max": row.kl * chance.uniform(300, 1400),
        "top1": row.top1,
        "top5": 1 - (1 - row.top1) * 0.6,
        "p_rms": math.sqrt(row.kl) * 0.38,
        "p_p99": math.sqrt(row.kl) * 1.1,
        "logit_max_abs": math.sqrt(row.kl) * 130,
        "ppl": parts.PPL * ratio,
        "ppl_reference": parts.PPL,
        "ppl_ratio": ratio,
        "ppl_change": abs(ratio - 1),
        "tokens_equal": 1.0,
        "vocabulary_equal": 1.0,
        "special_ids_equal": 1.0,
        "templates_equal": 0.9 if row.label == BROKEN else 1.0,
        "stops_equal": 1.0,
        "decode_max_abs": math.sqrt(row.kl) * 2.1,
        "decode_kl": row.kl * 1e-3,
        "tool_calls_valid": 9 / 12 if row.type == "Q2_K" else 11 / 12,
        "tool_call_drop": 2 / 12 if row.type == "Q2_K" else 0.0,
    }
    if row.clicks is not None:
        metrics |= {
            "click_rate": row.clicks,
            "click_rate_reference": 0.95,
            "click_drop": round(0.95 - row.clicks, 4),
            "click_distance": row.kl * 900,
            "image_cosine": 0.99982,
            "image_cosine_unresized": 0.9999995,
            "image_max_error": 0.0189,
            "image_kl": row.kl * 0.02,
            "image_top1": 1.0,
            "image_tokens_equal": 1.0,
        }
    return metrics


def _intervals(metrics: dict[str, float], chance: random.Random) -> dict[str, tuple[float, float]]:
    spread = chance.uniform(0.12, 0.34)
    around = dict.fromkeys(("kl_mean", "kl_median", "kl_p95", "kl_p99"), spread)
    found = {name: (metrics[name] * (1 - s), metrics[name] * (1 + 1.2 * s)) for name, s in around.items()}
    top1, ratio = metrics["top1"], metrics["ppl_ratio"]
    found["top1"] = (top1 - 0.05 * (1 - top1) - 1e-4, min(1.0, top1 + 0.05 * (1 - top1) + 1e-4))
    found["ppl_ratio"] = (ratio - 0.4 * abs(ratio - 1), ratio + 0.4 * abs(ratio - 1))
    if "click_rate" in metrics:
        found["click_rate"] = (metrics["click_rate"] - 0.05, min(1.0, metrics["click_rate"] + 0.04))
    return found


def _limits(row: Made, metrics: dict[str, float]) -> dict[str, Limit]:
    own = {"Q2_K": 0.01, "Q3_K_M": 0.0035}.get(row.type, 0.13)
    missed = {"fara-nano-Q2_K.gguf": 1.0, UNSURE: 0.631, "fara-nano-i1-Q3_K_M.gguf": 0.442}
    if row.label == "fara-nano-i1-Q2_K.gguf":
        own = 0.13
    limits: dict[str, Limit] = {
        name: {"better": ">=", "limit": 1.0, "source": "default", "p_worse": None}
        for name in ("tokens_equal", "vocabulary_equal", "templates_equal", "special_ids_equal", "stops_equal")
    }
    source = "default" if own == 0.13 else "recipe"
    limits["kl_mean"] = {"better": "<=", "limit": own, "source": source, "p_worse": missed.get(row.label, 0.0)}
    limits["top1"] = {"better": ">=", "limit": 0.85, "source": "good", "p_worse": 0.0}
    if "click_drop" in metrics and row.type in ("Q2_K", "Q4_K_M"):
        own_drop = 0.05
        p_worse = {"fara-nano-Q2_K.gguf": 0.941}.get(row.label, 0.2)
        limits["click_drop"] = {"better": "<=", "limit": own_drop, "source": "recipe", "p_worse": p_worse}
    return limits
