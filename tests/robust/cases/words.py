"""config.json and its like: numbers that nobody has, depths, twice the same, and what asks for code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.robust.cases.base import Case, Place, cases

DEEP = 10_000


def _config(**words: Any) -> Callable[[Place], None]:
    return lambda place: place.edit("config.json", lambda config: config.update(words))


def _file(name: str, text: str | bytes) -> Callable[[Place], object]:
    return lambda place: place.write(f"Tiny/{name}", text)


def _brings_code(place: Place) -> None:
    """A class of the model's own, in Python that comes with it."""
    (place.model / "evil.py").write_text(f"open({str(place.witness)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Model", None]}
    place.edit("config.json", lambda config: config.update(auto_map=auto, model_type="evil", architectures=["Evil"]))


def _code_beside(place: Place) -> None:
    """The same, and a class that is known: it is converted, and nothing is imported."""
    (place.model / "evil.py").write_text(f"open({str(place.witness)!r}, 'w')\n")
    place.edit("config.json", lambda config: config.update(auto_map={"AutoConfig": "evil.Config"}))
    place.edit("tokenizer_config.json", lambda config: config.update(auto_map={"AutoTokenizer": ["evil.T", None]}))


SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
VALUES = {"1e12": 10**12, "10**30": 10**30, "zero": 0, "-1": -1, "NaN": float("nan"), "a word": "12", "a list": [2]}
ODD = {
    "head_dim": (0, -1, 10**12, 0.5),
    "num_key_value_heads": (0, 3, 10**9),
    "rms_norm_eps": (float("nan"), float("inf"), "small", 10**400),
    "rope_theta": (0, float("inf"), -1, "x"),
    "rope_scaling": (
        {"type": "linear", "factor": 0},
        {"type": "linear", "factor": float("nan")},
        {"type": "\x1b[2J"},
        {"type": "longrope", "short_factor": [1.0] * 100_000, "long_factor": []},
        [],
        "linear",
    ),
    "max_position_embeddings": (10**30, -5, "long"),
    "architectures": ([], [None], [7], ["A" * 100_000], "LlamaForCausalLM", [["LlamaForCausalLM"]], ["\x1b[31m"]),
    "torch_dtype": ("float8_of_doom", 7),
    "quantization_config": (
        {"quant_method": "\x1b[2J"},
        {"quant_method": "gptq", "bits": 10**9, "group_size": 0},
        [],
        7,
    ),
    "bos_token_id": (-1, 10**12, "one", [[1]]),
}
HARMLESS = ("rope_scaling", "max_position_embeddings", "bos_token_id", "torch_dtype", "quantization_config")


def _odd() -> list[Case]:
    return [
        Case("config", f"{word} is {str(value)[:40]!r}", _config(**{word: value}), harmless=word in HARMLESS)
        for word, values in ODD.items()
        for value in values
    ]


TEXTS = {
    "nested 10,000 deep": '{"a":' * DEEP + "1" + "}" * DEEP,
    "lists nested 10,000 deep": '{"a":' + "[" * DEEP + "]" * DEEP + "}",
    "a list": "[1]",
    "empty": "",
    "a number of 100,000 digits": '{"hidden_size": ' + "9" * 100_000 + "}",
    "not UTF-8": b'{"a": "\xff\xfe\xfa"}',
    "cut short": '{"architectures": ["Llama',
    "5 MB of spaces": "{" + " " * (5 << 20) + "}",
    "a git-lfs pointer": f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n",
    "control characters": '{"a": "\x1b[2J',
}
READ = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")


def _layers(place: Place) -> None:
    place.recipe("name: r\nmodel: {path: Tiny}\nstages:\n  onnx: {use: onnx}\n  mlx: {use: mlx}\n")
    place.edit("config.json", lambda config: config.update(num_hidden_layers=10**12))


def _text_config(place: Place) -> None:
    """The text's config within itself, a thousand deep."""
    config = place.read("config.json")
    text = json.dumps({"text_config": 0})
    place.write(
        "Tiny/config.json",
        json.dumps(config)[:-1] + "," + (text[1:-2]) * 1 + '{"text_config":' * 900 + "{}" + "}" * 900 + "}",
    )


CASES = [
    *cases(
        "config",
        {f"{word} is {title}": _config(**{word: value}) for word in SIZES for title, value in VALUES.items()},
        says="config.json|safetensors|gguf",
        errors=3,
    ),
    *_odd(),
    *(
        Case("words", f"{name}: {title}", _file(name, text), says=name)
        for name in READ
        for title, text in TEXTS.items()
    ),
    Case("config", "1e12 layers, for graphs and MLX", _layers, ("plan", "r.yaml"), says="config.json", errors=4),
    Case("config", "a text model within a text model", _text_config, harmless=True),
    Case("config", "a class that brings its code", _brings_code, ("plan", "r.yaml"), says="Evil|evil"),
    Case("config", "code beside a class that is known", _code_beside, harmless=True),
]
