"""Which TensorRT there is: the data-centre one or TensorRT for RTX. Both have one Python API; they differ in options.

TensorRT for RTX builds ahead of time without a GPU and compiles kernels when an engine is loaded; data-centre TensorRT
times kernels on the GPU it builds for.
"""

from __future__ import annotations

import ctypes
import difflib
import functools
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from convert.distribution import install_command

RTX, DATA_CENTRE = "TensorRT for RTX", "TensorRT"
MODULES = {"tensorrt": DATA_CENTRE, "tensorrt_rtx_bindings": RTX}  # in the order in which they are taken
INSTALL = f"{install_command('tensorrt')}, or TensorRT from its vendor"
TURING = "7.5"  # an engine for every later GPU is the default; this one has to be asked for, and has fewer kernels
CAPABILITY = re.compile(r"SM(\d+)(\d)")


@dataclass(frozen=True)
class Flavour:
    """A TensorRT that can be imported. What an option asks for and it has not is a problem, never passed over."""

    name: str
    module: str
    version: str
    capabilities: tuple[str, ...]  # those it can build for; none: for the GPU that is present

    @property
    def is_rtx(self) -> bool:
        return self.name == RTX

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)

    def targets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The compute capabilities an engine is for, as far as that can be said here."""
        return tuple(asked) or tuple(c for c in self.capabilities if c != TURING)


@functools.cache
def find() -> Flavour | None:
    """The first that is real: the packages called tensorrt on PyPI are stubs that fetch it from its vendor."""
    for name, flavour in MODULES.items():
        try:
            module = importlib.import_module(name)
            version = str(module.__version__)
            builder = module.Builder
        except (ImportError, AttributeError, OSError, RuntimeError):
            continue
        if builder is not None:
            return Flavour(flavour, name, version, _capabilities(module) if flavour == RTX else ())
    return None


def _capabilities(module: ModuleType) -> tuple[str, ...]:
    """SM86 -> 8.6, SM120 -> 12.0, as the module lists them."""
    found = [CAPABILITY.fullmatch(name) for name in module.ComputeCapability.__members__]
    return tuple(f"{match[1]}.{match[2]}" for match in found if match)


def unknown_capabilities(flavour: Flavour, asked: Iterable[str]) -> dict[str, str]:
    """Those of `asked` that it cannot build for -> the one that may be meant, or ""."""
    return {
        one: next(iter(difflib.get_close_matches(one, flavour.capabilities, 1, 0.5)), "")
        for one in asked
        if one not in flavour.capabilities
    }


@functools.cache
def has_driver() -> bool:
    """Whether there is a CUDA driver and a device that answers to it."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def present_capability() -> str:
    """The compute capability of this machine's first GPU, as 8.6; "" where there is none."""
    if not has_driver():
        return ""
    cuda = ctypes.CDLL("libcuda.so.1")
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, cuda.h
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    return f"{major.value}.{minor.value}"
