"""Shards that trainers leave, gathered without the trainer: values, what is left out, what is hostile."""

from __future__ import annotations

import pickle
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from convert.bundle import Role
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source import distcp, rewrite
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import processes, tiny
from tests.fixtures_adapters import adapter, weights
from tests.fixtures_gguf import digests
from tests.fixtures_shards import DISTCP, zero


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.tiny_llama(tmp_path / "base", tied=False)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by torch, in two processes; config and tokenizer beside, as accelerate leaves them."""
    home = tmp_path_factory.mktemp("distcp")
    base = tiny.tiny_llama(home / "base", tied=False)
    with ExitStack() as stack:
        out = home / "m" / "pytorch_model_fsdp_0"
        commands = ([sys.executable, "-c", DISTCP, str(base), str(out), str(r), str(home / "store")] for r in (0, 1))
        running = [stack.enter_context(processes.started(command)) for command in commands]
        assert [one.wait(processes.LIMIT) for one in running] == [0, 0]
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, home / "m")
    return home


def without_weights(base: Path, folder: Path) -> Path:
    """What else a checkpoint has."""
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    return folder


def gathered(folder: Path, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The stage as a pipeline runs it."""
    asked = SourceOptions.model_validate({"path": folder, **options})
    assert [str(p) for p in source.check(asked, {})] == []
    planned = source.forecast(asked, {})
    assert gguf.check(gguf.Options(types=["F16"]), {"source": planned}) == []
    out.mkdir()
    bundle = source.run(asked, {}, out, Silent())
    assert [a.path.parent for a in bundle.of(Role.WEIGHTS)] == [out]
    return weights(out)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("frozen", ["none", "gate_proj"])
def test_zero_is_put_together(
    stage: int, frozen: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "BLOCK_VALUES", 700)
    wanted = weights(base)
    folder = without_weights(base, tmp_path / "m")
    zero(folder, wanted, stage, frozen=frozen)
    (folder / "config.json").write_text((base / "config.json").read_text())
    asked = SourceOptions(path=folder)
    assert any("gathered from" in note for note in source.notes(asked))
    out = tmp_path / "out"
    out.mkdir()
    source.run(asked, {}, out, Silent())
    found = weights(out)
    assert found.pop("a.buffer").tolist() == [0, 1, 2, 3]
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor.float()), name


def test_distcp_is_put_together(distributed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of rows and of columns, tensors that were whole; the optimizer's are left out."""
    monkeypatch.setattr(rewrite, "BLOCK_VALUES", 700)
    found, wanted = gathered(distributed / "m", tmp_path / "out"), weights(distributed / "base")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    files = []
    for number, folder in enumerate((distributed / "base", distributed / "m")):
        asked, out = SourceOptions(path=folder), tmp_path / f"gguf-{number}"
        out.mkdir()
        (out / "source").mkdir()
        bundle = source.run(asked, {}, out / "source", Silent())
        files.append(gguf.run(gguf.Options(types=["Q8_0"]), {"source": bundle}, out, Silent()).of(Role.WEIGHTS)[0])
    assert digests(files[0].path) == digests(files[1].path)


def test_an_adapter_on_shards(distributed: Path, tmp_path: Path) -> None:
    low = adapter(tmp_path / "a", distributed / "base")
    found = gathered(distributed / "m", tmp_path / "out", adapter={"path": tmp_path / "a"})
    module = "model.layers.0.mlp.down_proj"
    wanted = weights(distributed / "base")[f"{module}.weight"].float()
    wanted = wanted + 2 * low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]
    torch.testing.assert_close(found[f"{module}.weight"], wanted.bfloat16(), rtol=2**-8, atol=0)


def test_weights_beside_the_shards_count(base: Path, tmp_path: Path) -> None:
    """A trainer that saved the model too has said what it is."""
    zero(base, {name: tensor * 0 for name, tensor in weights(base).items()}, 2)
    bundle = source.run(SourceOptions(path=base), {}, tmp_path, Silent())
    assert [a.path for a in bundle.of(Role.WEIGHTS)] == [base / "model.safetensors"]


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def problem(folder: Path) -> str:
    (found,) = source.check(SourceOptions(path=folder), {})
    return str(found)


def test_a_hostile_index_runs_nothing(distributed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "m"
    shutil.copytree(distributed / "m", folder)
    (folder / distcp.HOMES[1] / distcp.INDEX).write_bytes(pickle.dumps(Evil()))
    assert "builtins.print" in problem(folder)
    assert "run" not in capsys.readouterr().out.split()


def test_a_hostile_rank_runs_nothing(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = without_weights(base, tmp_path / "m")
    zero(folder, weights(base), 2)
    path = folder / "global_step7" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"zero_stage": Evil()}}, path)
    assert "wants builtins.print" in problem(folder) or "cannot read it safely" in problem(folder)
    assert "run" not in capsys.readouterr().out.split()


def test_what_is_missing_is_named(base: Path, distributed: Path, tmp_path: Path) -> None:
    folder = without_weights(base, tmp_path / "m")
    zero(folder, weights(base), 3)
    home = folder / "global_step7"
    (home / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    assert "ends inside" in problem(folder)
    (home / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    assert "has 1 ranks' files and 3 of the model" in problem(folder)
    other = tmp_path / "other"
    shutil.copytree(distributed / "m", other)
    next((other / distcp.HOMES[1]).glob("*.distcp")).unlink()
    assert ".distcp" in problem(other)
