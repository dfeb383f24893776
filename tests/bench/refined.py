"""Presets with an importance matrix beside the same ones refined: bytes, KL on another text, seconds.

    python -m tests.bench.refined FOLDER CALIBRATION.txt TEST.txt [--types Q2_K Q4_K_M] [--samples 64] [--length 512]
                                  [--tokens 2048] [--home FOLDER]

One recipe through the command line: a calibration stage, two gguf stages that take it, and a validation of all files on
llama.cpp. With --home what was made is kept there, and not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import processes

LIMIT = 6 * 3600.0  # seconds
TYPES = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
RECIPE = """
name: refined
model: {{path: {folder}}}
stages:
  calibration: {{use: calibration, text: {calibration}, samples: {samples}, length: {length}}}
  plain: {{use: gguf, from: calibration, name: plain, types: [{types}], mmproj: false}}
  refined: {{use: gguf, from: calibration, name: refined, types: [{types}], mmproj: false, refine: true}}
validate: {{text: {test}, tokens: {tokens}}}
"""


def measured(words: argparse.Namespace, home: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The outputs of the report; the seconds each stage took, of those that were made."""
    places = {name: Path(getattr(words, name)).absolute() for name in ("folder", "calibration", "test")}
    said = {"samples": words.samples, "length": words.length, "tokens": words.tokens, "types": ", ".join(words.types)}
    (home / "recipe.yaml").write_text(RECIPE.format(**places, **said))
    command = [sys.executable, "-m", "convert", "run", "recipe.yaml", "-j", "1", "--json"]
    done = processes.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=LIMIT)
    if done.returncode not in (0, 3):
        sys.exit(done.stdout + done.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    seconds = {e["step"]: e["seconds"] for e in events if "seconds" in e and "step" in e}
    return json.loads((home / "out/refined/validate/report.json").read_text())["outputs"], seconds


def table(outputs: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    """Print it."""
    found = {o["label"]: o for o in outputs}
    print(f"{'type':8} {'bytes':>14} {'KL plain':>9} {'refined':>9} {'ratio':>6}")
    for label, plain in found.items():
        if label.startswith("plain-"):
            kind = label.removeprefix("plain-").removesuffix(".gguf")
            refined = found[f"refined-{kind}.gguf"]
            before, after = (o["metrics"]["kl_mean"] for o in (plain, refined))
            print(f"{kind:8} {refined['size_bytes']:14,} {before:9.4f} {after:9.4f} {after / before:6.2f}")
    print(", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items()))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("calibration")
    p.add_argument("test")
    p.add_argument("--types", nargs="+", default=TYPES)
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--tokens", type=int, default=2048)
    p.add_argument("--home", type=Path)
    words = p.parse_args()
    if words.home:
        words.home.mkdir(parents=True, exist_ok=True)
        table(*measured(words, words.home.absolute()))
        return
    with tempfile.TemporaryDirectory() as home:
        table(*measured(words, Path(home)))


if __name__ == "__main__":
    main()
