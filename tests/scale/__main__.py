"""`python -m tests.scale PART`: what batches cost and survive. Each part says what it is in its module."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

PARTS = ("batch", "kills", "simulation")


def simulated(words: argparse.Namespace) -> None:
    from tests.scale.draw import bars, rates
    from tests.scale.driver_cost import cost
    from tests.scale.simulation import BIN, S3_READS, S3_WRITES, settings, simulate, table

    ms, held = cost(words.driver_models, 64)
    print(f"driver: {ms:.3f} ms a message, {held:.0f} bytes a model that waits ({words.driver_models} models)")
    wanted = settings(words.models, words.nodes, words.seed, ms)
    found = {name: simulate(setting) for name, setting in wanted.items()}
    print("\n".join(table(found)))
    if words.docs is not None:
        base = found["base"]
        lines = {"3,500 writes a second: the limit of one prefix": float(S3_WRITES), "5,500 reads": float(S3_READS)}
        series = [("writes", base.writes, "#d97706"), ("reads", base.reads, "#1668dc")]
        title = f"Store operations a second, {words.models:,} models on {words.nodes:,} nodes"
        (words.docs / "scale-store.svg").write_text(rates(title, series, BIN, lines))
        over = {name: outcome.makespan / outcome.bound - 1 for name, outcome in found.items()}
        over = {name: value for name, value in over.items() if not name.startswith("tiny")}
        (words.docs / "scale-over.svg").write_text(bars("Makespan over the bound", over))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--models", type=int)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--without-ray", action="store_true", help="two batches at once in place of a cluster")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver-models", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one when left out")
    parser.add_argument("--docs", type=Path, help="where to put the pictures")
    words = parser.parse_args()
    if words.part == "simulation":
        words.models, words.nodes = words.models or 100_000, words.nodes or 1000
        simulated(words)
    else:
        importlib.import_module(f"tests.scale.{words.part}").main(words)


if __name__ == "__main__":
    main()
