"""Compare our quantized GGUF files with llama-quantize's, tensor by tensor. Run by hand; not collected by pytest.

    python -m tests.peer_quantize LLAMA_QUANTIZE [TYPE ...]
    python -m tests.peer_quantize LLAMA_QUANTIZE --golden

For every model of MODELS converts with us into every file type in one pass, without and with an importance matrix,
runs llama-quantize once a type on our BF16 file (which is that of llama.cpp's converter: tests.peer_compare), prints
every tensor whose type or bytes differ, and exits with 1 when one does. With --golden, only asks llama-quantize which
type it would give each tensor (its --dry-run), with options too, and writes tests/gguf/golden_quantize.json, to which
the test suite compares ours.
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
ONLY_WEIGHTED = ("Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS")
"""Of models with rows in 256s llama-quantize makes these with an importance matrix only."""
NEEDS = "needs an imatrix"

VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {  # llama-quantize's words and ours
    "overrides": (
        ["--tensor-type ATTN_V=q8_0", r"--tensor-type blk\.[0-3]\.attn=iq4_nl", "--tensor-type attn_=bf16"],
        {"overrides": {"ATTN_V": "Q8_0", r"blk\.[0-3]\.attn": "IQ4_NL", "attn_": "BF16"}},
    ),
    "output and embedding": (
        ["--output-tensor-type q5_1", "--token-embedding-type q3_k"],
        {"output_tensor": "Q5_1", "token_embedding": "Q3_K"},
    ),
    "output": (["--output-tensor-type f16"], {"output_tensor": "F16"}),
    "pure": (["--pure"], {"pure": True}),
    "pure, overrides": (
        ["--pure", "--tensor-type token_embd=mxfp4"],
        {"pure": True, "overrides": {"token_embd": "MXFP4"}},
    ),
    "left": (["--leave-output-tensor"], {"leave_output_tensor": True}),
}
VARIED = ("dense, tied", "dense, 4 query heads to a value head", "8 experts")
KINDS_VARIED = ("Q4_K_M", "IQ3_M", "TQ1_0", "MXFP4_MOE", "F16")

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


def options_of(kind: str, imatrix: Path | None) -> list[str]:
    """llama-quantize's words; a community variant is its file type with two options."""
    ends = MIXES[kind].ends.lower()
    return [
        *(["--imatrix", str(imatrix)] if imatrix else []),
        *(["--output-tensor-type", ends, "--token-embedding-type", ends] if ends else []),
    ]


def run_peer(quantize: Path, source: Path, out: Path, kind: str, imatrix: Path | None) -> None:
    """Run llama-quantize."""
    command = [str(quantize), *options_of(kind, imatrix), str(source), str(out), MIXES[kind].rules or kind, "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size = [^(\n]*(?:\((\w+)\))?$", re.MULTILINE)


def chosen(quantize: Path, source: Path, kind: str, options: list[str]) -> dict[str, str]:
    """What llama-quantize would make of each tensor, shortened; and whether it would refuse."""
    command = [str(quantize), "--dry-run", *options, str(source), MIXES[kind].rules or kind, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    types = {name: (new or old).upper() for name, old, new in LINE.findall(said)}
    if done.returncode or types.keys() != read_gguf(source)[1].keys():
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-3000:]}")
    return summary(types.items()) | ({NEEDS: "yes"} if "will require an imatrix" in said else {})


def golden(quantize: Path) -> None:
    """Write the tables."""
    tables = {}
    with tempfile.TemporaryDirectory() as name:
        for title, source, imatrix, kinds in runs(Path(name), list(MIXES)):
            print(title, flush=True)
            every = {f"{title}: {kind}": (kind, options_of(kind, imatrix)) for kind in kinds}
            for variant, (words, _) in VARIANTS.items():
                if title in VARIED:
                    split = [part for word in words for part in word.split(" ", 1)]
                    every |= {f"{title}, {variant}: {kind}": (kind, split) for kind in KINDS_VARIED}
            tables |= {key: chosen(quantize, source, *asked) for key, asked in every.items()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(table)}" for key, table in tables.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")


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
        yield name, source.path, None, types
        yield f"{name}, imatrix", source.path, imatrix, types


def _trimmed(tensor: Any) -> Any:
    """The tensor without last dimensions of 1, which llama-quantize drops."""
    shape = list(tensor.shape) if tensor else []
    while shape[-1:] == [1]:
        shape.pop()
    return tensor and tensor._replace(shape=shape)


def main(quantize: Path, types: list[str]) -> int:
    """The number of tensors that differ."""
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        for title, source, imatrix, every in runs(Path(name), types):
            out = Path(name) / "ours"
            checkpoint = source.parent.parent / "Tiny"
            kinds = [kind for kind in every if NEEDS not in chosen(quantize, source, kind, options_of(kind, imatrix))]
            made = convert(checkpoint, out, *kinds, **({"imatrix": imatrix} if imatrix else {})).of(Role.WEIGHTS)
            for artifact in made:
                peers = Path(name) / "theirs.gguf"
                run_peer(quantize, source, peers, artifact.type, imatrix)
                ours, theirs = read_gguf(artifact.path)[1], read_gguf(peers)[1]
                wrong = {n: tensor_difference(*map(_trimmed, (ours.get(n), theirs.get(n)))) for n in {**ours, **theirs}}
                wrong = {n: text for n, text in wrong.items() if text}
                print(f"{title}: {artifact.type}: {len(theirs)} tensors, {len(wrong)} differ", flush=True)
                for tensor, text in list(wrong.items())[:8]:
                    print(f"    {tensor}: {text}")
                bad += len(wrong)
                peers.unlink()
                artifact.path.unlink()
    return bad


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    if "--golden" in sys.argv:
        sys.exit(golden(Path(sys.argv[1])))
    sys.exit(bool(main(Path(sys.argv[1]), sys.argv[2:] or list(MIXES))))
