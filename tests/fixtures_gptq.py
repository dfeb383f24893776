"""What the GPTQ and AWQ tests share: finished folders, and an unpacking written from the layouts alone."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import child, messages
from convert.bundle import Bundle, Role
from convert.formats.compressed import calibrated_stage as _gptqmodel
from convert.formats.compressed.awq_stage import STAGE as awq
from convert.formats.compressed.gptq_stage import STAGE as gptq
from convert.progress import Progress, Silent
from convert.source.stage import STAGE as source_stage
from tests import processes, tiny

STAGES: dict[str, Any] = {"gptq": gptq, "awq": awq}
NANO = Path(__file__).parents[1] / "recipes/models/fara-nano"
GROUP = 32
ENVIRONMENT = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}

# For every folder named: module -> what the library's kernel makes of INPUTS, as an .npz beside the weights.
PRODUCTS = """
import sys, pathlib, numpy as np, torch
from validate.runtimes.gptqmodel import GptqModelSession
for folder in map(pathlib.Path, sys.argv[1:]):
    with GptqModelSession(folder, 1) as session, torch.inference_mode():
        made = {}
        for name, module in session.model.named_modules():
            if hasattr(module, "qweight"):
                x = np.random.default_rng(1).standard_normal((3, module.in_features)).astype(np.float32)
                first, again = module(torch.from_numpy(x)), module(torch.from_numpy(x))
                assert torch.equal(first, again), f"{name}: the matrix that was kept is another"
                made[name] = first.float().numpy()
        np.savez(folder.parent / "products.npz", **made)
"""

# gptqmodel's own loader. Of models with vision it finds tensors under the names of transformers 5 alone.
OWN_READER = """
import sys, pathlib, numpy as np, torch
from gptqmodel import BACKEND, GPTQModel
for folder in map(pathlib.Path, sys.argv[1:]):
    kernel = BACKEND.TORCH_AWQ if folder.name.endswith("AWQ") else BACKEND.TORCH
    model = GPTQModel.load(str(folder), device="cpu", backend=kernel).model
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(16)[None]).logits
    np.savez(folder.parent / "own.npz", logits=logits.float().numpy())
"""


def own_reader(home: Path, *folders: Path) -> list[dict[str, np.ndarray]]:
    """For each folder, what gptqmodel's loader makes of the first 16 tokens; it is given copies, in `home`."""
    copies = [Path(shutil.copytree(folder, home / f"{i}" / folder.name)) for i, folder in enumerate(folders)]
    _run_library(OWN_READER, copies)
    return [dict(np.load(folder.parent / "own.npz")) for folder in copies]


def _run_library(program: str, folders: Sequence[Path]) -> None:
    command = [sys.executable, "-c", program, *map(str, folders)]
    environment = {**os.environ, **ENVIRONMENT}
    done = processes.run(command, check=False, capture_output=True, text=True, env=environment, cwd=folders[0].parent)
    assert done.returncode == 0, done.stderr[-2000:]


def source_bundle(folder: Path) -> Bundle:
    return source_stage.forecast(source_stage.Options(path=folder.absolute()), {})


def options(method: str, home: Path, **words: Any) -> Any:
    """The stage's options: 8 rows of 32 tokens of a made-up text, groups of 32, unless `words` say otherwise."""
    text = home / "calibration.txt"
    if not text.exists():
        text.write_text("\n".join(tiny._text()), encoding="utf-8")
    calibration = _gptqmodel.Calibration(text=text, samples=8, length=32)
    return STAGES[method].Options(**{"calibration": calibration, "group_size": GROUP, "threads": 1, **words})


def quantized(method: str, source: Path, home: Path, **words: Any) -> Path:
    """The folder a stage makes of a checkpoint: made, assembled, loaded again."""
    out = home / method
    out.mkdir(parents=True)
    inputs = {"source": source_bundle(source)}
    bundle = STAGES[method].run(options(method, home, **words), inputs, out, Silent())
    return bundle.of(Role.WEIGHTS)[0].path.parent


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Name -> values; bfloat16 as float32, float16 as it is."""
    import torch
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in found.items()}


def modules(found: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Quantized module -> its tensors by suffix."""
    names = [name.removesuffix(".qweight") for name in found if name.endswith(".qweight")]
    return {m: {n.removeprefix(f"{m}."): t for n, t in found.items() if n.startswith(f"{m}.")} for m in names}


def library_products(*folders: Path) -> list[dict[str, np.ndarray]]:
    """For each folder, module -> the library's torch kernel on the inputs that `inputs` gives."""
    _run_library(PRODUCTS, folders)
    return [dict(np.load(folder.parent / "products.npz")) for folder in folders]


def inputs(columns: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3, columns)).astype(np.float32)


# ---- the layouts once more, from their descriptions, slowly


def stream(words: np.ndarray, bits: int) -> np.ndarray:
    """(words, columns) of int32 -> (numbers, columns): each column is a stream of bits, the lowest first."""
    raw = words.astype(np.int64) & 0xFFFFFFFF
    ones = (raw[:, None, :] >> np.arange(32)[None, :, None] & 1).reshape(-1, bits, words.shape[1])
    return (ones << np.arange(bits)[None, :, None]).sum(1)


def unpack_gptq(parts: Mapping[str, np.ndarray], bits: int) -> np.ndarray:
    """(rows, columns) of AutoGPTQ's first version: zeros are stored less one."""
    q, zeros = stream(parts["qweight"], bits), stream(parts["qzeros"].T, bits).T + 1
    group = parts["g_idx"]
    return ((q - zeros[group]) * parts["scales"].astype(np.float32)[group]).T.astype(np.float32)


def unpack_awq(parts: Mapping[str, np.ndarray], group_size: int) -> np.ndarray:
    """(rows, columns) of AutoAWQ's GEMM: of eight rows, the k-th four bits hold row 0 2 4 6 1 3 5 7 [k]."""

    def eight(words: np.ndarray) -> np.ndarray:
        numbers = np.empty((*words.shape, 8), np.int64)
        for place, row in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            numbers[..., row] = (words.astype(np.int64) & 0xFFFFFFFF) >> 4 * place & 15
        return numbers.reshape(len(words), -1)

    q, zeros = eight(parts["qweight"]), eight(parts["qzeros"])
    group = np.arange(len(q)) // group_size
    return ((q - zeros[group]) * parts["scales"].astype(np.float32)[group]).T.astype(np.float32)


# ---- finished folders, made once a run: loading gptqmodel takes longer than quantizing any of them


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills: by the first who asks, of all processes that share this run's tests."""
    base = factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with open(home.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            part = home.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of one who failed
            part.mkdir()
            make(part)
            part.rename(home)
    return home


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small computer-use model of this repository, quantized by both methods in groups of 128."""

    def make(home: Path) -> None:
        calibration = _gptqmodel.Calibration(text=NANO / "heldout/train_text.txt", samples=24, length=128)
        for method in STAGES:
            quantized(method, NANO, home, calibration=calibration, group_size=128)

    home = once(tmp_path_factory, "seeing", make)
    return {method: next(path for path in (home / method).iterdir() if path.is_dir()) for method in STAGES}


# The quantized modules of these families, said once more: the stages go by roles.
LINEAR = re.compile(r"\.(?:self_attn\.(?:[qkvo]|qkv)_proj|mlp\.(?:gate|up|down|gate_up)_proj)$")

# Name -> checkpoint, method and settings, no two alike.
FAMILIES: dict[str, tuple[Callable[..., Path], str, dict[str, Any]]] = {
    "llama": (tiny.tiny_llama, "gptq", {"bits": 4}),
    "mistral": (tiny.tiny_mistral, "gptq", {"bits": 8}),
    "phi3": (tiny.tiny_phi3, "gptq", {"bits": 4, "group_size": -1}),
    "qwen2": (tiny.tiny_qwen2, "gptq", {"bits": 4, "desc_act": True}),
    "qwen3": (tiny.tiny_qwen3, "gptq", {"bits": 3, "sym": False}),
    "phi3-awq": (tiny.tiny_phi3, "awq", {}),
}


def make_families(home: Path) -> None:
    """Every family's checkpoint and folder, all in this one process: what a process of its own is for, others test."""
    child.run = _run_here
    for name, (make, method, words) in FAMILIES.items():
        (home / name).mkdir()
        quantized(method, make(home / name / "Tiny"), home / name, **words)


def _run_here(command: Sequence[str], progress: Progress, **_: Any) -> child.Ended:
    """Like child.run, without a new process."""
    told = messages.Child(progress)
    messages.connect(lambda message: told.take(message.decode()))
    module, *arguments = command
    importlib.import_module(module).main(*arguments)
    return child.Ended(0, (), told.result)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, dict[str, Any]]]:
    """By a family's name its checkpoint, the folder made of it, and its settings."""

    def make(home: Path) -> None:
        program = (
            "import pathlib, sys; from tests.fixtures_gptq import make_families as f; f(pathlib.Path(sys.argv[1]))"
        )
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(NANO.parents[2])}
        command = [sys.executable, "-c", program, str(home)]
        made = processes.run(command, check=False, capture_output=True, text=True, env=environment, cwd=home)
        assert made.returncode == 0, made.stderr

    home = once(tmp_path_factory, "families", make)

    def get(name: str) -> tuple[Path, Path, dict[str, Any]]:
        _, method, words = FAMILIES[name]
        return home / name / "Tiny", next(path for path in (home / name / method).iterdir() if path.is_dir()), words

    return get


def edit_config(folder: Path, **words: Any) -> None:
    """Change words of config.json's quantization_config; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] |= words
    config["quantization_config"] = {k: v for k, v in config["quantization_config"].items() if v is not None}
    path.write_text(json.dumps(config), encoding="utf-8")
