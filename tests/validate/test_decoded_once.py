"""Quantized matrices are decoded once, where there is memory for them. That products stay the same: test_gptq_stage."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from validate.runtimes import _decoded_once


def test_a_matrix_is_decoded_once_and_goes_when_its_module_does() -> None:
    calls: list[int] = []

    def decode(*, qweight: torch.Tensor, bits: int) -> torch.Tensor:
        calls.append(bits)
        return qweight.float() * bits

    once = _decoded_once._Once(decode)
    first, other = torch.ones(2), torch.ones(2)
    found = once(qweight=first, bits=4)
    assert once(qweight=first, bits=4) is found
    assert torch.equal(once(qweight=other, bits=8), torch.full((2,), 8.0)), "told by identity, not by values"
    assert calls == [4, 8]
    kept = weakref.ref(found)
    del first, found
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("free", [None, 1 << 20])
def test_nothing_is_kept_where_memory_is_short(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch", reason="the extra gptq is not installed")
    module = linear.TorchLinear(bits=4, group_size=32, sym=True, desc_act=False, in_features=1024, out_features=1024)
    monkeypatch.setattr(_decoded_once, "free_bytes", lambda: free)
    assert not _decoded_once.keep_decoded(module)
    assert not module._cache_enabled
    monkeypatch.setattr(_decoded_once, "free_bytes", lambda: 1 << 30)
    assert _decoded_once.keep_decoded(module)
    assert module._cache_enabled
