"""Compiled kernels on disk, as numba keeps them, under keys that hold all they were made from.

numba's own key is the kernel's file, its code and the processor. Our kernels are also made of other modules of this
package and of the lane count: a change there would leave a stale kernel in use. Both go into the key.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="import-untyped,misc"

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from numba.core.caching import FunctionCache


def cached(dispatcher, lanes: int):
    """`dispatcher`, its machine code kept beside the package, or in the user's cache where that cannot be written."""
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func, lanes)
    except RuntimeError:  # numba has no folder it may write to: compile in every process
        pass
    return dispatcher


class _KernelCache(FunctionCache):
    def __init__(self, function, lanes: int):
        super().__init__(function)
        self.lanes = lanes

    def _index_key(self, sig, codegen):
        return (*super()._index_key(sig, codegen), self.lanes, _sources())


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
