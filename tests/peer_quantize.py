"""Compare our quantized GGUF files with llama-quantize's, tensor by tensor. Run by hand; not collected by pytest.

    python -m tests.peer_quantize LLAMA_QUANTIZE [--golden] [TYPE ...]

For every model of MODELS converts with us into every file type in one pass, without and with an importance matrix,
runs llama-quantize once a type on our BF16 file (which is that of llama.cpp's converter: tests.peer_compare), prints
every tensor whose type or bytes differ, and exits with 1 when one does. With --golden, writes
tests/gguf/golden_quantize.json: llama-quantize's type of every tensor, to which the test suite compares ours.
Build llama-quantize with cmake -DGGML_NATIVE=OFF: where the compiler may contract to FMA, some bytes differ.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from convert.bundle import Role
from convert.formats.gguf.imatrix import Imatrix, ImatrixEntry, write_imatrix
from quantize.mixes import MIXES
from tests import tiny
from tests.fixtures_gguf import convert, read_gguf
from tests.parity.checkpoints.deepseek2 import V3, deepseek, with_correction
from tests.parity.checkpoints.falcon import falcon
from tests.parity.checkpoints.mixtral import mixtral
from tests.parity.checkpoints.qwen2_moe import qwen2_moe
from tests.parity.upstream import tensor_difference

GOLDEN = Path(__file__).parent / "gguf" / "golden_quantize.json"
ONLY_WEIGHTED = ("Q2_K_S",)  # llama-quantize makes it with an importance matrix only

WIDE = {"hidden_size": 256, "num_hidden_layers": 9, "num_attention_heads": 8}
# keys by head have rows of 128 values, as DeepSeek's own: no whole blocks of a K-quant
LATENT = {"kv_lora_rank": 256, "q_lora_rank": 256, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
LATENT |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}

MODELS: dict[str, Callable[[Path], Path]] = {
    "dense, tied": lambda f: tiny.tiny_llama(f, hidden=256, layers=17),
    "dense, 4 query heads to a value head": lambda f: tiny.tiny_qwen2(f, hidden=256, layers=16, heads=8),
    "8 experts": lambda f: tiny.tiny_qwen3_moe(f, hidden=256, layers=9, heads=8, expert_ffn=256),
    "4 experts": lambda f: tiny.tiny_qwen3_moe(f, hidden=256, layers=8, heads=8, expert_ffn=256, experts=4),
    "rows of 160 and 320 values": lambda f: tiny.tiny_qwen2(f, hidden=160, layers=2, tied=True),
    "Falcon": lambda f: falcon(f, hidden_size=256, num_hidden_layers=17),
    "mixtral, 8 experts": lambda f: mixtral(f, **WIDE, intermediate_size=256),
    "a shared expert, biases": lambda f: qwen2_moe(
        f, **WIDE, num_experts=4, moe_intermediate_size=256, shared_expert_intermediate_size=512
    ),
    "latent attention, a dense layer first": deepseek(
        V3, with_correction, **WIDE, **LATENT, num_key_value_heads=8, moe_intermediate_size=256
    ),
}


def random_imatrix(file: Path, out: Path) -> Path:
    """An importance matrix of random numbers, some of them zero, for every matrix of the layers in a GGUF file."""
    draw = np.random.default_rng(7)
    entries = {}
    for name, tensor in read_gguf(file)[1].items():
        columns, *more = map(int, tensor.shape)
        if name.startswith("blk.") and more:
            experts = more[1] if len(more) > 1 else 1
            sums = draw.random((experts, columns), np.float32) ** 3 * 500 * (draw.random((experts, columns)) > 0.02)
            entries[name] = ImatrixEntry(sums.astype(np.float32), np.full(experts, 500, np.float32))
    write_imatrix(out, Imatrix(entries, ("random.txt",), 4, 128))
    return out


def run_peer(quantize: Path, source: Path, out: Path, kind: str, imatrix: Path | None) -> None:
    """Run llama-quantize; a community variant is its file type with two options."""
    mix = MIXES[kind]
    options = ["--imatrix", str(imatrix)] if imatrix else []
    if mix.ends:
        options += ["--output-tensor-type", mix.ends.lower(), "--token-embedding-type", mix.ends.lower()]
    command = [str(quantize), *options, str(source), str(out), mix.rules or kind, "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def summary(types: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Tensor names and types, shortened: role -> its types from the first layer to the last, as `2 Q6_K, 4 Q4_K`."""
    roles: dict[str, dict[int, str]] = {}
    for name, kind in types:
        found = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        layer, role = (int(found[1]), found[2]) if found else (0, name)
        roles.setdefault(role, {})[layer] = kind
    return {role: _in_runs([kinds[layer] for layer in sorted(kinds)]) for role, kinds in sorted(roles.items())}


def _in_runs(kinds: list[str]) -> str:
    return ", ".join(f"{len(list(run))} {kind}" for kind, run in groupby(kinds))


def runs(folder: Path, types: list[str]) -> Iterator[tuple[str, Path, Path | None, list[str]]]:
    """Every model's BF16 file, without and with an importance matrix; the types to make of it."""
    for name, make in MODELS.items():
        place = folder / re.sub(r"\W+", "-", name)
        checkpoint = make(place / "Tiny")
        (source,) = convert(checkpoint, place / "bf16", "BF16").of(Role.WEIGHTS)
        imatrix = random_imatrix(source.path, place / "imatrix.gguf")
        yield name, source.path, None, [kind for kind in types if kind not in ONLY_WEIGHTED]
        yield f"{name}, imatrix", source.path, imatrix, types


def _trimmed(tensor: Any) -> Any:
    """The tensor without last dimensions of 1, which llama-quantize drops."""
    shape = list(tensor.shape) if tensor else []
    while shape[-1:] == [1]:
        shape.pop()
    return tensor and tensor._replace(shape=shape)


def main(quantize: Path, types: list[str], golden: bool) -> int:
    """The number of tensors that differ."""
    bad, tables = 0, {}
    with tempfile.TemporaryDirectory() as name:
        for title, source, imatrix, kinds in runs(Path(name), types):
            out = Path(name) / "ours"
            checkpoint = source.parent.parent / "Tiny"
            made = convert(checkpoint, out, *kinds, **({"imatrix": imatrix} if imatrix else {})).of(Role.WEIGHTS)
            for artifact in made:
                peers = Path(name) / "theirs.gguf"
                run_peer(quantize, source, peers, artifact.type, imatrix)
                ours, theirs = read_gguf(artifact.path)[1], read_gguf(peers)[1]
                tables[f"{title}: {artifact.type}"] = summary((n, t.tensor_type.name) for n, t in theirs.items())
                wrong = {n: tensor_difference(*map(_trimmed, (ours.get(n), theirs.get(n)))) for n in {**ours, **theirs}}
                wrong = {n: text for n, text in wrong.items() if text}
                print(f"{title}: {artifact.type}: {len(theirs)} tensors, {len(wrong)} differ", flush=True)
                for tensor, text in list(wrong.items())[:8]:
                    print(f"    {tensor}: {text}")
                bad += len(wrong)
                peers.unlink()
                artifact.path.unlink()
    if golden:
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(table)}" for key, table in tables.items())
        GOLDEN.write_text(f"{{\n{lines}\n}}\n")
    return bad


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    words = [word for word in sys.argv[2:] if word != "--golden"]
    sys.exit(bool(main(Path(sys.argv[1]), words or list(MIXES), "--golden" in sys.argv)))
