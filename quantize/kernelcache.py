"""Compiled kernels on disk, as numba keeps them, under keys that hold all they were made from.

numba's own key is the kernel's file, its code and the processor. Our kernels are also made of what their module imports
from this package, and of the lane count: a change there would leave a stale kernel in use. Both go into the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache

_PACKAGE = __name__.partition(".")[0] + "."


def cached(dispatcher: Any, lanes: int) -> Any:
    """`dispatcher`, its machine code kept beside the package, or in the user's cache where that cannot be written."""
    with contextlib.suppress(RuntimeError):  # numba has no folder it may write to: every process compiles
        dispatcher._cache = _KernelCache(dispatcher.py_func, lanes)
    return dispatcher


class _KernelCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    def __init__(self, function: Any, lanes: int) -> None:
        super().__init__(function)
        self.module, self.lanes = function.__module__, lanes

    def _index_key(self, sig: object, codegen: object) -> tuple[object, ...]:
        return (*super()._index_key(sig, codegen), self.lanes, _sources(self.module))


@cache
def _sources(module: str) -> str:
    """A digest of the module's source and of all modules of this package that its names come from."""
    names, found = [module], {module}
    for name in names:
        origins = {getattr(value, "__module__", None) or "" for value in vars(sys.modules[name]).values()}
        new = {origin for origin in origins if origin.startswith(_PACKAGE)} - found
        names += new
        found |= new
    digest = hashlib.sha256()
    for name in sorted(found):
        file = sys.modules[name].__file__
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()
