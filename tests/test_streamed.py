"""A model that stays on the hub: its files are those of a download, through every fault of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from pydantic import ValidationError

from convert.bundle import Role
from convert.cli import main
from convert.errors import InputError
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source import remote
from convert.source.checkpoint import open_tensors
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import tiny
from tests.fixtures_adapters import adapter, weights
from tests.fixtures_gguf import convert, edit_weights
from tests.fixtures_packed import packed
from tests.fixtures_server import COMMIT, NAME, Hub, serving

OPTIONS = SourceOptions(hub=NAME, revision=COMMIT, stream=True)
TYPES = ("Q8_0", "F16")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A tiny model on a server, nobody waits."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    folder = tiny.tiny_llama(tmp_path / "Tiny", tied=False)
    with serving(folder) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(remote, "sleep", found.append)
    return found


def made(out: Path, options: SourceOptions = OPTIONS) -> list[bytes]:
    """The files of the pass, as a pipeline makes them."""
    source.fetch(options, Silent())
    assert [str(p) for p in source.check(options, {})] == []
    words, inputs = gguf.Options(types=list(TYPES)), {"source": source.forecast(options, {})}
    assert [str(p) for p in gguf.check(words, inputs)] == []
    (out / "source").mkdir(parents=True)
    bundle = source.run(options, {}, out / "source", Silent())
    return [a.path.read_bytes() for a in gguf.run(words, {"source": bundle}, out, Silent()).of(Role.WEIGHTS)]


def downloaded(hub: Hub, out: Path) -> list[bytes]:
    return [a.path.read_bytes() for a in convert(hub.folder, out, *TYPES).of(Role.WEIGHTS)]


def of_no_origin(files: list[bytes]) -> list[bytes]:
    """The tensors' bytes: the header says where a model is from."""
    return [raw[-100_000:] for raw in files]


def test_files_are_those_of_a_download(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    assert not source.fetched(OPTIONS)
    found = made(tmp_path / "out")
    assert source.fetched(OPTIONS)
    assert of_no_origin(found) == of_no_origin(downloaded(hub, tmp_path / "plain"))
    size = (hub.folder / "model.safetensors").stat().st_size
    assert hub.sent < 1.5 * size, "every byte of the weights about once, for all types together"
    here = list((tmp_path / "cache").rglob("*.safetensors"))
    assert [path.stat().st_size for path in here] == [size]
    assert sum(path.stat().st_blocks * 512 for path in here) < size / 2, "a hole in the place of the weights"
    assert waits == []
    assert set(hub.tokens) == {"Bearer secret"}
    assert "secret" not in "".join(p.read_text() for p in (tmp_path / "cache").rglob(".streamed.json"))


@pytest.mark.parametrize(
    ("fault", "times"), [("cut", 5), ("short", 7), ("nothing", 3), ("429", 2), ("503", 3), ("500", 1)]
)
def test_it_goes_on_where_it_stopped(fault: str, times: int, hub: Hub, waits: list[float], tmp_path: Path) -> None:
    source.fetch(OPTIONS, Silent())
    hub.once(fault, times)
    found = made(tmp_path / "out")
    assert of_no_origin(found) == of_no_origin(downloaded(hub, tmp_path / "plain"))
    assert len(waits) == times
    if fault == "429":
        assert waits == [7, 7], "as long as the server asks for"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("changed", "is another file now: ETag '\"another\"'"),
        ("grown", "is another file now"),
        ("whole", "answers 200 where a range was asked for"),
        ("shifted", "sends the range"),
    ],
)
def test_another_file_is_refused(fault: str, message: str, hub: Hub, waits: list[float], tmp_path: Path) -> None:
    """In the middle of the pass; nothing of it is left to be taken for a model."""
    source.fetch(OPTIONS, Silent())
    bundle = source.forecast(OPTIONS, {})
    calls = [0]

    def later(path: str, span: str) -> str:
        calls[0] += 1
        return fault if calls[0] > 3 else ""

    hub.fault = later
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        gguf.run(gguf.Options(types=["F16"]), {"source": bundle}, tmp_path, Silent())
    assert waits == []
    assert list(tmp_path.glob("*.gguf")) == []


def test_a_server_that_is_gone(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    source.fetch(OPTIONS, Silent())
    hub.once("nothing", 1000)
    with pytest.raises(InputError, match=r"then nothing in 8 tries"):
        gguf.run(gguf.Options(types=["F16"]), {"source": source.forecast(OPTIONS, {})}, tmp_path, Silent())
    assert waits == [0.5, 1, 2, 4, 8, 16, 32]


def test_who_may_not_read_it_is_told(hub: Hub, waits: list[float]) -> None:
    hub.gated = True
    with pytest.raises(InputError, match=r"403 Forbidden.*accept the model's licence"):
        source.fetch(OPTIONS, Silent())
    assert waits == []
    hub.gated = False
    with pytest.raises(InputError, match="404 Not Found"):
        source.fetch(SourceOptions(hub="Org/Other", stream=True), Silent())


def test_a_strangers_list_is_not_followed(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    """A folder that says itself that its bytes are on some server is read as what it is."""
    folder = tiny.tiny_llama(tmp_path / "stranger", tied=False)
    wanted = open_tensors(folder)["model.norm.weight"].load().tobytes()
    file = folder / "model.safetensors"
    remote.write_list(folder, {file.name: remote.RemoteFile(f"{hub.url}/elsewhere", "etag", file.stat().st_size)})

    assert remote.remote_of(file) is None
    assert open_tensors(folder)["model.norm.weight"].load().tobytes() == wanted
    assert not hub.asked


def test_a_branch_is_remembered(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    options = SourceOptions(hub=NAME, stream=True)
    assert source.reads(options) == []
    made(tmp_path / "out", options)
    count = len(hub.asked)
    assert source.fetched(options)
    assert source.reads(options)[0].name == ".streamed.json"
    assert len(hub.asked) == count, "a plan asks nobody"
    assert source.forecast(options, {}).model.revision == COMMIT


def test_a_quantized_model_and_wrapped_names(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    folder, _ = packed(tmp_path / "p", "fp8 in blocks")
    edit_weights(folder, lambda tensors: {f"_orig_mod.{name}": t for name, t in tensors.items()})
    hub.folder = folder
    assert of_no_origin(made(tmp_path / "out")) == of_no_origin(downloaded(hub, tmp_path / "plain"))


def test_an_adapter_on_it(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    adapter(tmp_path / "a", hub.folder)
    found = []
    for number, where in enumerate(({"hub": NAME, "revision": COMMIT, "stream": True}, {"path": hub.folder})):
        options = SourceOptions.model_validate({**where, "adapter": {"path": tmp_path / "a"}})
        source.fetch(options, Silent())
        (tmp_path / str(number)).mkdir()
        source.run(options, {}, tmp_path / str(number), Silent())
        found.append(weights(tmp_path / str(number)))
    assert found[0].keys() == found[1].keys()
    assert all(bool((found[0][name] == found[1][name]).all()) for name in found[0])


def test_a_whole_run_and_who_needs_the_files_here(hub: Hub, waits: list[float], tmp_path: Path) -> None:
    model = {"hub": NAME, "revision": COMMIT, "stream": True}
    recipe = tmp_path / "r.yaml"
    words: dict[str, Any] = {"name": "x", "model": model, "stages": {"a": {"use": "gguf", "types": ["Q8_0"]}}}
    recipe.write_text(json.dumps(words))
    run = CliRunner().invoke(main, ["run", str(recipe), "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "x" / "a" / "Tiny-Q8_0.gguf").is_file()
    again = CliRunner().invoke(main, ["plan", str(recipe), "--out", str(tmp_path / "out")])
    assert "up to date" in again.output, again.output
    for changes, message in (
        ({"stages": {"a": {"use": "fp8"}}}, "gives streamed weights, wanted a safetensors checkpoint; leave `stream"),
        ({"validate": {}}, "the reference needs them here"),
    ):
        recipe.write_text(json.dumps(words | changes))
        assert message in CliRunner().invoke(main, ["plan", str(recipe), "--out", str(tmp_path / "out")]).output


def test_a_folder_is_not_streamed() -> None:
    with pytest.raises(ValidationError, match="`stream` belongs to `hub`"):
        SourceOptions(path=Path("m"), stream=True)
