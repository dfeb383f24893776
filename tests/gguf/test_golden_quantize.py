"""Which type every tensor gets: llama-quantize's own choice, for every file type, without and with importance.

golden_quantize.json was written by tests/peer_quantize.py, which also compares the bytes with llama-quantize's; here
bytes are compared with ggml's encoders (test_quantized_files.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Role
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.stage import _prepare
from quantize.mixes import MIXES
from tests.fixtures_gguf import convert, source_inputs
from tests.peer_quantize import (
    GOLDEN,
    KINDS_VARIED,
    MODELS,
    NEEDS,
    VARIANTS,
    VARIED,
    random_imatrix,
    summary,
)

TABLES: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())


def test_the_tables_are_of_every_model_and_file_type() -> None:
    wanted = {f"{model}{weighted}: {kind}" for model in MODELS for weighted in ("", ", imatrix") for kind in MIXES}
    varied = {f"{model}, {variant}: {kind}" for model in VARIED for variant in VARIANTS for kind in KINDS_VARIED}
    assert set(TABLES) == wanted | varied


def check_types(folder: Path, title: str, kinds: Sequence[str], options: dict[str, Any]) -> None:
    """Those that llama-quantize makes have its types, those it refuses for want of importance weights have none."""
    inputs, made = source_inputs(folder), [kind for kind in kinds if NEEDS not in TABLES[f"{title}: {kind}"]]
    words = stage.Options.model_validate({"types": made, **options})
    assert [str(problem) for problem in stage.check(words, inputs)] == []
    for kind, (plan,) in zip(made, _prepare(words, inputs).text.volumes, strict=True):
        ours = summary((info.name, info.type.name) for info in plan.infos)
        assert ours == TABLES[f"{title}: {kind}"], kind
    if refused := [kind for kind in kinds if kind not in made]:
        (problem,) = stage.check(stage.Options.model_validate({"types": refused, **options}), inputs)
        *first, last = refused
        who = f"{', '.join(first)} and {last} need" if first else f"{last} needs"
        assert problem.got == f"{who} an imatrix, and there is none"


@pytest.mark.parametrize("name", MODELS)
def test_types_are_those_llama_quantize_chooses(name: str, tmp_path: Path) -> None:
    folder = MODELS[name](tmp_path / "Tiny")
    (file,) = convert(folder, tmp_path / "bf16", "BF16").of(Role.WEIGHTS)
    imatrix = random_imatrix(file.path, tmp_path / "imatrix.gguf")
    check_types(folder, name, list(MIXES), {})
    check_types(folder, f"{name}, imatrix", list(MIXES), {"imatrix": imatrix})
    for variant, (_, options) in VARIANTS.items() if name in VARIED else ():
        check_types(folder, f"{name}, {variant}", KINDS_VARIED, options)


def test_the_tables_hold_what_the_rules_are_about() -> None:
    """If no model had an early layer, shared value heads or eight experts, equal tables would prove little."""
    flat = {key: " ".join(table.values()) for key, table in TABLES.items()}
    assert "Q6_K" in TABLES["dense, tied: Q4_K_M"]["attn_v.weight"]
    assert re.fullmatch(r"2 Q5_K, 15 Q4_K", TABLES["dense, tied: Q3_K_M"]["attn_v.weight"])
    assert "Q4_K" in TABLES["dense, 4 query heads to a value head: Q2_K"]["attn_v.weight"]
    assert TABLES["8 experts: Q2_K"]["attn_v.weight"] == "9 Q8_0"
    assert TABLES["Falcon: Q3_K_M"]["ffn_down.weight"].startswith("1 Q5_K, 1 Q4_K, 2 Q3_K, 1 Q4_K")
    assert TABLES["Falcon: Q4_K_M"]["token_embd.weight"] == "1 Q8_0"
    latent = TABLES["latent attention, a dense layer first: Q4_K_M"]
    assert (latent["attn_k_b.weight"], latent["attn_v_b.weight"]) == ("9 Q5_0", "9 Q4_K")
    assert TABLES["a shared expert, biases: Q2_K"]["ffn_gate_inp_shexp.weight"] == "9 F32"
    assert "Q4_1" in flat["dense, tied, imatrix: Q4_0"]
    assert "Q4_1" not in flat["dense, tied: Q4_0"]
    assert "Q5_0" in flat["rows of 160 and 320 values: Q4_K_M"]
