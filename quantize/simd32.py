"""One block of 32 floats as one vector: what the encoders need where no order of a sum has to be kept.

`simd.py` puts one block in each lane, which a search needs; here the 32 values of one block lie side by side, as in
memory, and nothing is transposed. LLVM cuts a vector of 32 into what the processor has (two registers of AVX-512, four
of AVX2, eight of NEON). Positions are in elements of the array they belong to.
"""

# numba is not typed, and what stands inside its functions is not Python
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

WIDTH = 32
_I1, _I8, _I16, _I32 = (ir.IntType(bits) for bits in (1, 8, 16, 32))
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_BYTES = ir.VectorType(_I8, WIDTH)
_INTS = ir.VectorType(_I32, WIDTH)
_MAGNITUDE = 0x7FFFFFFF  # a float32 without its sign


class _Vector(types.Type):
    """A numba type that is one LLVM vector."""


float32x32 = _Vector("float32x32")
uint8x32 = _Vector("uint8x32")


@register_model(_Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _FLOATS if fe_type.name == "float32x32" else _BYTES)


def _all(vector, value):
    return ir.Constant(vector, [value] * WIDTH)


def _at(context, builder, sig, args, wanted):
    """Where the first two arguments of an intrinsic, array and position, point to."""
    position = context.cast(builder, args[1], sig.args[1], types.intp)
    data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [position]), wanted.as_pointer())


def _splat(builder, vector, value):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, _all(_INTS, 0))


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), args)


def _float_operator(op, instruction):
    """`vector op scalar`: the scalar stands for 32 of itself."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if tuple(args) == (float32x32, types.float32):
                return signature(float32x32, float32x32, types.float32)
            return None

    @lower_builtin(op, float32x32, types.float32)
    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(args[0], _splat(builder, _FLOATS, args[1]))


for _op, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _float_operator(_op, _name)


@intrinsic
def load_block(typing_context, array, position):
    """32 consecutive floats of a one-dimensional contiguous array."""

    def codegen(context, builder, sig, args):
        return builder.load(_at(context, builder, sig, args, _FLOATS), align=4)

    return float32x32(array, position), codegen


def _magnitudes(builder, values):
    return builder.and_(builder.bitcast(values, _INTS), _all(_INTS, _MAGNITUDE))


@intrinsic
def largest_magnitude(typing_context, values):
    """The largest |value|, as the bits of a float32: without their sign, floats are ordered like their bits."""

    def codegen(context, builder, sig, args):
        return _call(builder, f"vector.reduce.umax.v{WIDTH}i32", _I32, _magnitudes(builder, args[0]))

    return types.uint32(values), codegen


@intrinsic
def magnitudes(typing_context, values, others):
    """The larger of two |values|, 32 times."""

    def codegen(context, builder, sig, args):
        larger = _call(builder, f"umax.v{WIDTH}i32", _INTS, *(_magnitudes(builder, arg) for arg in args))
        return builder.bitcast(larger, _FLOATS)

    return float32x32(values, others), codegen


@intrinsic
def magnitude_of_half(typing_context, values, half):
    """The largest |value| of the first 16 values, or with a `half` of 1 of the last, as the bits of a float32."""

    def codegen(context, builder, sig, args):
        bits = _magnitudes(builder, args[0])
        first, last = (ir.Constant(ir.VectorType(_I32, 16), [*range(start, start + 16)]) for start in (0, 16))
        parts = (builder.shuffle_vector(bits, bits, part) for part in (first, last))
        largest = [_call(builder, "vector.reduce.umax.v16i32", _I32, part) for part in parts]
        return builder.select(builder.icmp_unsigned("==", args[1], args[1].type(0)), *largest)

    return types.uint32(values, half), codegen


@intrinsic
def having_magnitude(typing_context, values, magnitude):
    """A bit for each value, the first lowest: whether its |value| has these bits."""

    def codegen(context, builder, sig, args):
        wanted = _splat(builder, _INTS, args[1])
        return builder.bitcast(builder.icmp_unsigned("==", _magnitudes(builder, args[0]), wanted), _I32)

    return types.uint32(values, types.uint32), codegen


@intrinsic
def lowest_bit(typing_context, bits):
    """The position of the lowest bit that is set, in a uint32 that is not 0."""

    def codegen(context, builder, sig, args):
        return builder.zext(_call(builder, "cttz.i32", _I32, args[0], _I1(1)), ir.IntType(64))

    return types.intp(types.uint32), codegen


def _extreme(name, reduction):
    """A reduction over integers ordered as the floats are, -0 below +0: the bits of negatives are turned around."""

    def function(typing_context, values):
        def turned(builder, bits, kind, splat):
            return builder.xor(bits, builder.and_(builder.ashr(bits, splat(31)), splat(_MAGNITUDE)))

        def codegen(context, builder, sig, args):
            keys = turned(builder, builder.bitcast(args[0], _INTS), _INTS, lambda n: _all(_INTS, n))
            key = _call(builder, f"vector.reduce.{reduction}.v{WIDTH}i32", _I32, keys)
            return builder.bitcast(turned(builder, key, _I32, _I32), ir.FloatType())

        return types.float32(values), codegen

    function.__name__ = name
    return intrinsic(function)


lowest, highest = _extreme("lowest", "smin"), _extreme("highest", "smax")


@intrinsic
def away_from_zero(typing_context, values, amount):
    """Every value plus `amount`, or minus it where the value is negative."""

    def codegen(context, builder, sig, args):
        amount = _splat(builder, _FLOATS, args[1])
        signed = _call(builder, f"copysign.v{WIDTH}f32", _FLOATS, amount, args[0])
        return builder.fadd(args[0], signed)

    return float32x32(values, types.float32), codegen


@intrinsic
def cut(typing_context, values, top):
    """The values without their fractions, at most `top`, as bytes (two's complement). They must fit int32."""

    def codegen(context, builder, sig, args):
        whole = builder.fptosi(args[0], _INTS)
        whole = _call(builder, f"smin.v{WIDTH}i32", _INTS, whole, _splat(builder, _INTS, args[1]))
        return builder.trunc(whole, _BYTES)

    return uint8x32(values, types.int32), codegen


@intrinsic
def nearest_levels(typing_context, values, low, high):
    """Every value rounded to nearest, ties to even, and limited to low..high, as a byte counted from `low`.

    What is too large for ggml's nearest_int, or NaN, is rounded as there (see simd.nearest_int).
    """

    def codegen(context, builder, sig, args):
        low, high = (_splat(builder, _INTS, context.cast(builder, args[i], sig.args[i], types.int32)) for i in (1, 2))
        sums = builder.bitcast(builder.fadd(args[0], _all(_FLOATS, 12582912.0)), _INTS)  # 1.5 * 2**23
        whole = builder.sub(builder.and_(sums, _all(_INTS, 0x7FFFFF)), _all(_INTS, 0x400000))
        whole = _call(builder, f"smin.v{WIDTH}i32", _INTS, whole, high)
        whole = _call(builder, f"smax.v{WIDTH}i32", _INTS, whole, low)
        return builder.trunc(builder.sub(whole, low), _BYTES)

    return uint8x32(values, low, high), codegen


@intrinsic
def limited_levels(typing_context, values, high):
    """Every value limited to 0..high, NaN to 0, then rounded to nearest, ties to even, as a byte."""

    def codegen(context, builder, sig, args):
        top = _splat(builder, _FLOATS, context.cast(builder, args[1], sig.args[1], types.float32))
        zero = _all(_FLOATS, 0.0)
        value = builder.select(builder.fcmp_ordered(">", args[0], zero), args[0], zero)
        value = builder.select(builder.fcmp_ordered("<", value, top), value, top)
        sums = builder.bitcast(builder.fadd(value, _all(_FLOATS, 12582912.0)), _INTS)  # 1.5 * 2**23
        return builder.trunc(sums, _BYTES)  # the low byte of the sum is the level

    return uint8x32(values, high), codegen


@intrinsic
def passed(typing_context, values, limits):
    """How many of `limits`, a tuple of numbers, every value reaches, as a byte; NaN reaches all."""

    def codegen(context, builder, sig, args):
        count = _all(_BYTES, 0)
        for i, kind in enumerate(sig.args[1]):
            limit = context.cast(builder, builder.extract_value(args[1], i), kind, types.float32)
            reached = builder.fcmp_unordered(">=", args[0], _splat(builder, _FLOATS, limit))
            count = builder.add(count, builder.zext(reached, _BYTES))
        return count

    return uint8x32(values, limits), codegen


@intrinsic
def nearest_whole(typing_context, value):
    """int32: the float32 `value` rounded as simd.nearest_int does it."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(builder.fadd(args[0], ir.Constant(ir.FloatType(), 12582912.0)), _I32)
        return builder.sub(builder.and_(bits, _I32(0x7FFFFF)), _I32(0x400000))

    return types.int32(types.float32), codegen


@intrinsic
def halves(typing_context, first, last):
    """16 times the float32 `first`, then 16 times `last`."""

    def codegen(context, builder, sig, args):
        both = (_splat(builder, _FLOATS, arg) for arg in args)
        return builder.shuffle_vector(*both, ir.Constant(_INTS, [*range(16), *range(WIDTH + 16, 2 * WIDTH)]))

    return float32x32(types.float32, types.float32), codegen


@intrinsic
def levels_beyond(typing_context, values, scales, middles):
    """How many of `middles`, a tuple of numbers, times its scale each |value| is above, as a byte.

    With 8 in it where the value is negative and above any.
    """

    def codegen(context, builder, sig, args):
        size = builder.bitcast(_magnitudes(builder, args[0]), _FLOATS)
        count = _all(_BYTES, 0)
        for i, kind in enumerate(sig.args[2]):
            middle = context.cast(builder, builder.extract_value(args[2], i), kind, types.float32)
            limits = builder.fmul(args[1], _splat(builder, _FLOATS, middle))
            count = builder.add(count, builder.zext(builder.fcmp_ordered(">", size, limits), _BYTES))
        below = builder.fcmp_ordered("<", args[0], _all(_FLOATS, 0.0))
        signed = builder.and_(below, builder.icmp_unsigned("!=", count, _all(_BYTES, 0)))
        return builder.or_(count, builder.select(signed, _all(_BYTES, 8), _all(_BYTES, 0)))

    return uint8x32(values, scales, middles), codegen


@intrinsic
def signs(typing_context, values):
    """2 where the value rounds to 1 or more, halves away from zero, 0 where to -1 or less, else 1, as bytes."""

    def codegen(context, builder, sig, args):
        above = builder.zext(builder.fcmp_ordered(">=", args[0], _all(_FLOATS, 0.5)), _BYTES)
        below = builder.zext(builder.fcmp_ordered("<=", args[0], _all(_FLOATS, -0.5)), _BYTES)
        return builder.sub(builder.add(above, _all(_BYTES, 1)), below)

    return uint8x32(values), codegen


@intrinsic
def above_bits(typing_context, low, high, shift):
    """Bytes of `low`, and those of `high` above them, `shift` bits further up."""

    def codegen(context, builder, sig, args):
        amount = context.cast(builder, args[2], sig.args[2], types.uint8)
        undefined = ir.Constant(_BYTES, ir.Undefined)
        amount = builder.shuffle_vector(builder.insert_element(undefined, amount, _I32(0)), undefined, _all(_INTS, 0))
        return builder.or_(args[0], builder.shl(args[1], amount))

    return uint8x32(low, high, shift), codegen


@intrinsic
def store_bytes(typing_context, out, position, values):
    """32 bytes."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _at(context, builder, sig, args, _BYTES), align=1)
        return context.get_dummy_value()

    return types.void(out, position, values), codegen


def _store_nibbles(first, last):
    def function(typing_context, out, position, values):
        def codegen(context, builder, sig, args):
            half = ir.VectorType(_I8, 16)
            parts = (ir.Constant(ir.VectorType(_I32, 16), places) for places in (first, last))
            low, high = (builder.shuffle_vector(args[2], args[2], part) for part in parts)
            low = builder.and_(low, ir.Constant(half, [15] * 16))
            packed = builder.or_(low, builder.shl(high, ir.Constant(half, [4] * 16)))
            builder.store(packed, _at(context, builder, sig, args, half), align=1)
            return context.get_dummy_value()

        return types.void(out, position, values), codegen

    function.__doc__ = f"""16 bytes: the low halves of values {first} below those of values {last}."""
    return intrinsic(function)


store_nibbles = _store_nibbles([*range(16)], [*range(16, 32)])
store_nibbles_by_8 = _store_nibbles([*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)])


@intrinsic
def fifth_bits(typing_context, values):
    """Bit 4 of every byte, value 0's lowest."""

    def codegen(context, builder, sig, args):
        fifth = builder.and_(args[0], _all(_BYTES, 16))
        return builder.bitcast(builder.icmp_unsigned("!=", fifth, _all(_BYTES, 0)), _I32)

    return types.uint32(values), codegen


@intrinsic
def as_float(typing_context, bits):
    """The float32 of these 32 bits."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def as_bits(typing_context, value):
    """The 32 bits of this float32."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), codegen


def _store_integer(name, kind, wanted):
    def function(typing_context, out, position, value):
        def codegen(context, builder, sig, args):
            builder.store(args[2], _at(context, builder, sig, args, wanted), align=1)
            return context.get_dummy_value()

        return types.void(out, position, kind), codegen

    function.__name__ = name
    return intrinsic(function)


store_uint16 = _store_integer("store_uint16", types.uint16, _I16)
store_uint32 = _store_integer("store_uint32", types.uint32, _I32)
