"""llama.cpp's own converter, run beside ours, and what differs between two GGUF files.

    with Upstream(llama_cpp) as upstream:
        upstream.convert(checkpoint, "F32", out)
    compare(ours, theirs)

The converter runs in a process of its own, with its own gguf package; each conversion in a fork of it, so that the
heavy imports are paid for once.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import LIMIT

REPOSITORY = Path(__file__).parents[2]
FETCHED = REPOSITORY / ".cache" / "llama.cpp"  # where `make parity` puts it
HOW_TO_GET = "llama.cpp's converter is not here: `make parity` fetches it, or LLAMA_CPP=/path/to/llama.cpp names it"

# The converter knows a tokenizer by a hash and refuses new ones; ours is compared elsewhere, by what it encodes.
# Where it reads qwen.tiktoken by the code beside it, it reads our tokenizer.json. Of a config that it has no class for
# transformers asks the context before that is set.
# Words it asks for that transformers 5 has renamed before it sees them are given back to it (RENAMED).
# Requests and answers are lines of JSON on stdin and on a pipe that nothing else prints to.
SERVER = """
import json, os, sys, traceback
answers = os.fdopen(int(sys.argv[2]), "w")
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import ModelBase, TextModel
from transformers import PreTrainedConfig
RENAMED = (
    "rotary_pct", "num_attention_groups", "moe_num_experts", "moe_top_k", "moe_layers_enum",
    "attention_other_setting", "partial_rotary_factors", "norm_topk_prob", "n_group",
)
ask = TextModel.get_vocab_base_pre
def lenient(self, tokenizer):
    try:
        return ask(self, tokenizer)
    except NotImplementedError:
        return "qwen2"
TextModel.get_vocab_base_pre = lenient
TextModel._set_vocab_qwen = TextModel._set_vocab_gpt2
PreTrainedConfig.max_position_embeddings = None
# one reads a tokenizer that is code in the checkpoint, one asks for a word that transformers 5 no longer says
from conversion.deepseek import DeepseekV32Model
from conversion.hunyuan import HunYuanMoEModel
DeepseekV32Model.set_vocab = HunYuanMoEModel.set_vocab = TextModel._set_vocab_gpt2
# it looks for embeddings of zeros in the index of shards, and cannot without one
from conversion.minimax import MiniMaxText01Model
MiniMaxText01Model._get_suppress_tokens = lambda self: None
load = TextModel.load_hparams
def whole(folder, *more, **words):
    own = json.loads((folder / "config.json").read_text())
    return {**{key: own[key] for key in RENAMED if key in own}, **load(folder, *more, **words)}
ModelBase.load_hparams = staticmethod(whole)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["convert", *request["arguments"]]
        code = 1
        try:
            convert_hf_to_gguf.main()
            code = 0
        except SystemExit as stopped:
            code = int(bool(stopped.code))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    answers.write(json.dumps(status) + "\\n")
    answers.flush()
"""


class UpstreamError(Exception):
    """The converter failed; the message ends with what it said last."""


def find_llama_cpp() -> Path | None:
    """The folder with convert_hf_to_gguf.py: LLAMA_CPP's, or the fetched one; None where there is none."""
    given = os.environ.get("LLAMA_CPP")
    folder = Path(given).resolve() if given else FETCHED
    return folder if (folder / "convert_hf_to_gguf.py").is_file() else None


class Upstream:
    """The converter in `llama_cpp`, ready to convert."""

    def __init__(self, llama_cpp: Path) -> None:
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(llama_cpp), str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=(write,),
        )
        os.close(write)
        self._answers = os.fdopen(read)

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LIMIT)
        finally:
            self._process.kill()
        self._answers.close()

    def convert(
        self, checkpoint: Path, kind: str, out: Path, *, mmproj: bool = False, options: Sequence[str] = ()
    ) -> None:
        """Write `out`, a file of type `kind`; `options` are more words of its command line. Raises UpstreamError."""
        assert self._process.stdin is not None
        log = out.with_suffix(".log")
        arguments = [str(checkpoint), "--outtype", kind.lower(), "--outfile", str(out), *["--mmproj"][: int(mmproj)]]
        arguments += options
        print(json.dumps({"arguments": arguments, "log": str(log)}), file=self._process.stdin, flush=True)
        ready, _, _ = select.select([self._answers], [], [], LIMIT)
        answer = self._answers.readline() if ready else ""
        if answer.strip() != "0":
            said = log.read_text(errors="replace") if log.exists() else "it did not start"
            raise UpstreamError(f"upstream's converter failed:\n{said[-3000:]}")


@dataclass(frozen=True)
class Difference:
    """Of a tensor or a metadata key: what ours is and what theirs is."""

    name: str
    what: str  # in words
    tensor: bool = False
    steps: int | None = None  # of float32 values, the most that lie between one of ours and theirs

    def __str__(self) -> str:
        return f"{'tensor ' if self.tensor else ''}{self.name}: {self.what}"


def compare(ours: Path, theirs: Path) -> list[Difference]:
    """Everything that two files differ in: tensors by order, name, shape, type, bytes; metadata by key, type, value."""
    from gguf import GGUFReader

    a, b = GGUFReader(ours), GGUFReader(theirs)
    return [*_tensors(a, b), *_metadata(a, b)]


def _tensors(a: Any, b: Any) -> Iterator[Difference]:
    left, right = {t.name: t for t in a.tensors}, {t.name: t for t in b.tensors}
    for name in dict.fromkeys([*left, *right]):
        if text := tensor_difference(left.get(name), right.get(name)):
            yield Difference(name, text, tensor=True, steps=_steps(left.get(name), right.get(name)))
    if left.keys() == right.keys() and list(left) != list(right):
        first = next(pair for pair in zip(left, right, strict=True) if pair[0] != pair[1])
        yield Difference("order of tensors", f"{first[0]} stands where theirs has {first[1]}")


def tensor_difference(ours: Any, theirs: Any) -> str:
    """In words what two tensors differ in; empty when they are equal."""
    if ours is None or theirs is None:
        return "only theirs" if ours is None else "only ours"
    if list(ours.shape) != list(theirs.shape):
        return f"shape {list(ours.shape)}, theirs {list(theirs.shape)}"
    if ours.tensor_type != theirs.tensor_type:
        return f"type {ours.tensor_type.name}, theirs {theirs.tensor_type.name}"
    wrong = (ours.data.reshape(-1).view("u1") != theirs.data.reshape(-1).view("u1")).sum()
    return f"{wrong} bytes" if wrong else ""


def _steps(ours: Any, theirs: Any) -> int | None:
    """How many float32 values lie between two tensors' numbers, at most; None where that is not what they differ in."""
    if ours is None or theirs is None or list(ours.shape) != list(theirs.shape):
        return None
    if {ours.tensor_type.name, theirs.tensor_type.name} != {"F32"}:
        return None
    a, b = (t.data.reshape(-1).view("i4").astype("i8") for t in (ours, theirs))
    return int(abs(a - b).max()) if ((a < 0) == (b < 0)).all() else None


def _metadata(a: Any, b: Any) -> Iterator[Difference]:
    ours, theirs = ({k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")} for reader in (a, b))
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours or key not in theirs:
            whose, field = ("only ours", ours[key]) if key in ours else ("only theirs", theirs[key])
            yield Difference(key, f"{whose}, {field.contents()!r:.70}")
        elif ours[key].contents() != theirs[key].contents():
            yield Difference(key, f"{ours[key].contents()!r:.50}, theirs {theirs[key].contents()!r:.50}")
        elif ours[key].types != theirs[key].types:
            types = [[t.name for t in field.types] for field in (ours[key], theirs[key])]
            yield Difference(key, f"types {types[0]}, theirs {types[1]}")
