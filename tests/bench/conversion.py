"""Converting a checkpoint to GGUF: time and peak memory beside llama.cpp's own converter on the same files.

    python -m tests.bench.conversion [--peer LLAMA_CPP_DIR] [--weights 5e8] [--rounds 3] [--folder DIR]

Makes a Qwen2.5 checkpoint of random bf16 weights (1.5e9 is Qwen2.5-1.5B's shape) with a vocabulary of its size, then
runs, in turn and each in a process of its own: our run for one type, the peer for the same type, and our run for four
types at once. Prints medians, ratios, and the peak of memory that is not mapped files. Without --peer (a checkout of
llama.cpp; the sdist of llama-cpp-python carries one under vendor/) only our own numbers are printed, and it says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from tests.bench.vocabulary import give_vocabulary
from tests.tiny import tiny_qwen2

ROUNDS = 3
# The converter knows a tokenizer by a hash and refuses new ones.
PEER = """
import sys
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import TextModel
ask = TextModel.get_vocab_base_pre
def lenient(self, tokenizer):
    try:
        return ask(self, tokenizer)
    except NotImplementedError:
        return "qwen2"
TextModel.get_vocab_base_pre = lenient
sys.argv = ["convert", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2.5."""

    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    layers: int
    vocab: int = 151936
    tied: bool = True

    @property
    def weights(self) -> int:
        return sum(prod(shape) for shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by its hub name."""
        kv = self.hidden * self.kv_heads // self.heads
        layer = {
            "input_layernorm.weight": (self.hidden,),
            "mlp.down_proj.weight": (self.hidden, self.feed_forward),
            "mlp.gate_proj.weight": (self.feed_forward, self.hidden),
            "mlp.up_proj.weight": (self.feed_forward, self.hidden),
            "post_attention_layernorm.weight": (self.hidden,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.k_proj.weight": (kv, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, self.hidden),
            "self_attn.q_proj.bias": (self.hidden,),
            "self_attn.q_proj.weight": (self.hidden, self.hidden),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, self.hidden),
        }
        return {
            **({} if self.tied else {"lm_head.weight": (self.vocab, self.hidden)}),
            "model.embed_tokens.weight": (self.vocab, self.hidden),
            **{f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()},
            "model.norm.weight": (self.hidden,),
        }


# https://huggingface.co/Qwen: config.json of Qwen2.5-0.5B, 1.5B, 3B and 7B
QWEN_0_5B = Shape(896, 4864, 14, 2, 24)
QWEN_1_5B = Shape(1536, 8960, 12, 2, 28)
QWEN_3B = Shape(2048, 11008, 16, 2, 36)
QWEN_7B = Shape(3584, 18944, 28, 4, 28, 152064, tied=False)


def about(weights: float) -> Shape:
    """Qwen2.5-1.5B's shape with as many layers as make about so many weights."""
    none, one = (replace(QWEN_1_5B, layers=n).weights for n in (0, 1))
    return replace(QWEN_1_5B, layers=max(1, round((weights - none) / (one - none))))


def checkpoint(folder: Path, shape: Shape) -> Path:
    """A checkpoint of this shape in `folder`, with as many tokens as Qwen2.5 has."""
    tiny_qwen2(folder, tied=shape.tied, layers=1)
    config = json.loads((folder / "config.json").read_text()) | {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
    }
    (folder / "config.json").write_text(json.dumps(config))
    give_vocabulary(folder)
    write_weights(folder / "model.safetensors", shape.tensors())
    return folder


def write_weights(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Normal bf16 values, repeated from one block of them: what they are makes no difference to the time."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    block = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * np.float32(0.02)
    data = memoryview((block.view(np.uint32) >> 16).astype("<u2")).cast("B")
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        while offset:
            file.write(data[: min(len(data), offset)])
            offset -= min(len(data), offset)


def ours(folder: Path, model: Path, types: str) -> list[str]:
    """The command that converts with us; the recipe is written for it."""
    recipe = folder / "bench.yaml"
    recipe.write_text(f"name: ours\nmodel: {{path: {model}}}\nstages: {{gguf: {{use: gguf, types: [{types}]}}}}\n")
    return [sys.executable, "-m", "convert", "run", str(recipe), "--out", str(folder / "out"), "--quiet"]


def theirs(folder: Path, model: Path, peer: Path, kind: str) -> list[str]:
    """The command that converts with the peer."""
    out = folder / "theirs.gguf"
    return [sys.executable, "-c", PEER, str(peer), str(model), "--outtype", kind.lower(), "--outfile", str(out)]


def measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds of the command, and the peak of its anonymous memory in bytes (mapped files do not count)."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{errors.decode()[-2000:]}")
    return seconds, peak[0]


def _watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_anonymous, _family(process.pid))))
        time.sleep(0.02)


def _family(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of llama.cpp")
    parser.add_argument("--weights", type=float, default=5e8)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="where to put the checkpoint and the outputs")
    parser.add_argument("--type", default="F16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-") as name:
        folder = Path(name)
        model = checkpoint(folder / "Bench", about(arguments.weights))
        size = (model / "model.safetensors").stat().st_size
        print(f"checkpoint: {size / 2e9:.2f}e9 weights, {size / 1e9:.2f} GB of bf16")
        commands = {f"ours, {arguments.type}": ours(folder, model, arguments.type)}
        if arguments.peer:
            commands[f"llama.cpp's converter, {arguments.type}"] = theirs(folder, model, arguments.peer, arguments.type)
        else:
            print("no peer: give --peer LLAMA_CPP_DIR for the ratio")
        compare(folder, commands, arguments.rounds)
        commands = {"ours, F32 + F16 + BF16 + Q8_0 in one pass": ours(folder, model, "F32, F16, BF16, Q8_0")}
        compare(folder, commands, 1)


def compare(folder: Path, commands: dict[str, list[str]], rounds: int) -> None:
    """Run the commands in turn and print medians; the ratio is the median over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, float] = dict.fromkeys(commands, 0.0)
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(folder / "out", ignore_errors=True)
            (folder / "theirs.gguf").unlink(missing_ok=True)
            took, peak = measured(command)
            seconds[name].append(took)
            memory[name] = max(memory[name], peak)
    for name, times in seconds.items():
        print(f"{name:<45} {statistics.median(times):7.1f} s   peak {memory[name] / 1e6:6.0f} MB")
    if len(commands) == 2:
        (_, a), (_, b) = seconds.items()
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        print(f"{'the peer takes':<45} {ratio:7.2f} times as long")


if __name__ == "__main__":
    main()
