"""vLLM, asked over pipes: `PYTHON vllm_worker.py`, run by the Python of an environment that has vLLM.

The standard library and vLLM only: nothing of this package is there. The protocol is docs/extend/runtime-elsewhere.md.

Logits: vLLM reports a dictionary for every position's logprobs, which for a whole vocabulary takes minutes and
gigabytes a window. What they are computed from is kept instead, as the model's `compute_logits` gives it; each window
is checked against the logprobs that vLLM itself reports for its tokens. vLLM computes positions 0 to n-2 for the
prompt's logprobs and the last one to sample from it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import select
import sys
import threading
from collections.abc import Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import torch
    from vllm import RequestOutput

PROTOCOL = 1
DTYPES = ("bfloat16", "float16", "float32")
ROOM = 256  # tokens to be written behind a window
AGREES = 1e-2  # nats between a reported logprob and the logits kept
NO_KERNEL = re.compile(
    r"_OpNamespace' '\w+' object has no attribute '(?P<absent>\w+)'"
    r"|\w+::(?P<hollow>\w+)\(\) expected at most 0 argument"  # declared, and nothing behind it
    r"|Could not run '\w+::(?P<elsewhere>\w+)' with arguments from the"
    r"|(?P<words>[^\n]*(?:not supported (?:on|for the current)|[Mm]inimum capability|requires? (?:a )?CUDA)[^\n]*)"
)
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: its logits can be kept, and it ends as a whole
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; half of the memory otherwise
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # a validation downloads nothing
}


class Refused(Exception):
    """An answer that is an error of the protocol."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker:
    """The methods of the protocol."""

    def hello(self, options: Mapping[str, object] | None = None) -> dict[str, object]:
        options = options or {}
        unknown = sorted(set(options) - {"dtype"})
        if unknown or options.get("dtype", "bfloat16") not in DTYPES:
            wanted = f"only dtype: one of {', '.join(DTYPES)}"
            raise Refused("failed", f"options {json.dumps(options)}, {wanted}")
        missing = None
        if importlib.util.find_spec("vllm") is None:
            missing = f"vllm not installed in {sys.executable}: {sys.executable} -m pip install vllm"
        return {
            "protocol": PROTOCOL,
            "name": "vLLM",
            "versions": versions(),
            "formats": ["gptq", "awq", "fp8", "compressed"],
            "methods": ["generate", "decode_logits"],
            "missing": missing,
            "note": f"activations in {options.get('dtype', 'bfloat16')}",
        }

    def open(
        self, model: str, context: int, threads: int | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        dtype = (options or {}).get("dtype", "bfloat16")
        import vllm

        folder = Path(model).parent
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        length = min(context + ROOM, config.get("max_position_embeddings", context + ROOM))
        self.vllm, self.length = vllm, length
        self.kept: list[torch.Tensor] | None = None
        self.following: list[int] | None = None  # tokens that are to be "chosen", the next one last
        self.llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            enforce_eager=True,
            max_model_len=length,
            max_num_seqs=1,
            max_num_batched_tokens=max(2048, length),  # a window in one piece
            enable_prefix_caching=False,  # every window from an empty cache
            disable_log_stats=True,
            seed=0,
        )
        self.llm.apply_model(self.keep_logits)
        self.tokenizer = self.llm.get_tokenizer()
        self.vocabulary = self.llm.llm_engine.model_config.get_vocab_size()

    def keep_logits(self, model: torch.nn.Module) -> None:
        compute = model.compute_logits

        def computing(*args: object, **words: object) -> torch.Tensor:
            logits = compute(*args, **words)
            if self.kept is not None:
                self.kept.append(logits.detach().float().cpu().clone())
            if self.following:
                logits = logits.new_full(logits.shape, float("-inf"))
                logits[:, self.following.pop()] = 0
            return logits

        model.compute_logits = computing

    def identity(self) -> dict[str, object]:
        tokenizer = self.tokenizer
        generation = self.llm.llm_engine.model_config.try_get_generation_config() or {}
        ends = generation.get("eos_token_id", [])
        ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
        plain, special = self.tokenize("a"), self.tokenize("a", add_special=True)
        templates = tokenizer.chat_template or {}
        more = len(special) > len(plain)
        return {
            "vocab": self.vocabulary,
            "bos": number(tokenizer.bos_token_id),
            "eos": number(tokenizer.eos_token_id),
            "pad": number(tokenizer.pad_token_id),
            "end_of_generation": sorted(ends - {None}),
            "adds_bos": more and special[0] == tokenizer.bos_token_id,
            "adds_eos": more and special[-1] == tokenizer.eos_token_id,
            "templates": templates if isinstance(templates, dict) else {"default": templates},
            "added": {str(t): bool(t.special) for t in tokenizer.added_tokens_decoder.values()},
        }

    def tokenize(self, text: str, add_special: bool = False, parse_special: bool = True) -> list[int]:
        words = {"add_special_tokens": add_special, "split_special_tokens": not parse_special}
        return list(self.tokenizer.encode(text, **words))

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self) -> list[str]:
        pieces = [""] * self.vocabulary
        for piece, i in self.tokenizer.get_vocab().items():
            if i < len(pieces):
                pieces[i] = piece
        return pieces

    def logits(self, tokens: Sequence[int]) -> memoryview:
        self.check(tokens, 1)
        self.kept = []
        try:
            said = self.run(tokens, max_tokens=1, prompt_logprobs=1, ignore_eos=True)
            kept = sorted(self.kept, key=len)  # the row that is sampled from, and all before it
        finally:
            self.kept = None
        rows = [len(part) for part in kept]
        if rows != ([1, len(tokens) - 1] if len(tokens) > 1 else [1]):
            raise Refused("failed", f"vLLM {version()} computed logits in parts of {rows} for {len(tokens)} tokens")
        for place, (token, reported) in enumerate(zip(tokens[1:], said.prompt_logprobs[1:], strict=True)):
            row = kept[-1][place]
            own = float(row[token] - row.logsumexp(-1))
            if not abs(own - reported[token].logprob) < AGREES:
                told = f"logprob {reported[token].logprob} reported, {own} of the logits kept"
                raise Refused("failed", f"vLLM {version()}: token {place + 1}: {told}")
        array = kept[0].new_empty(len(tokens), self.vocabulary)
        array[-1] = kept[0][0, : self.vocabulary]
        if len(tokens) > 1:
            array[:-1] = kept[1][:, : self.vocabulary]
        return memoryview(array.numpy())

    def decode_logits(self, tokens: Sequence[int]) -> memoryview:
        """Each token is what the model "chose" before: its own choice is taken from it."""
        self.check(tokens, 1)
        self.kept, self.following = [], [tokens[0], *reversed(tokens[1:])]  # the last choice is anything
        try:
            said = self.run(tokens[:1], max_tokens=len(tokens), ignore_eos=True)
            kept = self.kept
        finally:
            self.kept = self.following = None
        fed = list(said.outputs[0].token_ids)[: len(tokens) - 1]
        if fed != list(tokens[1:]) or [len(row) for row in kept] != [1] * len(tokens):
            raise Refused("failed", f"vLLM {version()} was fed {fed} in {len(kept)} steps instead of {tokens}")
        array = kept[0].new_empty(len(tokens), self.vocabulary)
        for place, row in enumerate(kept):
            array[place] = row[0, : self.vocabulary]
        return memoryview(array.numpy())

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        room = self.check(tokens, 1)
        said = self.run(tokens, max_tokens=min(count, room))
        return list(said.outputs[0].token_ids)

    def run(self, tokens: Sequence[int], **words: object) -> RequestOutput:
        sampling = self.vllm.SamplingParams(temperature=0.0, detokenize=False, **words)
        prompt = {"prompt_token_ids": list(tokens)}
        return self.llm.generate([prompt], sampling, use_tqdm=False)[0]

    def check(self, tokens: Sequence[int], wanted: int) -> int:
        room: int = self.length - len(tokens)
        if not tokens or room < wanted or not all(0 <= token < self.vocabulary for token in tokens):
            words = f"{len(tokens)} tokens, wanted 1 to {self.length - wanted}, each an id below {self.vocabulary}"
            raise Refused("failed", words)
        return room


def number(token: int | None) -> int:
    return -1 if token is None else token


def versions() -> dict[str, str]:
    """Distribution -> version of what decides the numbers."""
    names = set(importlib.metadata.packages_distributions().get("vllm", []))
    found = {}
    for name in sorted(names | {"torch", "transformers", "compressed-tensors"}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version() -> str:
    return next((number for name, number in versions().items() if name.startswith("vllm")), "")


def leave_with_the_asker() -> None:
    """End this process when nobody holds the other end of its standard input, whatever is running."""
    poll = select.poll()
    poll.register(0, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(0)


def answers(worker: Worker, question: Mapping[str, dict[str, object]]) -> tuple[dict[str, object], bytes | memoryview]:
    """The line of an answer, and the array behind it."""
    try:
        method = str(question["method"])
        if method.startswith("_") or method not in vars(Worker):
            raise Refused("unsupported", f"there is no method {method}")
        value = methodcaller(method, **question["params"])(worker)
    except Refused as refused:
        return {"error": {"kind": refused.kind, "message": str(refused)}}, b""
    except Exception as error:
        if missing := NO_KERNEL.search(str(error)):
            name = missing["absent"] or missing["hollow"] or missing["elsewhere"]
            words = f"its build has no kernel {name}" if name else missing["words"].strip()
            return {"error": {"kind": "not_on_this_machine", "message": f"vLLM {version()}: {words}"}}, b""
        lines = str(error).strip().splitlines() or [""]
        return {"error": {"kind": "failed", "message": f"{type(error).__name__}: {' '.join(lines)[:600]}"}}, b""
    if isinstance(value, memoryview):
        return {"array": {"dtype": "float32", "shape": list(value.shape or ())}}, value.cast("B")
    return {"result": value}, b""


def main() -> NoReturn:
    questions = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints, it goes to the standard error
    threading.Thread(target=leave_with_the_asker, daemon=True).start()
    worker = Worker()
    for line in questions:
        question = json.loads(line)
        if question["method"] == "close":
            break
        head, array = answers(worker, question)
        replies.write(json.dumps({"id": question["id"], **head}).encode() + b"\n")
        replies.write(array)
        replies.flush()
    os._exit(0)  # engines leave threads behind that keep an interpreter


if __name__ == "__main__":
    main()
