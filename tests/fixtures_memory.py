"""What llama.cpp says that a model would take: of a file that has a header and, behind it, a hole.

llama.cpp's `no_alloc` reads metadata and shapes, makes contexts of any length and tells their buffers, and allocates
nothing: a model of 400 GB is measured in a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convert.estimate.setting import Setting
from convert.formats.gguf.conversion import Conversion, ConversionSettings, prepare
from convert.formats.gguf.file_plan import FilePlan
from convert.inspection.checkpoint import companions_of
from validate.runtimes import _llama_api as api
from validate.runtimes._llama_cache import GGML_TYPES
from validate.runtimes._llama_log import Log

MIB = 1 << 20
FLAGS = bytes((0, 1, 1, 1, 1, 0))  # embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified
# llama.cpp writes two decimals: what it says of each of two caches may be half of a hundredth off
LAST_DIGIT = int(0.0101 * MIB)
LINES = {
    "cache": re.compile(r"^llama_kv_cache\w*: size = +([\d.]+) MiB"),
    "state": re.compile(r"RS buffer size = +([\d.]+) MiB"),
    "output": re.compile(r"output buffer size = +([\d.]+) MiB"),
    "compute": re.compile(r"compute buffer size = +([\d.]+) MiB"),
}


@dataclass(frozen=True)
class Said:
    """Bytes, as llama.cpp tells them."""

    cache: int
    state: int
    output: int
    compute: int


def planned(folder: Path, kind: str = "F16", mmproj: str | bool = False) -> Conversion:
    """The conversion of a checkpoint by its config and tokenizer alone: there need be no weights."""
    return prepare(companions_of(folder), ConversionSettings((kind,), mmproj))


def hollow(plan: FilePlan, path: Path) -> Path:
    """The planned file with its header, as long as it would be, and no bytes on the disk behind."""
    with open(path, "wb") as file:
        file.write(plan.header)
        file.truncate(plan.size)
    return path


class Unallocated:
    """A model of which llama.cpp has read the header."""

    def __init__(self, path: Path) -> None:
        self._lib, self._log = api.library(), Log()
        self._lib.llama_backend_init()
        self._model = self._lib.llama_model_load_from_file(os.fsencode(path), api.unallocated_params())
        if not self._model:
            raise self._log.failure("could not read the header")

    def ask(self, setting: Setting) -> Said:
        """What a context would take. Raises RuntimeFailure where llama.cpp makes none."""
        params = api.context_params()
        params.n_ctx, params.n_seq_max, params.n_outputs_max = setting.context, setting.texts, setting.outputs or 0
        params.n_batch, params.n_ubatch = setting.batch, setting.micro_batch
        params.type_k, params.type_v = GGML_TYPES[setting.cache.k], GGML_TYPES[setting.cache.v]
        params.flash_attn_type = int(setting.cache.flash_attention)
        # the flags behind what _llama_api declares: their defaults tell where this build has them
        flags = bytes(params.spare).index(FLAGS)
        params.spare[flags + 4], params.spare[flags + 5] = setting.full_window, True
        self._log.lines.clear()
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise self._log.failure("made no context")
        self._lib.llama_free(context)
        return Said(**{name: self._sum(pattern) for name, pattern in LINES.items()})

    def _sum(self, pattern: re.Pattern[str]) -> int:
        found = (pattern.search(line) for line in self._log.lines)
        return round(sum(float(match[1]) for match in found if match) * MIB)

    def close(self) -> None:
        self._lib.llama_model_free(self._model)


@contextmanager
def unallocated(plan: FilePlan, folder: Path) -> Iterator[Unallocated]:
    """The planned file, as llama.cpp would see it."""
    model = Unallocated(hollow(plan, folder / plan.name))
    try:
        yield model
    finally:
        model.close()
