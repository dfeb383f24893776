"""compressed-tensors asks nothing of a library: every family that its roles allow is made, and comes back as the model.

The stage itself loads each folder again and looks: missing and unexpected keys, quantized modules that came back plain
or the other way round, numbers that are not finite. All in one process, which is not this one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from convert import architectures
from convert.formats.compressed.supports import supports_family
from tests import processes
from tests.fixtures_gptq import ENVIRONMENT, NANO
from tests.parity.families import cases, loadable, tried

TAKEN = [family.name for family in architectures.families() if supports_family(family).yes]
CASES = [name for name in tried(loadable()) if name.partition(",")[0] in TAKEN]
FIRST = {name.partition(",")[0]: name for name in reversed(CASES)}.values()
OTHERS = ({"scheme": "W8A8"}, {"scheme": "W4A16", "group_size": -1}, {"scheme": "W8A16", "group_size": -1})
IN_FLOATS = ({"scheme": "NVFP4"}, {"scheme": "MXFP4"}, {"scheme": "NVFP4A16"})
BLOCKS = {"NVFP4": 16, "MXFP4": 32, "NVFP4A16": 16}  # columns; tiny ones have rows of 40 or 48, which crash the library


def schemes(number: int, name: str, source: Path) -> list[dict[str, Any]]:
    """What a case is made in: variants in one scheme, a family's first in FP8, whole numbers and 4-bit floats."""
    if name not in FIRST:
        return [OTHERS[number % 3]]
    floats = [words for words in (IN_FLOATS[number % 3],) if _fits(source, BLOCKS[words["scheme"]])]
    return [{"scheme": "FP8_DYNAMIC"}, OTHERS[number % 3], *floats]


def _fits(source: Path, block: int) -> bool:
    """Whether every matrix has whole blocks in its rows."""
    from safetensors import safe_open

    with safe_open(source / "model.safetensors", "np") as opened:
        shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    return not any(shape[-1] % block for shape in shapes if len(shape) > 1)


def make(home: Path) -> None:
    """Folders of every such case; what went wrong with each is in said.json."""
    from convert import child
    from tests.fixtures_gptq import _run_here

    child.run = _run_here
    said: dict[str, list[str]] = {}
    for number, name in enumerate(CASES):
        place = home / str(number)
        place.mkdir()
        try:
            source = cases()[name].make(place / "Tiny")
            said[name] = [*_made(source, place, schemes(number, name, source)), *_names(source)]
        except Exception as error:
            said[name] = [f"{type(error).__name__}: {error}"]
    (home / "said.json").write_text(json.dumps(said), encoding="utf-8")


def _made(source: Path, place: Path, asked: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the folders: nothing, or the stage raises; every tensor that is kept has the source's name."""
    from safetensors import safe_open

    from convert.bundle import Role
    from convert.formats.compressed.compressed_stage import STAGE
    from convert.progress import Silent
    from convert.source.checkpoint import open_tensors
    from tests.fixtures_gptq import source_bundle

    inputs = {"source": source_bundle(source)}
    wanted = {name.removesuffix(".weight") for name in open_tensors(source)}  # without layers that only draft
    for words in asked:
        out = place / words["scheme"]
        out.mkdir()
        made = STAGE.run(STAGE.Options(threads=1, **words), inputs, out, Silent())
        with safe_open(made.of(Role.WEIGHTS)[0].path, "np") as opened:
            found = {name for name in opened.keys()}  # noqa: C416, SIM118
        parts = ("weight", "weight_scale", "weight_packed", "weight_shape", "weight_global_scale", "input_global_scale")
        plain = {name.rpartition(".")[0] if name.rpartition(".")[2] in parts else name for name in found}
        yield from (f"{words['scheme']}: {name}" for name in sorted(plain ^ wanted))


def _names(source: Path) -> Iterator[str]:
    """What is wrong with the words for what is kept, under the checkpoint's names and under transformers' own."""
    from compressed_tensors.utils.match import is_match
    from torch import nn

    from convert.formats.compressed.folder import canonical
    from convert.formats.compressed.straight import CompressedScheme, StraightLayout
    from convert.source.checkpoint import open_checkpoint
    from quantize.presets import PRESETS

    layout = StraightLayout(open_checkpoint(source), CompressedScheme.of(PRESETS["FP8_DYNAMIC"]))
    decision, ignore = layout.decision, list(layout.exclusions)
    linear = nn.Linear(1, 1)
    for modules, wanted in ((decision.quantized, True), (decision.kept, False)):
        for name in modules:
            if is_match(name, linear, ["Linear"], ignore) != wanted:
                yield f"{name} is {'' if wanted else 'not '}to be quantized, and is {'not ' if wanted else ''}matched"
    loaded = _transformers(source)
    for word in ignore:
        if not any(is_match(name, linear, word) for name in (*decision.kept, *loaded)):
            yield f"{word} matches nothing"
    quantized = {canonical(name) for name in decision.quantized}
    for name, module in loaded.items():
        if isinstance(module, nn.Linear):
            own = canonical(name)
            known = own in quantized or own.partition(".")[2] in quantized  # h.0 of transformer.h.0
            if is_match(name, module, ["Linear"], ignore) != known:
                yield f"transformers' {name} is {'' if known else 'not '}quantized, and is matched otherwise"


def _transformers(source: Path) -> Mapping[str, Any]:
    """The modules of transformers' model, without weights."""
    import torch
    import transformers

    from convert.model.hollow import auto_class

    config = transformers.AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        return dict(auto_class(config).from_config(config).named_modules())


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    home = tmp_path_factory.mktemp("compressed")
    program = "import pathlib, sys; from tests.test_compressed_families import make; make(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(NANO.parents[2])}
    command = [sys.executable, "-c", program, str(home)]
    made = processes.run(command, check=False, capture_output=True, text=True, env=environment, cwd=home)
    assert made.returncode == 0, made.stderr
    found: dict[str, list[str]] = json.loads((home / "said.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_family_comes_back_as_the_model_and_what_is_kept_is_said(case: str, said: dict[str, list[str]]) -> None:
    assert said[case] == []


def test_decoders_of_plain_matrices_are_taken_and_experts_in_one_tensor_are_not() -> None:
    assert {"llama", "bloom", "falcon", "llava", "gemma3_vision"} <= set(TAKEN)
    assert {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek2", "glm4_moe"} <= set(TAKEN)
    assert not {"gpt2", "gpt_oss", "granitemoe", "qwen3_vl_moe"} & set(TAKEN)
