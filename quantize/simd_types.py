"""The types of simd.py and their operators, for numba: see there for what they are.

Importing this module is what defines them.
"""

# numba is not typed, and what stands inside its functions is not Python
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import operator
import os

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import models, register_model

FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")  # what numba compiles for

REGISTER = 16 if "+avx512f" in FEATURES else 8 if "+avx2" in FEATURES else 4
"""Floats in a register of this processor: AVX-512, AVX2, or SSE and NEON."""

LANES = int(os.environ.get("QUANTIZE_LANES", 2 * REGISTER))
"""Floats in a vector, a multiple of REGISTER; the environment variable is there to measure others."""
if LANES % REGISTER or LANES.bit_count() != 1:
    raise ValueError(f"QUANTIZE_LANES={LANES}: want a power of two from {REGISTER} on, this processor's register")

F32, I32, _I1 = ir.FloatType(), ir.IntType(32), ir.IntType(1)


class Lanes(types.Type):
    """The numba type of `count` values of one LLVM type; what comparing them gives is a `mask`."""

    def __init__(self, name: str, element: ir.Type, mask: Lanes | None = None, count: int = LANES):
        super().__init__(name=f"{name}x{count}")
        self.vector, self.count, self.mask = ir.VectorType(element, count), count, mask


class _FloatLanes(Lanes):
    pass


class _IntLanes(Lanes):
    pass


class _MaskLanes(Lanes):
    pass


maskxN = _MaskLanes("mask", _I1)
float32xN = _FloatLanes("float32", F32, maskxN)
int32xN = _IntLanes("int32", I32, maskxN)

# What does not depend on the processor: codebooks are searched in sixteens, see simd16.py
maskx16 = _MaskLanes("mask", _I1, count=16)
float32x16 = _FloatLanes("float32", F32, maskx16, count=16)
int32x16 = _IntLanes("int32", I32, maskx16, count=16)


@register_model(_FloatLanes)
@register_model(_IntLanes)
@register_model(_MaskLanes)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector)


# -- scalars and lanes together --------------------------------------------------------------------------------------


def widen(context, builder, value, kind, lanes):
    """`value` of numba type `kind` as the LLVM vector of `lanes`: repeated when it is a scalar."""
    if isinstance(kind, Lanes):
        return value
    scalar = context.cast(builder, value, kind, types.float32 if isinstance(lanes, _FloatLanes) else types.int32)
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes.count), [0] * lanes.count))


def common(args):
    """The lanes type of operands of which at least one is lanes, the others scalars; None when they do not fit."""
    lanes = {kind for kind in args if isinstance(kind, Lanes)}
    if len(lanes) == 1 and all(isinstance(kind, (Lanes, types.Number)) for kind in args):
        return lanes.pop()
    return None


def _operator(op, instructions, compares=False):
    """Defines `op` on lanes; `instructions` maps a kind of lanes to builder calls (a, b) -> value."""

    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            lanes = common(args)
            if type(lanes) in instructions:
                return signature(lanes.mask if compares else lanes, *args)
            return None

    def lower(context, builder, sig, args):
        lanes = common(sig.args)
        wide = [widen(context, builder, arg, kind, lanes) for arg, kind in zip(args, sig.args, strict=True)]
        return instructions[type(lanes)](builder, *wide)

    for lanes in instructions:
        for operands in ((lanes, lanes), (lanes, types.Number), (types.Number, lanes)):
            lower_builtin(op, *operands)(lower)


_B = ir.IRBuilder
for _op, _instructions in {
    operator.add: {_FloatLanes: _B.fadd, _IntLanes: _B.add},
    operator.sub: {_FloatLanes: _B.fsub, _IntLanes: _B.sub},
    operator.mul: {_FloatLanes: _B.fmul, _IntLanes: _B.mul},
    operator.truediv: {_FloatLanes: _B.fdiv},
    operator.and_: {_IntLanes: _B.and_, _MaskLanes: _B.and_},
    operator.or_: {_IntLanes: _B.or_, _MaskLanes: _B.or_},
    operator.xor: {_IntLanes: _B.xor, _MaskLanes: _B.xor},
    operator.lshift: {_IntLanes: _B.shl},
    operator.rshift: {_IntLanes: _B.ashr},
}.items():
    _operator(_op, _instructions)
    _operator(getattr(operator, f"i{_op.__name__.strip('_')}"), _instructions)  # a += b


def _comparison(sign):
    def floats(builder, a, b):
        compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        return compare(sign, a, b)

    return {_FloatLanes: floats, _IntLanes: lambda builder, a, b: builder.icmp_signed(sign, a, b)}


for _op, _sign in {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}.items():
    _operator(_op, _comparison(_sign), compares=True)


def _unary_operator(op, instructions):
    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            return signature(args[0], args[0]) if type(args[0]) in instructions else None

    for lanes, instruction in instructions.items():
        lower_builtin(op, lanes)(lambda context, builder, sig, args, do=instruction: do(builder, args[0]))


_unary_operator(operator.neg, {_FloatLanes: _B.fneg, _IntLanes: _B.neg})
_unary_operator(operator.invert, {_IntLanes: _B.not_, _MaskLanes: _B.not_})
