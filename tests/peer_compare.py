"""Compare our GGUF files with those of llama.cpp's converter, tensor by tensor. Run by hand; not collected by pytest.

    python -m tests.peer_compare LLAMA_CPP_DIR CHECKPOINT [TYPE ...]
    python -m tests.peer_compare LLAMA_CPP_DIR --golden

Converts CHECKPOINT with both, text and (where the model sees) projector, prints every tensor whose name, shape, type or
bytes differ and every metadata key that differs, and exits with 1 when a tensor does. With --golden, writes
tests/gguf/golden_peer.json: digests of the peer's tensors for fixtures_gguf.golden_checkpoints, to which
the test suite compares ours. (The peer maps the merger only when there are at least three vision blocks.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from convert.progress import Silent
from convert.stages import gguf as stage
from convert.stages import source
from tests.fixtures_gguf import digests, golden_checkpoints

TYPES = ("F32", "F16", "BF16", "Q8_0")
GOLDEN = Path(__file__).parent / "gguf" / "golden_peer.json"

# The peer knows a tokenizer by a hash and refuses new ones; ours is compared elsewhere, by what it encodes.
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


def main(llama_cpp: Path, checkpoint: Path, types: list[str]) -> int:
    """The number of tensors that differ."""
    differences = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in types:
            ours = convert_ours(checkpoint, kind, Path(folder) / f"ours-{kind}")
            for path in ours:
                projector = path.name.startswith("mmproj-")
                theirs = Path(folder) / f"theirs-{path.name}"
                run_peer(llama_cpp, checkpoint, kind, theirs, mmproj=projector)
                print(f"== {path.name}")
                differences += compare(path, theirs)
    return differences


def convert_ours(checkpoint: Path, kind: str, out: Path) -> list[Path]:
    """The files our stage writes for one type."""
    out.mkdir()
    inputs = {"source": source.forecast(source.Options(path=checkpoint.absolute()), {})}
    plain = stage.Options(types=[kind])
    options = stage.Options(types=[kind], mmproj=kind) if stage.forecast(plain, inputs).of("projector") else plain
    stage.run(options, inputs, out, Silent())
    return sorted(out.glob("*.gguf"))


def run_peer(llama_cpp: Path, checkpoint: Path, kind: str, out: Path, *, mmproj: bool) -> None:
    """Run the peer in a process of its own: it brings its own gguf package."""
    arguments = [str(checkpoint), "--outtype", kind.lower(), "--outfile", str(out), *(["--mmproj"] if mmproj else [])]
    done = subprocess.run(
        [sys.executable, "-c", PEER, str(llama_cpp), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-3000:]}")


def compare(ours: Path, theirs: Path) -> int:
    """Print what differs between two files; the number of tensors that do."""
    from gguf import GGUFReader

    a, b = GGUFReader(ours), GGUFReader(theirs)
    left = {t.name: t for t in a.tensors}
    right = {t.name: t for t in b.tensors}
    bad = 0
    for name in dict.fromkeys([*left, *right]):
        if text := tensor_difference(left.get(name), right.get(name)):
            bad += 1
            print(f"  tensor {name}: {text}")
    order = "the same order" if list(left) == list(right) else "another order"
    print(f"  {len(left)} tensors, {bad} differ, {order}")
    fields = {k: f.contents() for k, f in a.fields.items() if not k.startswith("GGUF.")}
    other = {k: f.contents() for k, f in b.fields.items() if not k.startswith("GGUF.")}
    kinds = {
        k: ([t.name for t in a.fields[k].types], [t.name for t in b.fields[k].types]) for k in fields if k in other
    }
    for key in sorted(fields.keys() | other.keys()):
        if key not in fields or key not in other:
            whose, value = ("only ours", fields[key]) if key in fields else ("only theirs", other[key])
            print(f"  {key}: {whose}, {value!r:.70}")
        elif fields[key] != other[key]:
            print(f"  {key}: {fields[key]!r:.50}, theirs {other[key]!r:.50}")
        elif kinds[key][0] != kinds[key][1]:
            print(f"  {key}: types {kinds[key][0]}, theirs {kinds[key][1]}")
    return bad


def tensor_difference(ours: object, theirs: object) -> str:
    """What differs between two tensors of GGUFReader, or ""."""
    if ours is None or theirs is None:
        return "only theirs" if ours is None else "only ours"
    if list(ours.shape) != list(theirs.shape):
        return f"shape {list(ours.shape)}, theirs {list(theirs.shape)}"
    if ours.tensor_type != theirs.tensor_type:
        return f"type {ours.tensor_type.name}, theirs {theirs.tensor_type.name}"
    wrong = (ours.data.reshape(-1).view("u1") != theirs.data.reshape(-1).view("u1")).sum()
    return f"{wrong} bytes" if wrong else ""


def write_golden(llama_cpp: Path) -> None:
    """Convert the golden checkpoints with the peer and write the digests of what it made."""
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, checkpoint in golden_checkpoints(Path(folder)).items():
            for kind in TYPES:
                for mmproj in (False, True) if name == "vl" else (False,):
                    out = Path(folder) / "peer.gguf"
                    run_peer(llama_cpp, checkpoint, kind, out, mmproj=mmproj)
                    golden[f"{name} {'mmproj ' if mmproj else ''}{kind}"] = digests(out)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    if sys.argv[2] == "--golden":
        write_golden(Path(sys.argv[1]))
    else:
        sys.exit(bool(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(TYPES))))
