"""Every kind of damage against validation, as a table; see `--help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from tests.faults import families, folder_words, folders, gguf_metadata, gguf_tensors, grid
from tests.faults.kinds import SUITE, Damaged, Fault, Honest
from tests.faults.measure import STAGES, Verdict, honest_nano, honest_tiny, make_all, verdicts

MODULES = (grid, gguf_tensors, gguf_metadata, folders, folder_words, families)  # imported, so that they declare theirs
PLACED = 40
SHOWN = 60


def main() -> int:
    """Print the table; 1 where a damage is not found, too few are placed, or an honest output fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/faults"), help="where honest outputs are kept")
    parser.add_argument("--only", default="", help="faults whose name has this")
    parser.add_argument("--keep", type=Path, help="a folder for the damaged outputs and what is said of them")
    asked = parser.parse_args()
    faults = [fault for fault in SUITE.faults if asked.only in fault.name]
    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        said, sound = all_verdicts(faults, asked.cache.absolute(), (asked.keep or Path(home)).absolute())
    return _print(faults, said, sound)


def all_verdicts(
    faults: list[Fault], cache: Path, home: Path, stages: Collection[str] = tuple(STAGES)
) -> tuple[dict[str, Verdict], list[str]]:
    """What is said of every fault and of every honest output, and the names of the latter; a model at a time.

    `stages` are those of the demo model that are made.
    """
    said: dict[str, Verdict] = {}
    sound: list[str] = []
    for model in dict.fromkeys(fault.model for fault in faults):
        honest = honest_nano(cache, stages) if model == "nano" else honest_tiny(model, families.MODELS[model], cache)
        mine = [fault for fault in faults if fault.model == model]
        outputs = make_all(mine, {model: honest}, home / model)
        rows = {f"{name} of {model}": one for name, one in honest_rows(honest).items()}
        said |= verdicts(honest.source, {**outputs, **rows}, home / "out" / model)
        sound += rows
    return said, sound


def honest_rows(honest: Honest) -> dict[str, Damaged]:
    """The honest outputs, to be validated beside the damaged ones."""
    return {
        f"honest {name}": Damaged(path, honest.projector if path.suffix == ".gguf" else None)
        for name, path in honest.outputs.items()
    }


def _print(faults: list[Fault], said: dict[str, Verdict], sound: list[str]) -> int:
    found = [f for f in faults if said[f.name].failed]
    placed = [f for f in found if f.place and said[f.name].names(f.place)]
    print(f"{'damage':42}  found  {'by what':{SHOWN}}  place named")
    for fault in faults:
        verdict = said[fault.name]
        place = fault.place if fault in placed else f"NOT {fault.place}" + (f" ({fault.by})" if fault.by else "")
        print(f"{fault.name:42}  {'yes' if verdict.failed else 'NO ':5}  {verdict.reason[:SHOWN]:{SHOWN}}  {place}")
    alarms = [name for name in sound if said[name].failed]
    for name in alarms:
        print(f"{name}: {said[name].reason}")
    print(f"{len(faults)} kinds, {len(found)} found, {len(placed)} placed, {len(alarms)} alarms of {len(sound)} honest")
    return int(len(found) < len(faults) or len(placed) < min(PLACED, len(faults)) or bool(alarms))


if __name__ == "__main__":
    sys.exit(main())
