"""float32xN for numba: LANES blocks of one type encoded side by side, each lane in ggml's own order of operations.

Why: ggml's searches add floats in a fixed order, so no compiler may vectorize them. Here lane k of every vector belongs
to block k. Inside a lane the order is ggml's, so the bits are too; LANES blocks advance together, so it is fast.
Nothing is contracted into fused multiply-adds and no fast-math flag is set: both would change bits.

Types, as seen inside a kernel (they cannot leave one):
    float32xN   LANES floats: + - * / and unary -
    int32xN     LANES signed integers: + - * & | ^ << and >> (arithmetic)
    maskxN      what < <= > >= == != give: & | ~ , for `where` and `any_lane`
The other operand of an operator, and the branches of `where`, may be a scalar: it is rounded to the lanes' type and
repeated. Comparisons are C's: false with NaN, except != which is true.

    @simd.kernel
    def double(values, out):
        for at in range(0, values.shape[0], simd.LANES):
            simd.store(out, at, simd.load(values, at) * 2)
"""

# ruff: noqa: PLR0913, PLR0917 - intrinsics take what they work on, one by one
# numba is not typed, and what stands inside its functions is not Python
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from quantize.kernelcache import cached
from quantize.simd_types import F32, I32, LANES, REGISTER, common, float32xN, int32xN, maskxN, widen

_I1 = ir.IntType(1)

__all__ = [
    "LANES",
    "REGISTER",
    "any_lane",
    "bits",
    "counted_nowhere",
    "fabs",
    "float32xN",
    "from_bits",
    "from_float16",
    "gather",
    "inlined",
    "int32xN",
    "kernel",
    "lane_bits",
    "limited",
    "limited_level",
    "load",
    "lowest_lane",
    "maskxN",
    "maximum",
    "minimum",
    "nearest_int",
    "nearest_level",
    "no_lane",
    "put_byte",
    "put_half",
    "put_word",
    "round_away",
    "splat",
    "splat_int",
    "sqrt",
    "store",
    "to_float",
    "to_float16",
    "to_int",
    "where",
    "workspace",
]


def kernel(function):
    """`function` compiled for arrays and numbers, without the GIL, kept on disk for this processor and lane count."""
    return cached(numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function), LANES)


def inlined(function):
    """`function` for use inside kernels: no call remains, constants passed to it are constants in it."""
    # Without the entries from Python and C, each of which would compile a copy of it for nobody.
    entries = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(nogil=True, error_model="numpy", forceinline=True, **entries)(function)


def counted_nowhere(function):
    """`function` as `inlined`, without counting who holds its arrays: for loops too long for numba to see through.

    numba would count at every call that it finds in a branch. No array can be made in it.
    """
    entries = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(nogil=True, error_model="numpy", forceinline=True, _nrt=False, **entries)(function)


@intrinsic
def where(typing_context, mask, then, otherwise):
    """`then` in the lanes where `mask` holds, `otherwise` in the others; one of them may be a scalar."""
    lanes = common((then, otherwise))

    def codegen(context, builder, sig, args):
        branches = (widen(context, builder, args[i], sig.args[i], lanes) for i in (1, 2))
        return builder.select(args[0], *branches)

    return (lanes(mask, then, otherwise), codegen) if lanes and mask is lanes.mask else None


@intrinsic
def any_lane(typing_context, mask):
    """Whether `mask` holds in any lane: a scalar, to branch on."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], word), word(0))

    return (types.boolean(maskxN), codegen) if mask is maskxN else None


@intrinsic
def lane_bits(typing_context, mask):
    """uint64 with a bit for each lane in which `mask` holds, the first lane's lowest."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(64))

    return (types.uint64(maskxN), codegen) if mask is maskxN else None


@intrinsic
def lowest_lane(typing_context, lane_bits):
    """The first lane of those in `lane_bits`, a uint64 that is not 0."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, _I1])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64")
        return builder.call(function, [args[0], _I1(1)])

    return types.intp(types.uint64), codegen


@inlined
def no_lane():
    """A mask that holds nowhere."""
    return splat_int(0) != 0


# -- conversions and functions of one operand ------------------------------------------------------------------------


def _function(doc, result, operand, instruction):
    def function(typing_context, value):
        def codegen(context, builder, sig, args):
            return instruction(builder, widen(context, builder, args[0], sig.args[0], operand))

        fits = value is operand or isinstance(value, types.Number)
        return (result(value), codegen) if fits else None

    function.__doc__ = doc
    return intrinsic(function)


def _llvm(name):
    def call(builder, value):
        kind = ir.FunctionType(value.type, [value.type])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
        return builder.call(function, [value])

    return call


def _to(operation, lanes):
    return lambda builder, value: getattr(builder, operation)(value, lanes.vector)


def _same(builder, value):
    return value


splat = _function("LANES times one number, as float32xN.", float32xN, float32xN, _same)
splat_int = _function("LANES times one number, as int32xN.", int32xN, int32xN, _same)
fabs = _function("C's fabsf.", float32xN, float32xN, _llvm("fabs"))
sqrt = _function("C's sqrtf, correctly rounded.", float32xN, float32xN, _llvm("sqrt"))
round_away = _function(
    "C's roundf: to the nearest whole number, halves away from 0.", float32xN, float32xN, _llvm("round")
)
to_float = _function("int32xN -> float32xN, rounded to nearest.", float32xN, int32xN, _to("sitofp", float32xN))
to_int = _function(
    "float32xN -> int32xN, cut towards 0; out of range is undefined.", int32xN, float32xN, _to("fptosi", int32xN)
)
bits = _function("The bits of float32xN as int32xN.", int32xN, float32xN, _to("bitcast", int32xN))
from_bits = _function("float32xN of the bits in int32xN.", float32xN, int32xN, _to("bitcast", float32xN))


@inlined
def minimum(a, b):
    """`a < b ? a : b`, lane by lane."""
    return where(a < b, a, b)


@inlined
def maximum(a, b):
    """`a > b ? a : b`, lane by lane."""
    return where(a > b, a, b)


# Adding 1.5 * 2**23 to a float leaves its nearest whole number (ties to even) in the low 23 bits of the sum.
_MAGIC = 12582912.0
_MAGIC_BITS = 0x4B400000


@inlined
def nearest_int(value):
    """int32xN: `value` rounded to nearest, ties to even.

    From 2**22 on it is what ggml's nearest_int makes of it: of infinity -2**22, of NaN 0 (ggml-quants.c).
    """
    return (bits(value + _MAGIC) & 0x7FFFFF) - 0x400000


@inlined
def nearest_level(value, low, high):
    """float32xN: `nearest_int(value)` limited to the whole numbers low..high, as a float."""
    # The limits are applied to the integer bits of the sum: one conversion less, on units that floats leave idle.
    level = (bits(value + _MAGIC) & 0x7FFFFF) | 0x4B000000
    level = maximum(level, splat_int(low + _MAGIC_BITS))
    level = minimum(level, splat_int(high + _MAGIC_BITS))
    return from_bits(level) - _MAGIC


@inlined
def limited_level(value, high):
    """float32xN: `value` limited to 0..high, then rounded to nearest, ties to even; NaN gives 0."""
    return (minimum(maximum(value, splat(0)), splat(high)) + _MAGIC) - _MAGIC


@inlined
def limited(value, low, high):
    """int32xN: `value` (int32xN), but at least `low` and at most `high`."""
    return minimum(maximum(value, splat_int(low)), splat_int(high))


@inlined
def to_float16(value):
    """int32xN: the 16 bits of `value` as float16, to nearest, ties to even; NaN is ggml's, 0x7e00 and the sign."""
    word = bits(value)
    size = word & 0x7FFFFFFF
    normal = (size + 0xFFF + ((size >> 13) & 1) - (112 << 23)) >> 13
    subnormal = bits(from_bits(size) + 0.5) - 0x3F000000  # the last bit of 0.5 is 2**-24, that of a subnormal
    half = where(size < 113 << 23, subnormal, normal)
    half = where(size >= 0x477FF000, 0x7C00, half)  # 65520 and more
    half = where(size > 0x7F800000, 0x7E00, half)
    return half | ((word >> 16) & 0x8000)


@inlined
def from_float16(half):
    """float32xN: the value of the float16 whose 16 bits each lane of int32xN holds."""
    size = (half & 0x7FFF) << 13
    value = from_bits(size) * 2.0**112  # exact, subnormals too
    value = where(size >= 0x7C00 << 13, from_bits(size | 0x7F800000), value)
    return from_bits(bits(value) | ((half & 0x8000) << 16))


# -- memory ----------------------------------------------------------------------------------------------------------


def _address(context, builder, kind, array, index, index_type, element):
    """A pointer to `element` at position `index` (any integer type) of a contiguous array."""
    at = context.cast(builder, index, index_type, types.intp)
    view = context.make_array(kind)(context, builder, array)
    return builder.bitcast(builder.gep(view.data, [at], inbounds=True), element.as_pointer())


_LANES_OF = {types.float32: float32xN, types.int32: int32xN}


@intrinsic
def load(typing_context, array, index):
    """LANES consecutive items, from `index` on, of a contiguous float32 or int32 array."""
    lanes = _LANES_OF[array.dtype]

    def codegen(context, builder, sig, args):
        pointer = _address(context, builder, sig.args[0], args[0], args[1], sig.args[1], lanes.vector)
        return builder.load(pointer, align=4)

    return lanes(array, index), codegen


@intrinsic
def store(typing_context, array, index, value):
    """Writes the lanes of `value` to LANES consecutive items, from `index` on, of a contiguous array of their type."""

    def codegen(context, builder, sig, args):
        pointer = _address(context, builder, sig.args[0], args[0], args[1], sig.args[1], sig.args[2].vector)
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return (types.void(array, index, value), codegen) if value is _LANES_OF.get(array.dtype) else None


def _scatter(width):
    element = ir.IntType(width)

    def scatter(typing_context, out, offset, stride, value):
        def codegen(context, builder, sig, args):
            step = context.cast(builder, args[2], sig.args[2], types.intp)
            at = context.cast(builder, args[1], sig.args[1], types.intp)
            for lane in range(LANES):
                item = builder.extract_element(args[3], I32(lane))
                item = item if width == 32 else builder.trunc(item, element)
                pointer = _address(context, builder, sig.args[0], args[0], at, types.intp, element)
                builder.store(item, pointer, align=1)
                at = builder.add(at, step)
            return context.get_dummy_value()

        fits = out.dtype == types.uint8 and value is int32xN
        return (types.void(out, offset, stride, value), codegen) if fits else None

    scatter.__doc__ = f"""Writes the low {width} bits of lane k to bytes `out[offset + k * stride]` on, little-endian.

    `out` is a contiguous uint8 array; with the bytes per block as stride, lane k lands in block k.
    """
    return intrinsic(scatter)


put_word, put_half, put_byte = _scatter(32), _scatter(16), _scatter(8)


@intrinsic
def _transpose_tile(typing_context, source, start, stride, target, at):
    """target[at + i * LANES + k] = source[start + k * stride + i] for i and k below REGISTER."""

    def codegen(context, builder, sig, args):
        vector = ir.VectorType(F32, REGISTER)
        index, step, into = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2, 4))
        rows = []
        for _ in range(REGISTER):
            pointer = _address(context, builder, sig.args[0], args[0], index, types.intp, vector)
            rows.append(builder.load(pointer, align=4))
            index = builder.add(index, step)
        for row in _transposed(builder, rows):
            builder.store(row, _address(context, builder, sig.args[3], args[3], into, types.intp, vector), align=4)
            into = builder.add(into, into.type(LANES))
        return context.get_dummy_value()

    return types.void(source, start, stride, target, at), codegen


def _transposed(builder, rows):
    """The square of `rows` mirrored: in squares of 2, 4, 8 ... rows, the two off-diagonal quarters change places."""
    n, half = len(rows), 1
    while half < n:
        # shuffle_vector counts lanes of the first operand 0..n-1, of the second n..2n-1
        upper = [p if not p & half else n + p - half for p in range(n)]
        lower = [n + p if p & half else p + half for p in range(n)]
        mirrored = list(rows)
        for i in (i for i in range(n) if not i & half):
            for row, lanes in ((i, upper), (i + half, lower)):
                mask = ir.Constant(ir.VectorType(I32, n), lanes)
                mirrored[row] = builder.shuffle_vector(rows[i], rows[i + half], mask)
        rows, half = mirrored, 2 * half
    return rows


@inlined
def workspace(n):
    """A float32 array of n vectors, at a multiple of 64 bytes: a load across cache lines costs two."""
    memory = np.empty(n * LANES + 16, np.float32)
    skip = (-memory.ctypes.data % 64) // 4
    return memory[skip : skip + n * LANES]


@inlined
def gather(source, start, stride, n, target):
    """Copies n values of each of LANES blocks into lanes: target[i * LANES + k] = source[start + k * stride + i].

    `n` is a multiple of REGISTER (all of ggml's blocks are); both arrays are contiguous float32.
    """
    for lane in range(0, LANES, REGISTER):
        for i in range(0, n, REGISTER):
            _transpose_tile(source, start + lane * stride + i, stride, target, i * LANES + lane)
