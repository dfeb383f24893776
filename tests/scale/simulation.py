"""100,000 models on 1,000 nodes, simulated: how near the bound, how many store operations, and what breaks first.

    python -m tests.scale simulation [--models 100000] [--nodes 1000] [--seed 1] [--docs docs/assets]

One event a model: a slot takes the next, waits for the hub's rate limit, downloads, converts in steps each of which is
published, and loses the step it is at when its node fails. Figures and where they are from:

    S3         3,500 writes and 5,500 reads a second for each prefix, 100 to 200 ms a small request (AWS, "Optimizing
               Amazon S3 performance")
    failures   419 unexpected interruptions in 54 days of 16,384 GPUs, 8 a node (Meta, "The Llama 3 herd of models",
               2024): one in 264 days for each node; spot instances: one in 20 in a month (the lowest band of AWS' Spot
               Instance Advisor), as a second setting
    stragglers a node in 100 takes three times as long (an assumption), others differ by a tenth
    the hub    requests of files in 5 minutes for an account: 5,000 free, 50,000 of an enterprise (Hugging Face,
               "Hub rate limits")
    models     log-normal, median 3 GB, at most 300 GB (an assumption); 6 outputs in 20 steps
    driver     milliseconds for each message and bytes for each model: measured here on the driver itself
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np

DAY = 86400.0
BIN = 10.0  # seconds of the picture's columns
STEPS, FILES = 20, 4  # of a model; of a step
READS, WRITES = 3 + FILES, 3 + FILES  # store operations of a step: convert.executors.stored, convert.store
BEAT, STALE = 10.0, 45.0  # convert.store.leases
S3_WRITES, S3_READS = 3500, 5500
MESSAGES = 8 * STEPS  # from a process to the driver, for a model


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    models: int = 100_000
    nodes: int = 1000
    slots: int = 4  # models at a time on a node
    hub_per_second: float = 50_000 / 300
    node_failure_days: float = 54 * (16_384 / 8) / 419
    slow_share: float = 0.01
    slow_factor: float = 3.0
    latency: float = 0.15  # of a small request to the store
    network: float = 1.25e9  # bytes a second of a node
    convert: float = 100e6  # source bytes a second of one output
    fixed: float = 120.0  # seconds of a model whatever its size: a runtime's start, texts
    driver_ms: float = 0.5  # for each message
    large_first: bool = True
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    makespan: float
    bound: float  # work / slots, or the longest model, with nothing lost and nobody waiting
    failures: int
    lost: float  # slot seconds
    again: int  # steps that were run again
    hub_wait: float  # slot seconds
    writes: np.ndarray  # store operations a second, by BIN
    reads: np.ndarray
    driver_busy: float  # the share of its time


def simulate(setting: Setting) -> Outcome:
    """Run it once."""
    draw = np.random.default_rng(setting.seed)
    size = np.clip(draw.lognormal(np.log(3e9), 1.2, setting.models), 1e7, 3e11)
    work = setting.fixed + 6 * size / setting.convert + STEPS * (READS + WRITES) * setting.latency / FILES
    carry = 3 * size / (setting.network / setting.slots)  # the source here, outputs of twice its size there
    asks = 12 + size / 5e9  # files of a model on the hub
    if setting.large_first:
        order = np.argsort(-size)
        size, work, carry, asks = size[order], work[order], carry[order], asks[order]
    speed = draw.lognormal(0, 0.1, setting.nodes) * np.where(
        draw.random(setting.nodes) < setting.slow_share, setting.slow_factor, 1.0
    )
    fails = draw.exponential(setting.node_failure_days * DAY, setting.nodes)  # the next of each node
    slots = [(0.0, node) for node in range(setting.nodes) for _ in range(setting.slots)]
    heapq.heapify(slots)
    began, ended = np.zeros(setting.models), np.zeros(setting.models)
    hub_free = lost = hub_wait = 0.0
    failures = again = 0
    for model in range(setting.models):
        now, node = heapq.heappop(slots)
        start = max(now, hub_free)
        hub_free = start + asks[model] / setting.hub_per_second
        hub_wait += start - now
        length = carry[model] + work[model] * speed[node]
        end = start + length
        while fails[node] < end:  # the step it is at is lost, and what the node had of the source
            at = max(start, fails[node])
            again += at > start
            redo = draw.random() * work[model] * speed[node] / STEPS + carry[model] / 3 + STALE if at > start else 0.0
            lost += redo
            failures += 1
            end += redo + 600.0  # until a node is in its place
            fails[node] = at + 600.0 + draw.exponential(setting.node_failure_days * DAY)
        began[model], ended[model] = start, end
        heapq.heappush(slots, (end, node))
    makespan = float(ended.max())
    bound = max(float((work + carry).sum() / (setting.nodes * setting.slots)), float((work + carry).max()))
    moments = np.concatenate([began + (ended - began) * share for share in (np.arange(STEPS) + 0.5) / STEPS])
    steps = np.bincount((moments / BIN).astype(int))
    beats = (ended - began).sum() / BEAT / len(steps)  # spread over all of it
    return Outcome(
        makespan,
        bound,
        failures,
        lost,
        again,
        hub_wait,
        (steps * WRITES + beats) / BIN,
        steps * READS / BIN,
        setting.models * MESSAGES * setting.driver_ms / 1000 / makespan,
    )


def settings(models: int, nodes: int, seed: int, driver_ms: float) -> dict[str, Setting]:
    """What is compared, by name."""
    base = Setting(models=models, nodes=nodes, seed=seed, driver_ms=driver_ms)
    spot = DAY * 30 / 0.05 / DAY
    return {
        "base": base,
        "as listed, not the largest first": replace(base, large_first=False),
        "spot: one node in 20 a month": replace(base, node_failure_days=spot),
        "spot: one node in 5 a month": replace(base, node_failure_days=spot / 4),
        "no straggler": replace(base, slow_share=0.0),
        "a free account of the hub": replace(base, hub_per_second=5000 / 300),
        "models from the store, no hub": replace(base, hub_per_second=1e9),
        "a tenth of the nodes": replace(base, nodes=max(1, nodes // 10)),
        "four times the nodes": replace(base, nodes=nodes * 4),
        "a store of 1 s a request": replace(base, latency=1.0),
        "tiny models: median 0.1 s of work": replace(base, fixed=0.1, convert=1e12, network=1e13, hub_per_second=1e9),
    }


def table(found: dict[str, Outcome]) -> list[str]:
    """What came of each, in lines."""
    heads = f"{'hours':>8}{'bound':>8}{'over':>7}{'failed':>8}{'again':>7}{'PUT/s':>8}{'GET/s':>8}{'driver':>8}"
    lines = [f"{'':38}{heads}"]
    for name, o in found.items():
        over = f"{o.makespan / o.bound - 1:.1%}"
        figures = f"{o.makespan / 3600:8.2f}{o.bound / 3600:8.2f}{over:>7}{o.failures:8d}{o.again:7d}"
        lines.append(f"{name:38}{figures}{o.writes.max():8.0f}{o.reads.max():8.0f}{o.driver_busy:8.1%}")
    return lines
