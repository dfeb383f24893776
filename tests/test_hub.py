"""The hub: its cache is read without a network, a fake one is downloaded from, and one message says what is missing."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from convert.errors import InputError
from convert.progress import Silent
from convert.source import hub
from convert.source.checkpoint import open_checkpoint
from tests.hostile import split
from tests.tiny import tiny_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hub") / "llama")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that may not be asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def fill(cache: Path, good: Path, ref: str = "main") -> Path:
    """Put the checkpoint into the cache as huggingface_hub does: blobs, links to them, and a ref."""
    home = cache / "models--org--tiny"
    snapshot = home / "snapshots" / COMMIT
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(good.iterdir())):
        shutil.copy(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (home / "refs" / ref).write_text(COMMIT)
    return snapshot


def test_found_in_the_cache(cache: Path, good: Path) -> None:
    snapshot = fill(cache, good)
    assert hub.cached(NAME, "main") == hub.cached(NAME, COMMIT) == snapshot
    assert hub.locate(NAME, "main", download=False, progress=Silent()) == snapshot
    assert open_checkpoint(snapshot).tensors


def test_a_moving_name_resolves_to_a_commit(cache: Path, good: Path) -> None:
    fill(cache, good)
    assert hub.resolve_revision(NAME, "main") == COMMIT
    assert hub.resolve_revision(NAME, "f" * 40) == "f" * 40
    assert hub.resolve_revision(NAME, "v1.0") == ""
    (cache / "models--org--tiny/refs/main").write_text("../../elsewhere")
    assert hub.resolve_revision(NAME, "main") == ""


def test_a_snapshot_without_a_shard_is_not_cached(cache: Path, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "shards")
    split(tmp_path / "shards")
    snapshot = fill(cache, tmp_path / "shards")
    assert hub.cached(NAME, "main") == snapshot
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    assert hub.cached(NAME, "main") is None
    with pytest.raises(InputError, match=r"is not whole there .*model-00002-of-00002"):
        hub.locate(NAME, "main", download=True, progress=Silent())


def test_a_snapshot_of_companions_only_is_not_cached(cache: Path, good: Path) -> None:
    (fill(cache, good) / "model.safetensors").unlink()
    assert hub.cached(NAME, COMMIT) is None


def test_offline_says_where_it_looked_and_what_to_do(cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        hub.locate("microsoft/Fara-7B", "main", download=True, progress=Silent())
    for part in (str(cache), "HF_HUB_OFFLINE", "hf download microsoft/Fara-7B --revision main", "HF_HOME"):
        assert part in str(caught.value)


def test_no_network_is_one_quick_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    started = time.monotonic()
    with pytest.raises(InputError, match="the download failed") as caught:
        hub.locate(NAME, "main", download=True, progress=Silent())
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        ("model.safetensors pytorch_model.bin tf_model.h5", "model.safetensors"),
        (
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json "
            "consolidated.safetensors pytorch_model.bin.index.json pytorch_model-00001-of-00001.bin",
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        ),
        (
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json training_args.bin optimizer.pt",
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
        ),
        ("onnx/model.onnx original/model.safetensors original/params.json evil.py", ""),
        (
            "tokenizer.model merges.txt LICENSE.md chat_template.jinja additional_chat_templates/tool.jinja x.gguf",
            "tokenizer.model merges.txt LICENSE.md chat_template.jinja additional_chat_templates/tool.jinja",
        ),
    ],
)
def test_what_is_downloaded(present: str, taken: str) -> None:
    beside = ["README.md", "config.json"]
    assert sorted(hub.wanted([*present.split(), *beside])) == sorted([*taken.split(), *beside])


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP as a download takes: the model's info, its tree, and its files."""

    files: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in (f"/api/models/{NAME}/revision/main", f"/api/models/{NAME}/revision/{COMMIT}"):
            siblings = [{"rfilename": p.name} for p in self.files.iterdir()]
            self.answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in self.files.iterdir()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.answer((self.files / name).read_bytes(), ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if NAME not in path else "RevisionNotFound")
            self.end_headers()

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def online(cache: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine; returns the folder whose files it serves."""
    FakeHub.files = Path(shutil.copytree(good, tmp_path / "served"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield FakeHub.files
    server.shutdown()
    server.server_close()


class Counting(Silent):
    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, what: str, total: int, unit: str = "B") -> None:
        self.total, self.done = total, 0

    def advance(self, amount: int) -> None:
        self.done += amount


def test_download(online: Path, good: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (online / "tf_model.h5").write_bytes(b"not wanted")
    progress = Counting()
    folder = hub.locate(NAME, "main", download=True, progress=progress)
    assert folder.name == COMMIT
    assert {p.name for p in folder.iterdir()} == {p.name for p in good.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (good / "model.safetensors").read_bytes()
    assert hub.cached(NAME, "main") == folder
    assert progress.done == progress.total == sum(p.stat().st_size for p in good.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "revision", "says"), [("no/body", "main", "not on the hub"), (NAME, "v9", "no revision v9")]
)
def test_download_of_what_is_not_there(online: Path, name: str, revision: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        hub.locate(name, revision, download=True, progress=Silent())
