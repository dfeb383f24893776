"""Checkpoints of the shapes of real models, with random weights of sane size, written a tensor at a time.

    python -m tests.bench.shapes 7b FOLDER [--layers 28]
    python -m tests.bench.shapes fara-7b FOLDER --like QWEN2.5-VL

Values are drawn once and cut from at ever other places, so that 15 GB are written as fast as the disk takes them; a
matrix's are scaled by the root of its columns, so that hidden states and logits stay as large as a trained model's.

Fara-7B's is Qwen2.5-VL-7B's: `--like` names a folder with the config.json of any size of that family and all but the
weights, tokenizer, template and preprocessor; the sizes are put into its config.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.tiny import QWEN_TOKENIZER_CONFIG, _hub_name, _save_tokenizer, qwen_tokenizer

QWEN: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
}


def _qwen(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        **QWEN,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


# Qwen2.5's own config.json of these sizes
SHAPES: Mapping[str, dict[str, Any]] = {
    "0.5b": _qwen(896, 4864, 24, 14, 2, 151936, True),
    "1.5b": _qwen(1536, 8960, 28, 12, 2, 151936, True),
    "7b": _qwen(3584, 18944, 28, 28, 4, 152064, False),
    "32b": _qwen(5120, 27648, 64, 40, 8, 152064, False),
}
# Qwen2.5-VL-7B's, in the config of another size
FARA: Mapping[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128000,
}
POOL = 16_777_213  # a prime: rows cut from it repeat in no column
SHARD_BYTES = 2 << 30


def make(folder: Path, config: Mapping[str, Any], seed: int = 0, like: Path | None = None) -> Path:
    """Write config, tokenizer and weights, in shards of about 2 GB, where there are none yet.

    The tokenizer and all else is that of `like` where given; its own weights are left out.
    """
    if (folder / "model.safetensors.index.json").is_file():
        return folder
    if like is None:
        _save_tokenizer(folder, qwen_tokenizer(384), QWEN_TOKENIZER_CONFIG)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for file in like.glob("*.json"):
            shutil.copyfile(file, folder / file.name)
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shards = list(_shards(_parameters(folder, config)))
    draw, weight_map = _Draw(seed), dict[str, str]()
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        _write(folder / file, shard, draw)
        weight_map |= {tensor.name: file for tensor in shard}
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 2 * math.prod(self.shape)


def _parameters(folder: Path, config: Mapping[str, Any]) -> Iterator[_Tensor]:
    import transformers

    read = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, config["architectures"][0])(read)
    for name, parameter in model.named_parameters(remove_duplicate=True):
        yield _Tensor(_hub_name(name), tuple(parameter.shape))


def _shards(tensors: Iterator[_Tensor]) -> Iterator[list[_Tensor]]:
    shard: list[_Tensor] = []
    for tensor in tensors:
        if shard and sum(one.nbytes for one in shard) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard


class _Draw:
    """Values of tensors, in their order."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._pool, self._place = torch.empty(POOL).normal_(generator=generator), 0

    def of(self, tensor: _Tensor) -> Iterator[memoryview]:
        """bfloat16, as the bytes of it, in pieces."""
        size = math.prod(tensor.shape)
        scale = 1 / math.sqrt(tensor.shape[-1]) if len(tensor.shape) > 1 else 0.05
        if "embed_tokens" in tensor.name:
            scale *= 4  # logits of a standard deviation of four where it is the head as well
        if tensor.name.endswith(("o_proj.weight", "down_proj.weight", "proj.weight")):
            scale *= 0.3  # what layers add stays small beside what they are given
        values = torch.cat([self._pool[self._place : self._place + size], self._pool[: self._place]])[:size]
        values = values.mul_(scale).add_(1.0 if "norm" in tensor.name else 0.0).to(torch.bfloat16)
        self._place = (self._place + size) % POOL
        for start in range(0, size, POOL):
            yield memoryview(values[: size - start].view(torch.uint8).numpy())


def _write(path: Path, tensors: list[_Tensor], draw: _Draw) -> None:
    header, place = dict[str, Any](), 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    words = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with open(path, "wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        for tensor in tensors:
            file.writelines(draw.of(tensor))


def fara(like: Path, layers: int | None = None) -> dict[str, Any]:
    """The config of Fara-7B, written into that of `like`, with fewer layers where asked."""
    config: dict[str, Any] = json.loads((like / "config.json").read_text()) | FARA
    config["vision_config"] |= {"out_hidden_size": FARA["hidden_size"]}
    return config | ({} if layers is None else {"num_hidden_layers": layers})


def shape(name: str, layers: int | None = None) -> dict[str, Any]:
    """The config of a size, with fewer layers where asked."""
    return SHAPES[name] | ({} if layers is None else {"num_hidden_layers": layers})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A checkpoint of a real model's shape.")
    parser.add_argument("shape", choices=[*SHAPES, "fara-7b"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--like", type=Path, help="a Qwen2.5-VL folder, for fara-7b")
    options = parser.parse_args()
    if options.shape != "fara-7b":
        make(options.folder, shape(options.shape, options.layers), like=options.like)
    elif options.like is None:
        parser.error("fara-7b needs --like FOLDER, with the config and tokenizer of a Qwen2.5-VL")
    else:
        make(options.folder, fara(options.like, options.layers), like=options.like)
