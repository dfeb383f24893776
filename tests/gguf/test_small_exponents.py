"""MXFP4's exponent of 255, which llama-quantize refuses: the writer names the value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.errors import InputError
from tests.gguf.test_quantized_files import written


def test_a_block_of_the_one_octave_that_mxfp4_has_no_exponent_for(tmp_path: Path) -> None:
    values = np.ones((3, 64), np.float32)
    values[2, 32:] = 0
    values[2, 40] = -1.5 * 2.0**-126
    with pytest.raises(InputError, match=r"-1.76324e-38 at \[2, 40\], is too small for MXFP4") as caught:
        written(tmp_path, values, "MXFP4")
    assert "wanted 0, or at least 2.35099e-38" in str(caught.value)
    values[2, 40] = 2.0**-127
    assert len(written(tmp_path, values, "MXFP4")) == 6 * 17
