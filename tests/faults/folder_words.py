"""Damage to what stands beside the weights of folders, and to whole files of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.folders import copied
from tests.faults.gguf_metadata import OTHER_TEMPLATE
from tests.faults.kinds import SETTINGS, SUITE, Damaged, Honest

Edit = Callable[[Any], None]


def words(name: str, base: str, files: str, change: Edit, place: str, by: str = "") -> None:
    """JSON files of a folder that match a pattern, changed in place."""

    def make(h: Honest, out: Path) -> Damaged:
        folder = copied(h, out, base)
        for path in folder.glob(files):
            said = json.loads(path.read_text())
            change(said)
            path.write_text(json.dumps(said))
        return Damaged(folder)

    SUITE.add(name, make, place, by=by)


def template(name: str, base: str, change: Callable[[str], str]) -> None:
    """The chat template, in every file that holds one."""

    def make(h: Honest, out: Path) -> Damaged:
        folder = copied(h, out, base)
        for path in folder.glob("chat_template.jinja"):
            path.write_text(change(path.read_text()))
        for path in [*folder.glob("chat_template.json"), folder / "tokenizer_config.json"]:
            said = json.loads(path.read_text())
            if "chat_template" in said:
                path.write_text(json.dumps(said | {"chat_template": change(said["chat_template"])}))
        return Damaged(folder)

    SUITE.add(name, make, "template")


def half_of(name: str, base: str, file: str, place: str) -> None:
    """A file that was cut in the middle."""

    def make(h: Honest, out: Path) -> Damaged:
        folder = copied(h, out, base)
        with open(folder / file, "r+b") as opened:
            opened.truncate((folder / file).stat().st_size // 2)
        return Damaged(folder)

    SUITE.add(name, make, place)


def put(**values: Any) -> Edit:
    return lambda said: said.update(values)


def exchange_mean_and_std(said: Any) -> None:
    for part in (said, said.get("image_processor", {})):
        if "image_mean" in part:
            part["image_mean"], part["image_std"] = part["image_std"], part["image_mean"]


def exchange_two_tokens(said: Any) -> None:
    vocab = said["model"]["vocab"]
    one, two = (next(text for text, number in vocab.items() if number == wanted) for wanted in (300, 301))
    vocab[one], vocab[two] = vocab[two], vocab[one]


def group_size(said: Any) -> None:
    said.get("quantization_config", said)["group_size"] = 64


words("FP8 wrong end of text", "fp8", "generation_config.json", put(eos_token_id=5), "ends of generation")
words("FP8 rope theta wrong", "fp8", "config.json", put(rope_theta=10000.0), "rope_theta", SETTINGS)
words("FP8 context length wrong", "fp8", "config.json", put(max_position_embeddings=64), "max_position", SETTINGS)
words("FP8 layer left out", "fp8", "config.json", put(num_hidden_layers=3), "num_hidden_layers")
words("FP8 mean and std exchanged", "fp8", "*processor_config.json", exchange_mean_and_std, "image_mean", SETTINGS)
words("ONNX two tokens exchanged", "int4", "tokenizer.json", exchange_two_tokens, "token 300")
words("ONNX temperature lost", "int4", "generation_config.json", lambda said: said.pop("temperature"), "temperature")
words("GPTQ group size wrong", "gptq", "*config.json", group_size, "group_size")
template("FP8 template of another model", "fp8", lambda text: OTHER_TEMPLATE)
template("ONNX tool part of the template lost", "int4", lambda text: text.replace("tools", "tolls"))
half_of("truncated FP8 weights", "fp8", "model.safetensors", "model.safetensors")
half_of("truncated ONNX weights", "int4", "decoder_model_merged.onnx_data", "decoder_model_merged.onnx_data")
