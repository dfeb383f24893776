"""The source stage: what it says of a checkpoint, what it hands on, and which files decide its key."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from convert.bundle import Bundle, Model, Role
from convert.errors import InputError
from convert.progress import Silent
from convert.source.checkpoint import open_bundle
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions as Options
from convert.source.stage import locate
from tests.hostile import BROKEN, BY_CONFIG, INDEX, split, unpacked, witness
from tests.tiny import tiny_llama, tiny_qwen2_5_vl

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("source") / "llama")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def names(bundle: Bundle, role: Role) -> list[str]:
    return [artifact.path.name for artifact in bundle.of(role)]


def pickle_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return state


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "by `path`"),
        ({"path": "a", "hub": "b/c"}, "by `path`"),
        ({"path": "a", "revision": "main"}, "belongs to `hub`"),
        ({"hub": "../../etc"}, "pattern"),
        ({"hub": "a/b/c"}, "pattern"),
        ({"hub": "a/b", "revision": "../../x"}, "pattern"),
        ({"hub": "a/b", "revision": "/etc/passwd"}, "pattern"),
        ({"path": "a", "name": "../x"}, "pattern"),
        ({"path": "a", "name": ".hidden"}, "pattern"),
        ({"path": "a", "pth": "b"}, "Extra inputs"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Options.model_validate(options)


def test_safetensors_stay_where_they_are(good: Path, tmp_path: Path) -> None:
    options = Options(path=good)
    assert source.check(options, {}) == []
    bundle = source.run(options, {}, tmp_path, Silent())
    assert bundle == source.forecast(options, {})
    assert bundle.model == Model("llama")
    assert [a.path for a in bundle.of(Role.WEIGHTS)] == [good / "model.safetensors"]
    assert names(bundle, Role.CONFIG) == ["config.json"]
    assert names(bundle, Role.TOKENIZER) == ["tokenizer.json", "tokenizer_config.json"]
    assert names(bundle, Role.GENERATION) == ["generation_config.json"]
    assert all(a.size == a.path.stat().st_size and not a.sha256 for _, a in bundle.artifacts())
    assert not list(tmp_path.iterdir())
    assert open_bundle(bundle).config["model_type"] == "llama"


def test_every_companion_of_a_vision_model_travels(tmp_path: Path) -> None:
    folder = tiny_qwen2_5_vl(tmp_path / "vl", shards=2)
    bundle = source.forecast(Options(path=folder), {})
    assert names(bundle, Role.PREPROCESSOR) == ["preprocessor_config.json"]
    assert names(bundle, Role.CHAT_TEMPLATE) == ["chat_template.json"]
    assert len(names(bundle, Role.WEIGHTS)) == 2
    on_disk = {path.name for path in folder.iterdir()}
    assert {artifact.path.name for _, artifact in bundle.artifacts()} == on_disk - {INDEX}
    assert {path.name for path in source.reads(Options(path=folder))} == on_disk  # the index decides the key too


def test_files_beside_do_not_change_the_key(folder: Path) -> None:
    before = source.reads(Options(path=folder))
    for name in ("notes.md", "optimizer.pt", "consolidated.safetensors", "model.gguf"):
        (folder / name).write_bytes(b"beside")
    assert source.reads(Options(path=folder)) == before


def test_pickled_weights_are_converted_into_the_output(folder: Path, tmp_path: Path) -> None:
    state = pickle_weights(folder)
    options, out = Options(path=folder), tmp_path / "out"
    out.mkdir()
    assert source.check(options, {}) == []
    forecast = source.forecast(options, {})
    assert [a.path for a in forecast.of(Role.WEIGHTS)] == [Path("model.safetensors")]
    bundle = source.run(options, {}, out, Silent())
    (weights,) = bundle.of(Role.WEIGHTS)
    assert weights.path == out / "model.safetensors"
    assert weights.sha256
    assert abs(weights.size - forecast.of(Role.WEIGHTS)[0].size) < 20_000
    assert bundle.of(Role.CONFIG) == forecast.of(Role.CONFIG)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(weights.path).items())
    assert open_bundle(bundle).tensors.keys() == state.keys()
    assert folder / "pytorch_model.bin" in source.reads(options)


def test_pickles_beside_safetensors_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"anything at all")
    assert source.check(Options(path=folder), {}) == []
    assert names(source.run(Options(path=folder), {}, tmp_path, Silent()), Role.WEIGHTS) == ["model.safetensors"]


def test_without_torch_a_pickle_asks_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle_weights(folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = source.check(Options(path=folder), {})
    assert "pip install 'convert-quantize-validate[pickle]'" in str(problem)


@pytest.mark.parametrize("case", sorted(BROKEN.keys() - BY_CONFIG))
def test_check_sees_every_broken_case(case: str, folder: Path) -> None:
    BROKEN[case](folder)
    problems = source.check(Options(path=folder), {})
    assert len(problems) == 1
    assert str(folder) in str(problems[0])
    assert not witness(folder).exists()


def test_check_names_all_it_finds(folder: Path) -> None:
    BROKEN["config_not_an_object"](folder)
    BROKEN["truncated"](folder)
    where = [Path(problem.where.partition(":")[0]).name for problem in source.check(Options(path=folder), {})]
    assert where == ["config.json", "model.safetensors"]


def test_no_such_folder(tmp_path: Path) -> None:
    (problem,) = source.check(Options(path=tmp_path / "none"), {})
    assert "does not exist" in str(problem)


def test_a_linked_tokenizer_does_not_travel(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    unpacked(folder / "tokenizer.json")
    (problem,) = source.check(Options(path=folder), {})
    assert "tokenizer.json" in problem.where
    with pytest.raises(InputError):
        source.reads(Options(path=folder))


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [("Fara-7B", "Fara-7B"), ("my model (v2)", "my-model-v2"), ("..hidden", "hidden"), ("模型", "model")],
)
def test_the_folder_names_the_model(folder_name: str, name: str, good: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(good, tmp_path / folder_name))
    assert source.forecast(Options(path=folder), {}).model.name == name
    (folder / "x").mkdir()
    assert source.forecast(Options(path=folder / "x/.."), {}).model.name == name


def test_a_hub_model(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    options = Options(hub="org/Tiny-1B")
    assert locate(options, download=False, progress=Silent()) is None
    assert source.check(options, {}) == []
    assert source.reads(options) == []
    assert source.forecast(options, {}) == Bundle(Model("Tiny-1B", "org/Tiny-1B"))
    with pytest.raises(InputError, match="is not there"):
        locate(options, download=True, progress=Silent())
    home = tmp_path / "models--org--Tiny-1B"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)
    for path in good.iterdir():
        shutil.copy(path, home / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert source.check(options, {}) == []
    bundle = source.run(options, {}, tmp_path, Silent())
    assert bundle.model == Model("Tiny-1B", "org/Tiny-1B", COMMIT)
    assert names(bundle, Role.WEIGHTS) == ["model.safetensors"]


def test_shards_in_order(folder: Path) -> None:
    split(folder)
    bundle = source.forecast(Options(path=folder, name="Other"), {})
    assert names(bundle, Role.WEIGHTS) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert bundle.model.name == "Other"
