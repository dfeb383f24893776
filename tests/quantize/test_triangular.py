"""The factor of an inverse, made in place, against numpy's inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantize import triangular


@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_upper_triangular_and_its_square_is_the_inverse(
    size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triangular, "SMALL", 16)
    monkeypatch.setattr(triangular, "STRIPE", 24)
    rows = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(size), dtype=dtype)
    matrix = rows.T @ rows / len(rows) + 0.01 * torch.eye(size, dtype=dtype)
    place = matrix.data_ptr()
    wanted = np.linalg.inv(matrix.double().numpy())

    upper = triangular.inverse_factor(matrix)

    assert upper is not None
    assert upper.data_ptr() == place
    assert torch.equal(upper, upper.triu())
    assert bool((upper.diagonal() > 0).all())
    got = (upper.T @ upper).double().numpy()
    assert np.abs(got - wanted).max() <= (1e-3 if dtype == torch.float32 else 1e-9) * np.abs(wanted).max()


def test_what_is_not_positive_definite_has_none() -> None:
    assert triangular.inverse_factor(torch.tensor([[1.0, 2.0], [2.0, 1.0]])) is None
