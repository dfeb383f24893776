"""What `convert fit --ram` calculates beside the memory of a process in which llama.cpp runs the model on a CPU.

    python -m tests.bench.resident [--only NAME …] [--context 16384] [--kv q8_0] [--folder CHECKPOINT …]

Each model is a file of zeros of the right shape (tests/bench/memory.py), loaded without mmap so that what is counted is
the process's own: with it the file's pages are counted too, and on a CPU that repacks weights these are a second copy,
which the system takes back when it needs it. The process reads 128 tokens, as llama-server would; its memory is
that without what it had before the model was loaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from convert.estimate.memory import estimate
from convert.estimate.setting import Setting
from convert.formats.gguf.memory import planned_file
from tests.bench.memory import SHAPES, shaped
from tests.fixtures_memory import FLAGS, MIB, hollow, planned
from validate.kv_cache import CacheTypes
from validate.runtimes import _llama_api as api
from validate.runtimes._llama_cache import GGML_TYPES
from validate.runtimes._llama_log import Log

USUAL = ("Qwen2.5-0.5B", "Llama-3.2-1B", "Gemma-3-1B", "LFM2-1.2B", "Falcon-H1-0.5B")
TOKENS = 128


def own_bytes() -> int:
    """This process's memory that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def run(path: str, context: int, kv: str) -> None:
    """In a process of its own: print what the model took."""
    lib, log = api.library(), Log()
    lib.llama_backend_init()
    before = own_bytes()
    model_params = lib.llama_model_default_params()
    model_params.load_mode = api.LOAD_MODE_NONE
    model = lib.llama_model_load_from_file(os.fsencode(path), model_params)
    params, types = api.context_params(), CacheTypes.parse(kv)
    params.n_ctx, params.n_outputs_max = context, 1
    params.type_k, params.type_v = GGML_TYPES[types.k], GGML_TYPES[types.v]
    params.flash_attn_type, params.n_threads, params.n_threads_batch = 1, 2, 2
    flags = bytes(params.spare).index(FLAGS)
    params.spare[flags + 4], params.spare[flags + 5] = False, True
    made = lib.llama_init_from_model(model, params)
    if not made or api.decode(made, [(i + 3, i, 0, i == TOKENS - 1) for i in range(TOKENS)]):
        raise log.failure("did not run the model")
    print(own_bytes() - before)


def compare(name: str, folder: Path, context: int, kv: str, scratch: Path) -> str:
    """A row of the table."""
    plan = planned(folder, "Q4_K_M").text.plans[0]
    model, file = planned_file(plan), hollow(plan, scratch / plan.name)
    words = [sys.executable, "-m", "tests.bench.resident", "--run", str(file), "--context", str(context), "--kv", kv]
    took = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    memory = estimate(model, Setting(context, CacheTypes.parse(kv), outputs=1))
    weights = sum(weight.nbytes for weight in model.weights)
    total = weights + memory.beside
    shown = " | ".join(f"{nbytes / MIB:.0f}" for nbytes in (weights, memory.cache, memory.compute, total, took))
    off = total - took
    return f"| {name} | {context} | {kv} | {shown} | {off / MIB:+.0f} | {off / took:+.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SHAPES, default=list(USUAL))
    parser.add_argument("--folder", nargs="*", type=Path, default=[], help="checkpoints that are there")
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--kv", default="q8_0")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.context, options.kv)
        return
    print("| model | context | cache | weights | cache | compute | all, MiB | the process | off | |")
    print("| :-- | --: | :-- | --: | --: | --: | --: | --: | --: | --: |")
    for name in [*map(str, options.folder), *options.only]:
        with TemporaryDirectory() as scratch:
            folder = Path(name) if name not in SHAPES else shaped(name, Path(scratch) / "model")
            shown = name if name in SHAPES else folder.name
            print(compare(shown, folder, options.context, options.kv, Path(scratch)), flush=True)


if __name__ == "__main__":
    main()
