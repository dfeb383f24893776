"""`refine: true`: which Gram matrix goes with which tensor, what a file says, what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from convert.bundle import Bundle, Role
from convert.formats.gguf import writer
from convert.formats.gguf.calibration_stage import STAGE as calibration
from convert.formats.gguf.refinement import column_order
from convert.formats.gguf.stage import STAGE as stage
from convert.formats.gguf.tensors import StreamedTensor
from convert.model.statistics import measured_matrices
from convert.progress import Silent
from convert.source.checkpoint import LazyTensor
from tests import processes, tiny
from tests.fixtures_gguf import read_gguf
from tests.fixtures_gptq import source_bundle
from tests.parity.families import every_case

ROWS = {"samples": 6, "length": 48, "threads": 1}


class Notes(Silent):
    """What a stage says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def measure(folder: Path, out: Path, **words: Any) -> Bundle:
    options = calibration.Options.model_validate({**ROWS, **words})
    out.mkdir(parents=True)
    return calibration.run(options, {"source": source_bundle(folder)}, out, Silent())


def make(measured: Bundle, out: Path, *types: str, progress: Silent | None = None, **words: Any) -> Bundle:
    options, inputs = stage.Options(types=list(types), **words), {"measured": measured}
    assert [str(p) for p in stage.check(options, inputs)] == []
    out.mkdir(parents=True)
    made = stage.run(options, inputs, out, progress or Silent())
    forecast = stage.forecast(options, inputs)
    assert [a.size for a in forecast.of(Role.WEIGHTS)] == [a.path.stat().st_size for a in made.of(Role.WEIGHTS)]
    return made


def values(bundle: Bundle, number: int = 0) -> dict[str, np.ndarray]:
    """float64 (experts, rows, columns) of the matrices of a file, by gguf-py."""
    _, tensors = read_gguf(bundle.of(Role.WEIGHTS)[number].path)
    found = {n: gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for n, t in tensors.items()}
    return {n: v[None] if v.ndim == 2 else v for n, v in found.items() if v.ndim > 1}


def errors(made: np.ndarray, wanted: np.ndarray, gram: np.ndarray) -> float:
    return float(((made - wanted) @ gram * (made - wanted)).sum())


def ratios(measured: Bundle, place: Path, kind: str) -> dict[str, float]:
    """Tensor, and expert -> the squared error of its outputs, refined over not refined."""
    wanted = values(make(measured, place / "wanted", "F32"))
    plain = values(make(measured, place / "plain", kind, pure=True))
    refined = values(make(measured, place / "refined", kind, pure=True, refine=True))
    found = {}
    for name, inputs in measured_matrices(measured).items():
        if np.array_equal(plain[name], wanted[name]):  # a router, which stays in float32
            continue
        for expert in range(inputs.experts):
            if (seen := inputs.gram(expert)) is None:
                assert np.array_equal(refined[name][expert], plain[name][expert])
                continue
            gram = seen[0].numpy().astype(np.float64)
            before, after = (errors(made[name][expert], wanted[name][expert], gram) for made in (plain, refined))
            found[f"{name} {expert}"] = after / before
    assert not any(np.array_equal(refined[n.split()[0]], plain[n.split()[0]]) for n in found)
    untouched = wanted.keys() - measured_matrices(measured).keys()
    assert all(np.array_equal(refined[name], plain[name]) for name in untouched)
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("model") / "Tiny", hidden=256, layers=2)


@pytest.fixture(scope="module")
def measured(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return measure(llama, tmp_path_factory.mktemp("measured") / "out")


# ---- the right Gram matrix for every tensor


def test_every_matrix_of_a_llama_is_better_its_rows_permuted_for_rope(measured: Bundle, tmp_path: Path) -> None:
    found = ratios(measured, tmp_path, "Q4_0")
    assert len(found) == 14
    assert max(found.values()) < 0.5


def test_each_expert_is_refined_by_what_the_router_sent_it(tmp_path: Path) -> None:
    folder = tiny.tiny_qwen3_moe(tmp_path / "Tiny")
    measured = measure(folder, tmp_path / "measured")
    found = ratios(measured, tmp_path, "Q4_0")
    experts = {name: ratio for name, ratio in found.items() if "_exps" in name}
    assert len(experts) > 30
    assert max(experts.values()) < 0.7


def test_matrices_that_are_stored_transposed_meet_their_inputs(tmp_path: Path) -> None:
    """As GPT-2 has them, q, k and v in one."""
    folder = every_case()["gpt2"].make(tmp_path / "Tiny")
    found = ratios(measure(folder, tmp_path / "measured"), tmp_path, "Q8_0")
    assert len(found) > 7
    assert max(found.values()) < 0.8, found


def _stored(name: str, shape: tuple[int, ...], **words: Any) -> StreamedTensor:
    from convert.architectures._graph_spec import OutputTensor

    view = words.get("view")
    output = OutputTensor(name, shape, view, transposed=words.get("transposed", False))
    return StreamedTensor(output, LazyTensor("w", words["source"], "F32", lambda: np.zeros(words["source"]), "f"))


def test_the_order_of_columns() -> None:
    """As they are, of a slice, transposed, in another order; none where rows became columns."""
    as_is = _stored("a", (6, 8), source=(6, 8))
    assert column_order(as_is, 8) is not None
    assert column_order(as_is, 6) is None
    part = _stored("a", (3, 8), source=(6, 8), view=lambda w: w[3:])
    assert np.array_equal(column_order(part, 8), np.arange(8))  # type: ignore[arg-type]
    turned = _stored("a", (6, 8), source=(8, 6), view=lambda w: w.T, transposed=True)
    assert np.array_equal(column_order(turned, 8), np.arange(8))  # type: ignore[arg-type]
    mixed = _stored("a", (6, 8), source=(6, 8), view=lambda w: w.reshape(6, 2, 4).swapaxes(1, 2))
    assert column_order(mixed, 8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]  # type: ignore[union-attr]
    heads = _stored("a", (2, 8, 3), source=(6, 8), view=lambda w: w.reshape(2, 3, 8).swapaxes(1, 2))
    assert column_order(heads, 8) is None  # attention's k_b: what it is given is not what was heard
    assert column_order(heads, 3) is None


# ---- what a file says


def test_a_refined_file_says_so_and_another_does_not(measured: Bundle, tmp_path: Path) -> None:
    said = Notes()
    refined = make(measured, tmp_path / "refined", "Q4_K_M", "F16", progress=said, refine=True)
    plain = make(measured, tmp_path / "plain", "Q4_K_M", "F16")
    fields = [read_gguf(a.path)[0] for bundle in (refined, plain) for a in bundle.of(Role.WEIGHTS)]
    assert [f.get("quantize.encoder") for f in fields] == ["error feedback", None, None, None]
    names = [[a.path.name for a in bundle.of(Role.WEIGHTS)] for bundle in (refined, plain)]
    assert names == [["Tiny-refined-Q4_K_M.gguf", "Tiny-refined-F16.gguf"], ["Tiny-Q4_K_M.gguf", "Tiny-F16.gguf"]]
    assert refined.of(Role.WEIGHTS)[1].sha256 == plain.of(Role.WEIGHTS)[1].sha256
    assert not refined.of(Role.STATISTICS)
    lines = "\n".join(said.notes)
    assert "refined: 12 matrices in Q4_K, squared errors of their outputs 0." in lines
    assert "not refined: 'token_embd.weight': nothing was measured" in lines


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_the_number_of_threads(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    import torch

    usual = make(measured, tmp_path / "usual", "Q3_K_M", refine=True)
    monkeypatch.setattr(writer, "cores", lambda: threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        other = make(measured, tmp_path / "other", "Q3_K_M", refine=True)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert usual.of(Role.WEIGHTS)[0].sha256 == other.of(Role.WEIGHTS)[0].sha256


# ---- what is refused


def test_a_source_that_was_not_measured_is_refused(llama: Path, measured: Bundle, tmp_path: Path) -> None:
    asked = stage.Options(types=["Q4_0"], refine=True)
    (problem,) = map(str, stage.check(asked, {"source": source_bundle(llama)}))
    assert "'source' has no Gram matrices" in problem
    assert "use: calibration" in problem
    options = calibration.Options.model_validate({**ROWS, "grams": False})
    forecast = calibration.forecast(options, {"source": source_bundle(llama)})
    (problem,) = map(str, stage.check(asked, {"few": forecast}))
    assert "say `grams: true` in 'few'" in problem
    sums = stage.needs(stage.Options(types=["Q4_0"]), {"measured": measured}, measured)
    assert stage.needs(asked, {"measured": measured}, measured).memory_bytes > sums.memory_bytes


# ---- the whole of it


RECIPE = """
name: r
model: {path: Tiny}
stages:
  calibration: {use: calibration, samples: 8, length: 64, threads: 1}
  plain: {use: gguf, from: calibration, types: [Q2_K], name: plain}
  refined: {use: gguf, from: calibration, types: [Q2_K], name: refined, refine: true}
validate:
  tokens: 256
"""


def test_llama_cpp_runs_a_refined_file_and_it_drifts_less(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "Tiny")
    (tmp_path / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "convert", "run", "r.yaml", "-j", "1"]
    done = processes.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: two bits of a model of random weights drift much
    report = json.loads((tmp_path / "out/r/validate/report.json").read_text())
    drift = {o["label"]: o["metrics"]["kl_mean"] for o in report["outputs"]}
    assert drift["refined-Q2_K.gguf"] < 0.8 * drift["plain-Q2_K.gguf"], drift
