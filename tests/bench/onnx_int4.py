"""4- and 8-bit blocks: our packing beside ONNX Runtime's own quantizer, megabytes of bfloat16 a second.

    python -m tests.bench.onnx_int4 [--weights 3e7] [--rounds 5] [--threads 2]

The same bfloat16 matrix, mapped from a file, goes through ours (ONNX Runtime's own scales, and searched ones, plain and
with importance) and through ONNX Runtime's kernel as it was called before: widened, turned, some outputs at a time.
Prints the least time of each and checks that the plain bytes are equal. Compilation is not counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from quantize import floats, nbits, nbits_search
from quantize.nbits_layout import Layout

COLUMNS = 4096
CHUNK = 1 << 22  # weights, as the stage has it


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ours(bits: np.ndarray, layout: Layout, threads: int, costs: np.ndarray | None, plain: bool) -> list[np.ndarray]:
    """The values of a matrix, some rows at a time, as the stage makes them."""
    made = []
    step = max(1, CHUNK // bits.shape[1])
    for at in range(0, len(bits), step):
        values = floats.to_float32(np.ascontiguousarray(bits[at : at + step]))
        one = nbits.plain(values, layout, threads) if plain else nbits_search.searched(values, layout, costs, threads)
        made.append(one.values)
    return made


def theirs(bits: np.ndarray, layout: Layout) -> list[np.ndarray]:
    """The same through ONNX Runtime's kernel, which takes inputs before outputs."""
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

    kernel = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}[layout.bits]
    whole = bits.view(ml_dtypes.bfloat16).T
    made = []
    step = max(1, (1 << 20) // bits.shape[1])
    for at in range(0, len(bits), step):
        part = np.ascontiguousarray(whole[:, at : at + step], dtype=np.float32)
        shapes = layout.shapes(part.shape[1], part.shape[0])
        arrays = [np.zeros(shape, kind) for shape, kind in zip(shapes, (np.uint8, np.float32, np.uint8), strict=False)]
        zeros = np.zeros(0, np.uint8) if layout.symmetric else arrays[2]
        sizes = layout.block_size, part.shape[1], part.shape[0]
        kernel(arrays[0], part, arrays[1], zeros, *sizes, layout.symmetric)
        made.append(arrays[0])
    return made


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Our blocks beside ONNX Runtime's.")
    parser.add_argument("--weights", type=float, default=3e7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    shape = (max(1, round(options.weights / COLUMNS)), COLUMNS)
    costs = draw.random(COLUMNS).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights")
        values = (draw.standard_normal(shape) * 0.02).astype(ml_dtypes.bfloat16)
        path.write_bytes(values.view(np.uint16).tobytes())
        bits = np.memmap(path, np.uint16, "r", 0, shape)
        print(f"{values.size:,} weights, {options.threads} threads, least of {options.rounds}; MB of bfloat16 a second")
        for layout in (Layout(4, 32, True), Layout(4, 32, False), Layout(8, 128, True)):
            ways: dict[str, Callable[[], list[np.ndarray]]] = {
                "ONNX Runtime": lambda layout=layout: theirs(bits, layout),
                "ours, its scales": lambda layout=layout: ours(bits, layout, options.threads, None, True),
                "ours, searched": lambda layout=layout: ours(bits, layout, options.threads, None, False),
                "ours, importance": lambda layout=layout: ours(bits, layout, options.threads, costs, False),
            }
            plain = (np.concatenate(ways[name]()) for name in ("ONNX Runtime", "ours, its scales"))
            if not np.array_equal(*plain):
                raise SystemExit("bytes differ from ONNX Runtime's")
            for name, run in ways.items():
                run()
                least = min(seconds(run) for _ in range(options.rounds))
                words = (
                    f"{layout.bits} bits, blocks of {layout.block_size}, {'no zeros' if layout.symmetric else 'zeros'}"
                )
                print(f"   {words:32} {name:18} {bits.nbytes / least / 1e6:8.0f} MB/s", flush=True)


if __name__ == "__main__":
    main()
