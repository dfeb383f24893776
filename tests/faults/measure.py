"""Honest outputs, their damaged copies, and what the project's own validation says of all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from convert.errors import ConvertError
from convert.formats.existing_stage import STAGE as existing
from convert.plan import plan
from convert.recipe import recipe_of
from convert.run import run
from tests.faults.kinds import Damaged, Fault, Honest

NANO = Path(__file__).parents[2] / "recipes/models/fara-nano"
TOKENS, WINDOW = 128, 64
WRITTEN = 8  # tokens of each answer: none of the default limits is on what outputs write, and it takes most of the time


@dataclass(frozen=True)
class Verdict:
    """What was said of an output: whether it failed, by what, and all the advice."""

    failed: bool
    reason: str
    advice: str

    def names(self, place: str) -> bool:
        return place in self.advice


CALIBRATION = {"text": str(NANO / "heldout/train_text.txt"), "samples": 8, "length": 128}
STAGES = {
    "gguf": {"use": "gguf", "types": ["F16", "Q8_0", "Q4_K_M", "Q2_K"], "mmproj": "F16"},
    "onnx": {"use": "onnx", "precision": "int4", "layout": "flat"},
    "fp8": {"use": "fp8"},
    "w4a16": {"use": "compressed", "scheme": "W4A16"},
    "nvfp4": {"use": "compressed", "scheme": "NVFP4"},
    "gptq": {"use": "gptq", "bits": 4, "group_size": 128, "calibration": CALIBRATION},
    "awq": {"use": "awq", "group_size": 128, "calibration": CALIBRATION},
}


def honest_nano(cache: Path, stages: Collection[str] = tuple(STAGES)) -> Honest:
    """The demo model's outputs of these stages, built once below `cache`."""
    chosen = {name: words for name, words in STAGES.items() if name in stages}
    words = {"name": "-".join(["nano", *chosen]), "model": {"path": str(NANO)}, "stages": chosen}
    home = run(plan(recipe_of(words, Path("faults")), cache)).folder
    files = {
        "f16": home / "gguf/fara-nano-F16.gguf",
        "q8": home / "gguf/fara-nano-Q8_0.gguf",
        "q4": home / "gguf/fara-nano-Q4_K_M.gguf",
        "q2": home / "gguf/fara-nano-Q2_K.gguf",
        "int4": home / "onnx",
        "fp8": home / "fp8/fara-nano-FP8-dynamic",
        "w4a16": home / "w4a16/fara-nano-W4A16",
        "nvfp4": home / "nvfp4/fara-nano-NVFP4",
        "gptq": home / "gptq/fara-nano-GPTQ-Int4",
        "awq": home / "awq/fara-nano-AWQ",
    }
    return Honest(NANO, {n: f for n, f in files.items() if f.exists()}, home / "gguf/mmproj-fara-nano-F16.gguf")


def honest_tiny(name: str, make: Callable[[Path], Path], cache: Path) -> Honest:
    """A tiny checkpoint of a family below `cache`, as F16."""
    checkpoint = cache / "checkpoints" / name
    make(checkpoint)  # anew: a maker may have changed, and equal files are equal to the cache
    words = {
        "name": name,
        "model": {"path": str(checkpoint)},
        "stages": {"gguf": {"use": "gguf", "types": ["F16"]}},
    }
    home = run(plan(recipe_of(words, Path("faults")), cache)).folder
    return Honest(checkpoint, {"f16": home / f"gguf/{name}-F16.gguf"})


def make_all(faults: Sequence[Fault], honest: Mapping[str, Honest], home: Path) -> dict[str, Damaged | Verdict]:
    """Name of a fault -> its damaged output, in a folder of its own; or how making it was refused."""
    made: dict[str, Damaged | Verdict] = {}
    for number, fault in enumerate(faults):
        out = home / f"f{number:02}"
        out.mkdir(parents=True, exist_ok=True)
        try:
            made[fault.name] = fault.make(honest[fault.model], out)
        except ConvertError as error:
            made[fault.name] = Verdict(True, str(error), str(error))
    return made


def verdicts(source: Path, outputs: Mapping[str, Damaged | Verdict], out: Path) -> dict[str, Verdict]:
    """What validation says of each; what it refuses to open is said by the plan."""
    from validate.report.advice import advice

    said = {name: words for name, one in outputs.items() if (words := _refusal(one))}
    left = {name: one for name, one in outputs.items() if isinstance(one, Damaged) and name not in said}
    names = list(left)
    if not names:
        return said
    stages = {f"s{i}": _stage(one) for i, one in enumerate(left.values())}
    recipe = {
        "name": "damaged",
        "model": {"path": str(source)},
        "stages": stages,
        "validate": {"tokens": TOKENS, "window": WINDOW, "threads": 1},
    }
    with patch("validate.toolcalls.ANSWER_TOKENS", WRITTEN), patch("validate.measures.writing.GREEDY_TOKENS", WRITTEN):
        report = run(plan(recipe_of(recipe, Path("faults")), out)).report
    assert report is not None
    for name, row in zip(names, report["outputs"], strict=True):
        said[name] = Verdict(row["status"] == "failed", str(row["reason"]), "\n".join(advice(row)) + row["reason"])
    return {name: said[name] for name in outputs}


def _stage(one: Damaged) -> dict[str, str]:
    words = {"use": "existing", "path": str(one.path)}
    return words | ({} if one.projector is None else {"projector": str(one.projector)})


def _refusal(one: Damaged | Verdict) -> Verdict | None:
    if isinstance(one, Verdict):
        return one
    options = existing.Options(path=one.path, projector=one.projector)
    try:
        problems = existing.check(options, {"source": None})  # type: ignore[dict-item]
    except ConvertError as error:
        return Verdict(True, str(error), str(error))
    return Verdict(True, str(problems[0]), "\n".join(map(str, problems))) if problems else None
