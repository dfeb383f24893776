"""float32x16 for numba: one value beside sixteen candidates for it, or a table of sixteen numbers to look up in.

`simd.py` has one block in each lane. Here all lanes belong to one group of values, and each holds what one entry of a
codebook would make of it. Operators are those of simd.py; every lane adds in the order in which they are written.

    float32x16, int32x16, maskx16   as float32xN, int32xN and maskxN, whatever the processor's registers are
"""

# numba is not typed, and what stands inside its functions is not Python
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from quantize.simd_types import F32, FEATURES, I32, common, float32x16, int32x16, maskx16, widen

WIDTH = 16
_HALF = WIDTH // 2
_WORDS = ir.VectorType(ir.IntType(16), WIDTH)
LARGEST = float.fromhex("0x1.fffffep127")


def _pointer(context, builder, sig, args, wanted):
    """To `wanted` in the array that is the first argument, from the position on that is the second."""
    at = context.cast(builder, args[1], sig.args[1], types.intp)
    data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [at], inbounds=True), wanted.as_pointer())


@intrinsic
def load16(typing_context, array, position):
    """Sixteen consecutive items of a contiguous float32 array, or of a uint16 array as int32x16."""
    floats = array.dtype == types.float32

    def codegen(context, builder, sig, args):
        stored = float32x16.vector if floats else _WORDS
        items = builder.load(_pointer(context, builder, sig, args, stored), align=4 if floats else 2)
        return items if floats else builder.zext(items, int32x16.vector)

    fits = floats or array.dtype == types.uint16
    return ((float32x16 if floats else int32x16)(array, position), codegen) if fits else None


@intrinsic
def prefetch(typing_context, array, position):
    """Has the processor fetch what stands in a contiguous array at a position, before it is needed."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig, args, ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, I32(0), I32(3), I32(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, position), codegen


@intrinsic
def store16(typing_context, array, position, values):
    """Writes float32x16 to sixteen consecutive items of a contiguous float32 array."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _pointer(context, builder, sig, args, float32x16.vector), align=4)
        return context.get_dummy_value()

    fits = array.dtype == types.float32 and values is float32x16
    return (types.void(array, position, values), codegen) if fits else None


@intrinsic
def sixteen(typing_context, value):
    """Sixteen times one float32, or one int32."""
    lanes = float32x16 if isinstance(value, types.Float) else int32x16

    def codegen(context, builder, sig, args):
        return widen(context, builder, args[0], sig.args[0], lanes)

    return lanes(value), codegen


@intrinsic
def numbered(typing_context):
    """0, 1, 2 ... 15, as int32x16."""

    def codegen(context, builder, sig, args):
        return ir.Constant(int32x16.vector, list(range(WIDTH)))

    return int32x16(), codegen


@intrinsic
def where16(typing_context, mask, then, otherwise):
    """`then` in the lanes where `mask` holds, `otherwise` in the others; one of them may be a scalar."""
    lanes = common((then, otherwise))

    def codegen(context, builder, sig, args):
        return builder.select(args[0], *(widen(context, builder, args[i], sig.args[i], lanes) for i in (1, 2)))

    return (lanes(mask, then, otherwise), codegen) if mask is maskx16 and lanes else None


@intrinsic
def least(typing_context, values):
    """The least of float32x16 that are not negative, or of int32x16 that are not; NaN is above all numbers."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], int32x16.vector)  # without a sign, floats are in the order of their bits
        kind = ir.FunctionType(I32, [int32x16.vector])
        reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.umin.v{WIDTH}i32")
        found = builder.call(reduce, [bits])
        return builder.bitcast(found, F32) if sig.args[0] is float32x16 else found

    result = types.float32 if values is float32x16 else types.int32
    return (result(values), codegen) if values in {float32x16, int32x16} else None


@intrinsic
def first_lane(typing_context, mask):
    """int32: the first lane in which `mask` holds; of none it is 15."""

    def codegen(context, builder, sig, args):
        word = builder.or_(builder.zext(builder.bitcast(args[0], ir.IntType(WIDTH)), I32), I32(1 << (WIDTH - 1)))
        kind = ir.FunctionType(I32, [I32, ir.IntType(1)])
        count = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i32")
        return builder.call(count, [word, ir.IntType(1)(1)])

    return (types.int32(mask), codegen) if mask is maskx16 else None


@intrinsic
def lookup(typing_context, table, index):
    """table[index & 15] in every lane: the entries of `table` (float32x16) that the low bits of int32x16 point at."""

    def codegen(context, builder, sig, args):
        if "+avx512f" in FEATURES:
            return _call(builder, "x86.avx512.permvar.sf.512", float32x16.vector, args)
        if "+avx2" in FEATURES:
            return _of_two_halves(builder, *args)
        return _one_by_one(builder, *args)

    return (float32x16(table, index), codegen) if (table, index) == (float32x16, int32x16) else None


def _call(builder, name, result, args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), args)


def _half(builder, lanes, start):
    picked = ir.Constant(ir.VectorType(I32, _HALF), list(range(start, start + _HALF)))
    return builder.shuffle_vector(lanes, lanes, picked)


def _of_two_halves(builder, table, index):
    """AVX2 looks up among eight: in both halves of the table, of which bit 3 of the index takes one."""
    low, high = (_half(builder, table, start) for start in (0, _HALF))
    found = []
    for start in (0, _HALF):
        part = _half(builder, index, start)
        eighth = ir.Constant(part.type, [8] * _HALF)
        upper = builder.icmp_unsigned("!=", builder.and_(part, eighth), ir.Constant(part.type, [0] * _HALF))
        values = [_call(builder, "x86.avx2.permps", low.type, (half, part)) for half in (high, low)]
        found.append(builder.select(upper, *values))
    return builder.shuffle_vector(*found, ir.Constant(int32x16.vector, list(range(WIDTH))))


def _one_by_one(builder, table, index):
    result = ir.Constant(float32x16.vector, ir.Undefined)
    for lane in range(WIDTH):
        position = builder.and_(builder.extract_element(index, I32(lane)), I32(WIDTH - 1))
        result = builder.insert_element(result, builder.extract_element(table, position), I32(lane))
    return result
