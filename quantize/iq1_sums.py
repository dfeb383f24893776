"""The scale of an IQ1_M super-block is fitted once more to all of its 256 values: the sums for it."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

from quantize.codebook_nearest import SECTION, weigh
from quantize.simd import LANES, bits, gather, kernel, load, splat, store, to_float, workspace


@kernel
def final_sums(blocks, words, shifts, odds, sums):
    """The sums of w * q * x and w * q * q over each super-block, in order, q = odd * (level + shift).

    `blocks` are at least LANES super-blocks, as superblocks.py makes them; of each group of 8 values there is the
    word of its entry (int32, as float32), a shift and an odd number. `sums` are filled, two for each super-block.
    """
    room = workspace(2 * 32 + 3 * 32)
    for at in range(0, sums[0].size, LANES):
        first = min(at, sums[0].size - LANES)
        product, square = splat(0), splat(0)
        for k, source in enumerate((words, shifts, odds)):
            gather(source, first * 32, 32, 32, room[(2 + k) * SECTION :])
        for start in range(0, 256, 32):
            gather(blocks[0], first * 256 + start, 256, 32, room)
            weigh(room, 0, SECTION, blocks, first * 256 + start, 32, 256)
            for i in range(32):
                k, group = i * LANES, 2 * SECTION + (start + i) // 8 * LANES
                level = to_float((bits(load(room, group)) >> 4 * (i & 7)) & 15) * 0.5 - 1.5
                q = (level + load(room, group + SECTION)) * load(room, group + 2 * SECTION)
                product += load(room, SECTION + k) * q * load(room, k)
                square += load(room, SECTION + k) * q * q
        store(sums[0], first, product)
        store(sums[1], first, square)
