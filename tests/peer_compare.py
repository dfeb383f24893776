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
import sys
import tempfile
from pathlib import Path

from convert.formats.gguf.stage import STAGE as stage
from convert.progress import Silent
from convert.source.stage import STAGE as source
from tests.fixtures_gguf import digests, golden_checkpoints
from tests.parity.upstream import Upstream, compare

TYPES = ("F32", "F16", "BF16", "Q8_0")
GOLDEN = Path(__file__).parent / "gguf" / "golden_peer.json"


def main(llama_cpp: Path, checkpoint: Path, types: list[str]) -> int:
    """The number of tensors that differ."""
    differences = 0
    with tempfile.TemporaryDirectory() as folder, Upstream(llama_cpp) as peer:
        for kind in types:
            ours = convert_ours(checkpoint, kind, Path(folder) / f"ours-{kind}")
            for path in ours:
                projector = path.name.startswith("mmproj-")
                theirs = Path(folder) / f"theirs-{path.name}"
                peer.convert(checkpoint.absolute(), kind, theirs, mmproj=projector)
                print(f"== {path.name}")
                differences += report(path, theirs)
    return differences


def convert_ours(checkpoint: Path, kind: str, out: Path) -> list[Path]:
    """The files our stage writes for one type."""
    out.mkdir()
    inputs = {"source": source.forecast(source.Options(path=checkpoint.absolute()), {})}
    plain = stage.Options(types=[kind])
    options = stage.Options(types=[kind], mmproj=kind) if stage.forecast(plain, inputs).of("projector") else plain
    stage.run(options, inputs, out, Silent())
    return sorted(out.glob("*.gguf"))


def report(ours: Path, theirs: Path) -> int:
    """Print what differs between two files; the number of tensors that do."""
    differences = compare(ours, theirs)
    print(*(f"  {difference}" for difference in differences), sep="\n")
    bad = sum(difference.tensor for difference in differences)
    print(f"  {bad} tensors differ")
    return bad


def write_golden(llama_cpp: Path) -> None:
    """Convert the golden checkpoints with the peer and write the digests of what it made."""
    golden = {}
    with tempfile.TemporaryDirectory() as folder, Upstream(llama_cpp) as peer:
        for name, checkpoint in golden_checkpoints(Path(folder)).items():
            for kind in TYPES:
                for mmproj in (False, True) if name == "vl" else (False,):
                    out = Path(folder) / "peer.gguf"
                    peer.convert(checkpoint, kind, out, mmproj=mmproj)
                    golden[f"{name} {'mmproj ' if mmproj else ''}{kind}"] = digests(out)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    if sys.argv[2] == "--golden":
        write_golden(Path(sys.argv[1]))
    else:
        sys.exit(bool(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(TYPES))))
