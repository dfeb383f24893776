"""Sudden ends and broken machines: `make crash`.

    python -m tests.robust.crash                     200 kills over all stages, then every fault; a table
    python -m tests.robust.crash --kills 20 --light  those stages alone that need no torch
    python -m tests.robust.crash --only disk         one kind of fault

After each kill what lies under a final name has to be whole and right, with nothing left running; after every few the
run goes on, and all its files have to have the bytes of a run that was let alone.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes
from tests.robust.faults import KINDS, Fault, compiled
from tests.robust.limited import kill_session
from tests.robust.workshop import LIGHT, STAGES, Workshop, await_step, wait_for_orphans

GO_ON_EVERY = 3  # kills, between runs that are let to their end
CALLS = ("rename", "fsync", "unlink", "mkdir", "open", "write")


@dataclass
class Tally:
    """What was done, and what went wrong."""

    kills: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # (stage, how, jobs)
    finished: int = 0
    missed: int = 0  # it had ended before it was killed
    wrong: list[str] = field(default_factory=list)


def kill_one(shop: Workshop, draw: random.Random, stage: str, shim: Path | None, tally: Tally) -> None:
    """Begin the stage, kill it at a moment, and look at what is there."""
    jobs = draw.choice((1, 2))
    others = [name for name in shop.names if name != stage and name in LIGHT]
    shop.forget(stage, *([draw.choice(others)] if jobs == 2 and others else []))
    how = (
        draw.choice(("first", "all", "at a call", "any moment"))
        if shim
        else draw.choice(("first", "all", "any moment"))
    )
    call = f"{draw.choice(CALLS)}:{draw.randrange(1, 12)}:KILL"
    fault = {"FAULT": call, "FAULT_PATH": "/out/r/", "LD_PRELOAD": str(shim)} if how == "at a call" else {}
    with processes.started(shop.command(jobs), **shop.options(**fault)) as process:
        alive = _wait(process, how, stage, shop, draw)
        if alive:
            kill_session(process.pid, (lambda pids: pids[:1]) if how == "first" else (lambda pids: pids))
        process.wait(processes.LIMIT)
        if not wait_for_orphans(process.pid):
            tally.wrong.append(f"{stage}, {how}, jobs {jobs}: a process is still there")
    killed = process.returncode == -signal.SIGKILL or alive
    tally.kills[stage, how if how != "at a call" else call, jobs] += killed
    tally.missed += not killed
    if wrong := shop.broken():
        tally.wrong.append(f"{stage}, {how} {call}, jobs {jobs}: {wrong}")


def _wait(
    process: processes.subprocess.Popen[bytes], how: str, stage: str, shop: Workshop, draw: random.Random
) -> bool:
    """Until the moment; whether it still runs."""
    if how == "at a call":
        process.communicate(timeout=processes.LIMIT)
        return False
    seconds = shop.seconds[stage] * draw.uniform(0, 1.05)
    if how == "any moment":
        until = time.monotonic() + draw.uniform(0.1, shop.seconds[stage] + 2)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        return process.poll() is None
    return await_step(process, stage, seconds)


def kill_all(shop: Workshop, kills: int, seed: int, shim: Path | None, show: bool) -> Tally:
    """So many kills, cheap stages more often."""
    draw, tally = random.Random(seed), Tally()
    weights = [1 / (2 + shop.seconds[name]) for name in shop.names]
    numbers = [max(3, round(kills * 0.7 * weight / sum(weights))) for weight in weights]
    order = [name for name, number in zip(shop.names, numbers, strict=True) for _ in range(number)]
    order += draw.choices(shop.names, weights, k=max(0, kills - len(order)))
    for number, stage in enumerate(sorted(order[: max(kills, 1)], key=shop.names.index), 1):
        kill_one(shop, draw, stage, shim, tally)
        if number % GO_ON_EVERY == 0 or number == kills:
            tally.finished += 1
            if wrong := shop.finish(draw.choice((1, 2))):
                tally.wrong.append(f"after kill {number}, of {stage}: {wrong}")
        if show and number % 10 == 0:
            print(f"{number} kills, {len(tally.wrong)} wrong", file=sys.stderr, flush=True)
    return tally


def kills_table(tally: Tally, names: Sequence[str]) -> str:
    """A line a stage."""
    lines = [
        "| stage | kills | of the first process | of all | at a call | at any moment | jobs 1 | jobs 2 |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name in [*names, "all"]:
        of = {key: count for key, count in tally.kills.items() if name in (key[0], "all")}
        hows = [sum(n for key, n in of.items() if key[1] == how) for how in ("first", "all")]
        at = sum(n for key, n in of.items() if ":" in key[1])
        anyhow = sum(n for key, n in of.items() if key[1] == "any moment")
        jobs = [sum(n for key, n in of.items() if key[2] == number) for number in (1, 2)]
        lines.append(f"| {name} | {sum(of.values())} | " + " | ".join(map(str, [*hows, at, anyhow, *jobs])) + " |")
    return "\n".join(lines)


def main() -> int:
    """Kill, break, print; the exit code."""
    parser = argparse.ArgumentParser(prog="crash")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--light", action="store_true", help="only stages that need no torch")
    parser.add_argument("--only", action="append", default=[], help="only such faults, no kills")
    parser.add_argument("--no-faults", action="store_true", help="only kills")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        home = Path(name)
        shim = compiled(home)
        if asked.kills and not asked.only:
            shop = _shop(home / "kills", asked.light)
            tally = kill_all(shop, asked.kills, asked.seed, shim, show=True)
            print(kills_table(tally, shop.names))
            killed = f"{sum(tally.kills.values())} kills, {tally.missed} came too late"
            print(f"{killed}; {tally.finished} runs went on to their end; {len(tally.wrong)} wrong")
            wrong += tally.wrong
        if not asked.no_faults:
            wrong += _faults(home, shim, asked.only)
    for words in wrong:
        print(f"wrong: {words}")
    return 1 if wrong else 0


def _shop(home: Path, light: bool) -> Workshop:
    home.mkdir()
    shop = Workshop(home, LIGHT if light else tuple(STAGES), validate=not light)
    shop.learn()
    print(f"calm run: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in shop.seconds.items())}", flush=True)
    return shop


def _faults(home: Path, shim: Path | None, only: Sequence[str]) -> list[str]:
    """Every fault of every kind; a line each."""
    found: list[str] = []
    print(
        "| fault | tried | one clear error | not met | went on with the same bytes |\n| :-- | --: | --: | --: | --: |"
    )
    for kind, make in KINDS.items():
        if only and not any(word in kind for word in only):
            continue
        folder = home / kind.replace(" ", "-")
        folder.mkdir()
        results: list[Fault] = make(folder, shim)
        if not results:
            print(f"| {kind} | cannot be made on this machine | | | |")
            continue
        counts = [sum(r.refused for r in results), sum(r.not_met for r in results), sum(r.went_on for r in results)]
        print(f"| {kind} | {len(results)} | " + " | ".join(map(str, counts)) + " |", flush=True)
        found += [f"{kind}, {r.name}: {r.wrong}" for r in results if r.wrong]
    return found


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)
    sys.exit(main())
