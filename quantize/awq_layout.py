"""What of a model AWQ takes and leaves, and the GEMM layout AutoAWQ gave its checkpoints. Names and shapes only.

A matrix (rows = outputs, columns = inputs) becomes

    qweight  I32 (columns, rows / 8)       eight neighbouring rows in an int32, 4 bits each, from the lowest bits on in
    qzeros   I32 (groups, rows / 8)        the order 0 2 4 6 1 3 5 7
    scales   F16 (groups, rows)

and weight = scale * (q - zero). The norm in front of a matrix takes the factors its columns were scaled by.
Source: AutoAWQ, awq/modules/linear/gemm.py, `WQLinear_GEMM.from_linear`.
"""

from __future__ import annotations

from collections.abc import Mapping

from quantize.gptq_layout import Shape, Spec, groups

ROW_AXIS: Mapping[str, int | None] = {"bias": 0, "qweight": 1, "qzeros": 1, "scales": 1}


def packed(shape: Shape, bits: int, group_size: int, bias: bool) -> dict[str, Spec]:
    """Suffix -> dtype and shape of the tensors a matrix becomes."""
    rows, columns = shape
    count = groups(columns, group_size)
    return {
        **({"bias": ("F16", (rows,))} if bias else {}),
        "qweight": ("I32", (columns, rows * bits // 32)),
        "qzeros": ("I32", (count, rows * bits // 32)),
        "scales": ("F16", (count, rows)),
    }
