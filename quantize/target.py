"""Weights that make up for the errors of the layers before them.

GPTQ asks a quantized weight to give on quantized inputs X_q what the weight itself gives on them. What is wanted is
what the model that nothing of was quantized has there, Y; for o and down: so much that the residual stream after them
is that model's. E = Y - X_q W^T is missing. The least squares answer is W + ((H + ridge)^-1 X_q^T E / tokens)^T, which
is then quantized in W's place, with the same H.

The ridge matters: with little of it the answer learns the calibration text's noise, and shrinks what it cannot predict.
On SmolLM2's first nine layers (24 windows of 512 tokens) 0.01 made KL worse by 8 %, 0.1 better by 9 %.
"""

from __future__ import annotations

import numpy as np

from quantize.gptq import Inputs
from quantize.grids import checked

RIDGE = 0.1


def corrected(weight: np.ndarray, inputs: Inputs, missing: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """float32 (rows, columns): `weight`, changed so that its outputs on `inputs` come nearer to those wanted.

    `missing` (columns, rows) is X_q^T E / tokens, E (tokens, rows) being outputs wanted less outputs given. `ridge` is
    the part of the mean of H's diagonal that is added to it.
    """
    import torch

    values, cross = checked(weight, "the weight"), checked(missing, "what is missing")
    if cross.shape != values.shape[::-1]:
        raise ValueError(f"for a weight of {values.shape} what is missing is {values.shape[::-1]}, not {cross.shape}")
    mean = float(inputs.diagonal.mean()) or 1.0
    matrix = inputs.damped.clone()
    matrix.diagonal().sub_(inputs.added).add_(ridge * mean)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    right = torch.from_numpy(cross)
    change = (
        torch.linalg.solve(matrix.double(), right.double()).float() if failed else torch.cholesky_solve(right, factor)
    )
    return np.asarray(values + change.T.numpy())
