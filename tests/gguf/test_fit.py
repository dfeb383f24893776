"""`fit:`: files of a size, whose types lose least; what is refused, kept, forecast, and compared."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from convert.bundle import Bundle, Role
from convert.errors import ConvertError
from convert.estimate.amounts import size_in_bytes
from convert.estimate.fit import room_for_weights
from convert.estimate.setting import Setting
from convert.formats.gguf import fit_proof
from convert.formats.gguf.calibration_stage import STAGE as calibration
from convert.formats.gguf.fit_costs import types_for
from convert.formats.gguf.fit_proof import Judge, Proved
from convert.formats.gguf.memory import stored_file
from convert.formats.gguf.reader import read_gguf_header
from convert.formats.gguf.stage import STAGE as stage
from convert.progress import Silent
from quantize.mixes import file_type_of
from tests import tiny
from tests.fixtures_gguf import edit_weights, source_inputs
from tests.fixtures_gptq import source_bundle
from tests.parity.families import cases
from validate.kv_cache import CacheTypes


class Said(Silent):
    """What was noted and warned of."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


def made(words: dict[str, Any], inputs: dict[str, Bundle], out: Path, progress: Silent | None = None) -> Bundle:
    own = {"prove": False} if "fit" in words else {}
    options = stage.Options.model_validate({**own, "tokenizer_check": "warn", **words})
    assert not stage.check(options, inputs)
    out.mkdir(parents=True)
    return stage.run(options, inputs, out, progress or Silent())


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.type.name for t in read_gguf_header(path).tensors}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_llama(tmp_path_factory.mktemp("fit") / "Tiny", hidden=128, layers=3)


@pytest.fixture(scope="module")
def measured(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("measured")
    options = calibration.Options.model_validate({"samples": 6, "length": 48, "grams": False, "fisher": True})
    return calibration.run(options, {"source": source_bundle(llama)}, out, Silent())


# ---- words


@pytest.mark.parametrize(
    ("said", "wanted"),
    [(4_200_000, 4_200_000), ("4.2GB", 4_200_000_000), ("4.2 GiB", 4_509_715_661), ("500mb", 500_000_000)],
)
def test_sizes_are_bytes(said: object, wanted: int) -> None:
    assert size_in_bytes(said) == wanted


@pytest.mark.parametrize("said", ["GB", "-1GB", 0, True, "4.2GBit", 1.5])
def test_what_is_no_size_is_refused(said: object) -> None:
    with pytest.raises(ValueError, match=r"is no size, wanted bytes|is not an amount of memory"):
        size_in_bytes(said)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({}, "neither types nor fit"),
        ({"types": ["Q8_0"], "fit": {"bits": 4}}, "types and fit"),
        ({"fit": {"bits": 4, "like": "Q4_K_M"}}, "fit: bits and like, wanted one of"),
        ({"fit": {}}, "fit: no size"),
        ({"fit": {"bits": 4, "context": 9}}, "context without gpu"),
        ({"fit": {"file": "4X"}}, "'4X' is not an amount of memory"),
        ({"fit": {"gpu": "4GB", "kv": "q9_0"}}, "no cache of type 'q9_0'"),
        ({"fit": {"like": "Q4_K_X"}}, "'Q4_K_X' is not a type of files"),
        ({"fit": 4}, "4 is no fit"),
        ({"fit": {"bits": 4}, "pure": True}, "fit chooses types, and pure too"),
        ({"types": ["Q8_0"], "keep": {"output": "Q6_K"}}, "keep without fit"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stage.Options.model_validate(words)
    assert wanted in str(caught.value)


# ---- sizes


def test_the_file_is_as_large_as_asked_for_to_a_byte_at_most_and_half_a_hundredth_less(
    measured: Bundle, tmp_path: Path
) -> None:
    whole = next(iter(made({"types": ["Q5_0"]}, {"measured": measured}, tmp_path / "q5").of(Role.WEIGHTS))).size
    fits = [{"file": whole}, {"file": whole - 1}, {"bits": 6.5}, {"like": "Q4_0"}]
    found = made({"fit": fits}, {"measured": measured}, tmp_path / "fit")
    files = found.of(Role.WEIGHTS)
    budgets = [json.loads(a.path.read_text())["budget"] for a in found.of(Role.FIT)]
    assert budgets[:2] == [whole, whole - 1]
    for artifact, budget in zip(files, budgets, strict=True):
        assert isinstance(budget, int)
        assert artifact.path.stat().st_size == artifact.size
        assert 0.99 * budget <= artifact.size <= budget  # a few tensors: with as many as models have, 0.995
        tensors = read_gguf_header(artifact.path).tensors
        bits = 8 * sum(t.nbytes for t in tensors) / sum(prod(t.shape) for t in tensors)
        assert artifact.path.name.startswith(f"Tiny-{bits:.2f}bpw")
        assert artifact.kind == f"gguf/{bits:.2f}bpw"
    assert len({a.path.name for a in files}) == 4
    assert not list((tmp_path / "fit").glob("candidate*"))


def test_a_size_too_small_says_what_the_smallest_is_and_who_holds_it(llama: Path) -> None:
    options = stage.Options.model_validate({"fit": {"file": 20_000}, "keep": {"token_embd": "F16"}})
    (problem,) = stage.check(options, source_inputs(llama))
    text = str(problem)
    assert "file: 20000 is 20,000 bytes, and the smallest there is takes" in text
    assert "token_embd.weight 98,304" in text
    found = re.search(r"there is takes ([0-9,]+)", text)
    assert found
    smallest = int(found[1].replace(",", "").strip(","))
    assert not stage.check(
        stage.Options.model_validate({"fit": {"file": smallest}, "keep": {"token_embd": "F16"}}), source_inputs(llama)
    )
    options = stage.Options.model_validate({"fit": {"file": smallest - 1}, "keep": {"token_embd": "F16"}})
    assert stage.check(options, source_inputs(llama))


def test_a_plan_forecasts_the_largest(measured: Bundle, tmp_path: Path) -> None:
    options = stage.Options.model_validate({"fit": [{"bits": 5}, {"like": "Q6_K"}], "prove": False})
    forecast = stage.forecast(options, {"measured": measured})
    found = made({"fit": [{"bits": 5}, {"like": "Q6_K"}]}, {"measured": measured}, tmp_path / "fit")
    for said, there in zip(forecast.of(Role.WEIGHTS), found.of(Role.WEIGHTS), strict=True):
        assert 0.98 * said.size <= there.size <= said.size
    lines = "\n".join(stage.explain(options, {"measured": measured}))
    assert "fit bits: 5.0: at most" in lines
    rows = list(stage.tensor_types(options, {"measured": measured}))
    assert ("fit", "output_norm.weight", "F32", "vectors stay float32") in rows


def test_shards_together_take_no_more(measured: Bundle, tmp_path: Path) -> None:
    options = {"fit": {"bits": 12}, "split": "1MB", "name": "x"}
    bundle = made(options, {"measured": measured}, tmp_path / "fit")
    found, budget = bundle.of(Role.WEIGHTS), json.loads(bundle.of(Role.FIT)[0].path.read_text())["budget"]
    assert sum(a.size for a in found) <= budget
    if len(found) > 1:
        assert found[0].path.name.endswith(f"bpw-00001-of-{len(found):05}.gguf")


def test_a_gpus_memory_holds_weights_cache_and_buffers(measured: Bundle, tmp_path: Path) -> None:
    """What is left for weights is used; of a model whose head is its own the embedding is not in that memory."""
    folder = tiny.tiny_llama(tmp_path / "own-head", hidden=128, layers=2, tied=False)
    setting = Setting(64, CacheTypes.parse("f16"))
    memory = 5_000_000
    (file,) = made({"fit": {"gpu": memory, "context": 64}}, source_inputs(folder), tmp_path / "fit").of(Role.WEIGHTS)
    model = stored_file([file.path])
    room = room_for_weights(model, setting, memory)
    on_gpu = sum(w.nbytes for w in model.weights if w.name not in room.elsewhere)
    assert "token_embd.weight" in room.elsewhere
    assert on_gpu <= room.nbytes
    assert types_of(file.path)["token_embd.weight"] == "Q8_0"
    least = memory - room.nbytes + on_gpu // 4
    options = stage.Options.model_validate({"fit": {"gpu": least, "context": 64}})
    assert "the smallest there is takes" in str(stage.check(options, source_inputs(folder))[0])
    options = stage.Options.model_validate({"fit": {"gpu": 1000, "context": "16k", "kv": "q8_0"}})
    assert "1,000 bytes are less than what is needed beside the weights" in str(
        stage.check(options, source_inputs(folder))[0]
    )


# ---- choices


def test_hard_rules_are_kept_by_role_and_by_name(measured: Bundle, tmp_path: Path) -> None:
    keep = {"output": "Q8_0", "blk.1": "Q5_1"}
    (file,) = made({"fit": {"bits": 6}, "keep": keep}, {"measured": measured}, tmp_path / "fit").of(Role.WEIGHTS)
    types = types_of(file.path)
    assert types["token_embd.weight"] == "Q8_0"  # tied: the embedding is the output
    assert {k for n, k in types.items() if n.startswith("blk.1.") and "norm" not in n} == {"Q5_1"}


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        ({"attn_x": "Q8_0"}, "'attn_x' is about no tensor"),
        ({"attn_k": "Q6_K"}, "Q6_K, and blk.0.attn_k.weight has rows of 128"),
    ],
)
def test_hard_rules_that_fail_are_refused(llama: Path, keep: dict[str, str], wanted: str) -> None:
    options = stage.Options.model_validate({"fit": {"bits": 6}, "keep": keep})
    assert wanted in "\n".join(map(str, stage.check(options, source_inputs(llama))))


def test_more_bytes_cost_less_and_what_costs_most_gets_most_bits(measured: Bundle, tmp_path: Path) -> None:
    fits = [{"bits": bits} for bits in (5, 6, 8)]
    found = made({"fit": fits}, {"measured": measured}, tmp_path / "fit")
    reports = [json.loads(a.path.read_text()) for a in found.of(Role.FIT)]
    assert reports[0]["predicted"] > reports[1]["predicted"] > reports[2]["predicted"] > 0
    for report, artifact in zip(reports, found.of(Role.WEIGHTS), strict=True):
        assert report["bytes"] == artifact.size
        assert report["by"] == "gradients"
        assert sum(row["share"] for row in report["matrices"]) == pytest.approx(1)
        types = types_of(artifact.path)
        assert all(types[row["name"]] == row["type"] for row in report["matrices"])


def test_a_second_size_measures_nothing_again_and_equal_runs_give_equal_bytes(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made({"fit": {"bits": 6}}, {"measured": measured}, tmp_path / "one")
    from convert.model import sensitivity

    monkeypatch.setattr(sensitivity, "cost", lambda matrix: pytest.fail("measured again"))
    again = made({"fit": [{"bits": 6}, {"bits": 7}]}, {"measured": measured}, tmp_path / "two")
    assert again.of(Role.WEIGHTS)[0].sha256 == first.of(Role.WEIGHTS)[0].sha256


def test_without_calibration_every_error_counts_alike_and_that_is_said(llama: Path, tmp_path: Path) -> None:
    said = Said()
    found = made({"fit": {"bits": 6}}, source_inputs(llama), tmp_path / "fit", said)
    assert any("costs are guessed, by nothing: every error counts alike" in line for line in said.lines)
    (report,) = found.of(Role.FIT)
    assert json.loads(report.path.read_text())["by"] == "nothing: every error counts alike"


def test_an_importance_matrix_alone_is_used_and_said(measured: Bundle, llama: Path, tmp_path: Path) -> None:
    said = Said()
    matrix = measured.of(Role.IMATRIX)[0].path
    made({"fit": {"bits": 6}, "imatrix": str(matrix)}, source_inputs(llama), tmp_path / "fit", said)
    assert any("costs are guessed, by an importance matrix" in line for line in said.lines)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "phi3", "gpt2"])
def test_experts_and_matrices_that_are_cut_are_weighed_each_by_its_own(name: str, tmp_path: Path) -> None:
    """No tensor is left to what is usual for the others: all that gradients go through is found."""
    from convert.formats.gguf.fit_run import _known
    from convert.formats.gguf.fit_stage import Wanted
    from convert.formats.gguf.fit_weighing import weighings
    from convert.formats.gguf.stage import _prepare

    model = source_bundle(cases()[name].make(tmp_path / "model"))
    words = {"samples": 4, "length": 48, "grams": False, "fisher": True}
    (tmp_path / "kept").mkdir()
    bundle = calibration.run(calibration.Options.model_validate(words), {"s": model}, tmp_path / "kept", Silent())
    options = stage.Options.model_validate({"fit": {"bits": 6}})
    opened = Wanted((), {}, False, "", None).open(_prepare(options, {"s": bundle}), bundle)
    known = _known(bundle, opened)
    found = weighings(known, opened.free_tensors)
    for tensor in opened.free_tensors:
        for one in found[tensor.name]:
            assert one.rows is not None
            experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
            assert one.rows.shape == (experts, tensor.rows // experts), tensor.name
            assert len(np.unique(one.rows)) > 2, f"{tensor.name}: what is usual"
            assert one.squares.shape == (experts, tensor.row_values), tensor.name


def test_rows_that_are_rotated_are_weighed_where_they_went(measured: Bundle, llama: Path) -> None:
    """q of a Llama is permuted for llama.cpp's rope: so is what is known of its rows."""
    from convert.formats.gguf.fit_run import _known
    from convert.formats.gguf.fit_stage import Wanted
    from convert.formats.gguf.fit_weighing import weighings
    from convert.formats.gguf.stage import _prepare

    options = stage.Options.model_validate({"fit": {"bits": 6}})
    opened = Wanted((), {}, False, "", None).open(_prepare(options, {"s": measured}), measured)
    known = _known(measured, opened)
    assert known.fisher is not None
    rows = known.fisher.matrices["model.layers.0.self_attn.q_proj.weight"].rows[0]
    (got,) = weighings(known, opened.free_tensors)["blk.0.attn_q.weight"]
    assert got.rows is not None
    wanted = rows.reshape(4, 2, -1).swapaxes(1, 2).reshape(-1)  # llama.cpp's conversion/llama.py: pairs side by side
    assert np.array_equal(got.rows[0], wanted)
    assert not np.array_equal(got.rows[0], rows)


def test_types_that_rows_cannot_have_or_need_importance_are_left_out(measured: Bundle) -> None:
    from convert.formats.gguf.fit_stage import Wanted
    from convert.formats.gguf.stage import _prepare

    options = stage.Options.model_validate({"fit": {"bits": 6}})
    opened = Wanted((), {}, False, "", None).open(_prepare(options, {"s": measured}), measured)
    tensor = next(t for t in opened.free_tensors if t.row_values == 128)
    for weighted in (True, False):
        kinds = types_for(tensor, weighted=weighted)
        assert "Q4_0" in kinds
        assert not {"Q4_K", "F32", "TQ1_0"} & set(kinds)
    assert file_type_of("Q4_K") == 15
    assert file_type_of("IQ4_NL") == 25
    assert file_type_of("Q8_0") == 7


# ---- proof


def test_the_candidate_that_drifts_least_is_kept(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was predicted; the others are gone, and the report has them all."""
    seen: list[list[Path]] = []

    def prove(self: Judge, files: list[Path], out: Path, progress: Silent) -> list[Proved]:
        seen.append(list(files))
        return [Proved(1 / (1 + number), 0.0, 1.0, 7) for number in range(len(files))]

    monkeypatch.setattr(Judge, "prove", prove)
    found = made({"fit": {"bits": 6}, "prove": True}, {"measured": measured}, tmp_path / "fit")
    report = json.loads(found.of(Role.FIT)[0].path.read_text())
    assert len(seen[0]) == len(report["candidates"]) >= 2
    assert report["why"] == report["candidates"][-1]["why"]
    assert report["measured"]["kl"] == pytest.approx(1 / len(seen[0]))
    assert not any(path.exists() for path in seen[0])
    assert [path.name for path in (tmp_path / "fit").glob("*.gguf")] == [found.of(Role.WEIGHTS)[0].path.name]


@pytest.mark.parametrize("like", ["Q4_0", "Q5_1", "Q8_0"])
def test_a_usual_type_is_a_candidate_for_its_own_size(
    like: str, measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is kept is never worse; and its file is as large as that of the type itself, to the byte."""

    def prove(self: Judge, files: list[Path], out: Path, progress: Silent) -> list[Proved]:
        return [Proved(1.0, 0.0, 1.0, 7) for _ in files]

    monkeypatch.setattr(Judge, "prove", prove)
    found = made({"fit": {"like": like}, "prove": True}, {"measured": measured}, tmp_path / "fit")
    report = json.loads(found.of(Role.FIT)[0].path.read_text())
    assert f"as in {like}" in [one["why"] for one in report["candidates"]]
    (usual,) = made({"types": [like]}, {"measured": measured}, tmp_path / "usual").of(Role.WEIGHTS)
    assert found.of(Role.WEIGHTS)[0].size <= report["budget"] == usual.size


def test_candidates_are_compared_on_llama_cpp_with_rows_that_were_held_out(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_proof, "TOKENS", 96)
    said = Said()
    found = made({"fit": {"bits": 5}, "prove": True}, {"measured": measured}, tmp_path / "fit", said)
    report = json.loads(found.of(Role.FIT)[0].path.read_text())
    kls = [one["measured"]["kl"] for one in report["candidates"]]
    assert report["measured"]["kl"] == min(kls) > 0
    assert report["measured"]["tokens"] == 96
    assert any("predicted KL" in line and "of 96 tokens" in line for line in said.lines)


def test_a_source_in_gguf_is_refused(llama: Path, tmp_path: Path) -> None:
    from convert.source.stage import STAGE as source

    (file,) = made({"types": ["F16"]}, source_inputs(llama), tmp_path / "f16").of(Role.WEIGHTS)
    (tmp_path / "source").mkdir()
    bundle = source.run(source.Options(path=file.path), {}, tmp_path / "source", Silent())
    problems = stage.check(stage.Options.model_validate({"fit": {"bits": 6}}), {"source": bundle})
    assert "the source is a GGUF file" in "\n".join(map(str, problems))


def test_values_that_no_type_holds_are_one_error(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "nan", hidden=128, layers=1)

    def broken(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"][:, 0] = float("nan")

    edit_weights(folder, broken)
    with pytest.raises(ConvertError, match=r"tensor blk\.0\.ffn_down\.weight: has values that are not finite"):
        made({"fit": {"bits": 6}}, source_inputs(folder), tmp_path / "fit")
