"""To fsspec's file systems: a folder of ours, and a real S3 server where moto is installed; faults on the way."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from convert import retry
from convert.errors import PlanError, StageError
from convert.progress import Silent
from convert.release import object_store
from convert.release.verify import verify
from tests.release.test_release_folder import F16, Q8, publish

NAME = "Tiny-VL-GGUF"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket; its URL."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "AKIATEST1234", "AWS_SECRET_ACCESS_KEY": "verysecret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # moto keeps its buckets for as long as the process lives
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}/models"
    server.stop()


def fetched(url: str, to: Path) -> Path:
    system, path = object_store.open_store(f"{url}/{NAME}")
    system.get(path, str(to), recursive=True)
    return to


def test_a_release_on_s3_is_what_it_is_here(place: Path, measured: dict[str, str], s3: str, tmp_path: Path) -> None:
    assert publish(place, to=s3).repositories[0].state == "new"
    assert verify(fetched(s3, tmp_path / "one"), Silent()).findings == ()
    assert publish(place, to=s3).repositories[0].state == "unchanged"
    assert publish(place, to=s3, which=["F16"]).repositories[0].state == "changed"
    folder = fetched(s3, tmp_path / "two")
    assert verify(folder, Silent()).findings == ()
    assert not (folder / Q8).exists()
    assert not (folder / object_store.PARTIAL).exists()


def test_no_credential_is_in_a_file(place: Path, measured: dict[str, str], s3: str) -> None:
    publish(place, to=s3)
    assert not [p for p in place.rglob("*") if p.is_file() and b"verysecret" in p.read_bytes()]


def test_a_bucket_that_is_not_there(place: Path, measured: dict[str, str], s3: str) -> None:
    with pytest.raises(StageError, match=r"s3://nobody/Tiny-VL-GGUF: "):
        publish(place, to="s3://nobody")


class Failing:
    """put_file of a file system that fails a few times first."""

    def __init__(self, system: object, times: int, error: Exception) -> None:
        self.put, self.left, self.error, self.sent = system.put_file, times, error, list[str]()  # type: ignore[attr-defined]

    def __call__(self, local: str, remote: str, **words: object) -> None:
        if remote.endswith(".gguf") and self.left:
            self.left -= 1
            raise self.error
        self.sent.append(remote.rpartition("/")[2])
        self.put(local, remote, **words)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_a_server_that_is_busy_is_asked_again(
    place: Path, measured: dict[str, str], memory: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "put_file", Failing(memory, 3, OSError("503 Slow Down")))
    publish(place, to="memory://models")
    assert verify(fetched("memory://models", tmp_path / "x"), Silent()).findings == ()


def test_an_upload_that_broke_goes_on_where_it_was(
    place: Path, measured: dict[str, str], memory: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = Failing(memory, retry.ATTEMPTS, OSError("connection reset"))
    monkeypatch.setattr(memory, "put_file", broken)
    with pytest.raises(StageError, match=r"connection reset; run it again: what is there already"):
        publish(place, to="memory://models")
    assert not memory.exists(f"/models/{NAME}/SHA256SUMS"), "who finds the list finds all files"  # type: ignore[attr-defined]
    first = set(broken.sent)
    broken.sent.clear()
    publish(place, to="memory://models")
    assert {F16, Q8} <= set(broken.sent)
    assert not first & set(broken.sent)
    assert verify(fetched("memory://models", tmp_path / "x"), Silent()).findings == ()


def test_what_is_refused_for_good_is_asked_once(
    place: Path, measured: dict[str, str], memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Failing(memory, 99, PermissionError("no"))
    monkeypatch.setattr(memory, "put_file", refusing)
    with pytest.raises(StageError, match="may not be written to"):
        publish(place, to="memory://models")
    assert refusing.left == 98


def test_a_package_that_is_missing_is_named(
    place: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(PlanError, match=r"to: gs://b: ImportError: Install gcsfs .*stores"):
        publish(place, to="gs://b")
