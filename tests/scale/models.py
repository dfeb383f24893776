"""Tiny models of many families, and what is made of them: six outputs, a step each."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

FAMILIES = (
    *("llama", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "gpt2", "gpt_neox", "stablelm"),
    *("starcoder2", "granite", "cohere", "falcon", "bloom", "mpt", "smollm3", "exaone4", "apertus", "arcee"),
)
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1")
RECIPE = "stages:\n" + "".join(f"  {t.lower()}: {{use: gguf, types: [{t}], tokenizer_check: warn}}\n" for t in TYPES)


def make(folder: Path, number: int) -> list[Path]:
    """So many checkpoints: one of each family, then those again under other names."""
    from tests.parity.families import cases

    found = cases()
    made = [found[name].make(folder / name) for name in FAMILIES[:number]]
    for index in range(len(made), number):
        first = made[index % len(FAMILIES)]
        made.append(Path(shutil.copytree(first, folder / f"{first.name}-{index // len(FAMILIES) + 1}")))
    return made


def hashes(out: Path) -> dict[str, str]:
    """The hash of every file that was made, without what says when."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("[A-Za-z]*/*/*")
        if path.is_file() and path.parent.name not in ("logs", ".convert")  # which say when, and where
    }


def prepare(folder: Path, number: int) -> tuple[list[Path], Path]:
    """Models and a recipe in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.yaml").write_text(RECIPE)
    models = folder / "models"
    if not models.is_dir():
        models.mkdir()
        make(models, number)
    return sorted(models.iterdir())[:number], folder / "r.yaml"
