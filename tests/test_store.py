"""A store that machines share: whole or not there, one maker at a time, bytes that are what their names say."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from convert import retry
from convert.errors import PlanError
from convert.progress import Silent
from convert.store import leases
from convert.store.cache import NodeCache, file_sha256
from convert.store.leases import Lease
from convert.store.objects import Objects
from convert.store.steps import StepStore, blob_name
from tests.fixtures_store import Faulty, bucket, environment, s3_server

KEY = "ab" + "0" * 62
FAULTY = Faulty(seed=3)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with s3_server(FAULTY) as url:
        yield url


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://store"
    server = request.getfixturevalue("server")
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server})
    fsspec.filesystem("s3").clear_instance_cache()
    FAULTY.rate = 0.0
    return bucket(server)


def folder_of(place: Path, name: str = "made", text: str = "weights") -> Path:
    folder = place / name
    (folder / "inner").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"of": "the step"}')
    (folder / "model.bin").write_text(text)
    (folder / "inner/words.txt").write_text("words")
    return folder


def test_objects(url: str, tmp_path: Path) -> None:
    objects = Objects(url)
    objects.check()
    assert objects.read("a/b") is None
    assert objects.size("a/b") is None
    assert objects.create("a/b", b"one")
    assert not objects.create("a/b", b"two"), "what is there stays"
    assert objects.read("a/b") == b"one"
    objects.write("a/b", b"three")
    (tmp_path / "file").write_bytes(b"bytes")
    assert objects.put(tmp_path / "file", "x/y")
    assert not objects.put(tmp_path / "file", "x/y"), "the same again is not sent"
    objects.get("x/y", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"bytes"
    objects.remove("a/b")
    objects.remove("a/b")
    assert objects.read("a/b") is None


def test_a_step_is_there_whole_or_not(url: str, tmp_path: Path) -> None:
    store, folder = StepStore(Objects(url)), folder_of(tmp_path)
    assert store.find(KEY) is None
    assert store.publish(KEY, folder, {})
    assert not store.publish(KEY, folder, {}), "twice is the same as once"
    found = store.find(KEY)
    assert found is not None
    assert store.bring(found, tmp_path / "here", Silent())
    names = ("manifest.json", "model.bin", "inner/words.txt")
    assert all((tmp_path / "here" / n).read_bytes() == (folder / n).read_bytes() for n in names)


def test_nothing_is_named_before_all_of_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    objects = Objects(str(tmp_path / "store"))
    put, sent = objects.put, list[str]()

    def breaks(file: Path, name: str) -> bool:
        if sent:
            raise ConnectionResetError(104, "gone")
        sent.append(name)
        return put(file, name)

    monkeypatch.setattr(objects, "put", breaks)
    with pytest.raises(ConnectionResetError):
        StepStore(objects).publish(KEY, folder_of(tmp_path), {})
    there = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path / "store").as_posix() for path in there] == sent


def test_what_is_damaged_is_told_and_mended(url: str, tmp_path: Path) -> None:
    store, folder = StepStore(Objects(url)), folder_of(tmp_path)
    store.publish(KEY, folder, {})
    name = blob_name(file_sha256(folder / "model.bin"))
    store.objects.write(name, b"weighty")  # of the same size
    found = store.find(KEY)
    assert found is not None
    assert not store.bring(found, tmp_path / "here", Silent())
    store.publish(KEY, folder, {}, anew=True)
    assert store.bring(found, tmp_path / "there", Silent())
    store.objects.write(f"steps/ab/{KEY}", b"{")
    assert store.find(KEY) is None


def test_a_store_that_fails_now_and_then(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third request is refused, half of those after it was done: none is lost, and none done in part."""
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"endpoint_url": server, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    )
    fsspec.filesystem("s3").clear_instance_cache()
    store = StepStore(Objects(bucket(server)))
    FAULTY.rate = 0.3
    try:
        store.publish(KEY, folder_of(tmp_path), {})
        found = store.find(KEY)
        assert found is not None
        assert store.bring(found, tmp_path / "here", Silent())
    finally:
        FAULTY.rate = 0.0
    assert any(status == 503 for _, _, status in FAULTY.asked)


@pytest.mark.parametrize(
    ("error", "said"),
    [(PermissionError("denied"), "check the credentials"), (FileNotFoundError("no bucket"), "make the bucket first")],
)
def test_a_store_without_rights(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **words: Any) -> None:
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "pipe_file", refuse)
    with pytest.raises(PlanError, match=rf"--store: memory://store cannot be written to \(.*\); {said}"):
        Objects("memory://store").check()


# ---- leases


def test_one_of_many_makes_it(url: str) -> None:
    taken: list[Lease] = []

    def take() -> None:
        lease = Lease(Objects(url), f"leases/{KEY}", Silent())
        if lease.take():
            taken.append(lease)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == 1
    taken[0].release()
    after = Lease(Objects(url), f"leases/{KEY}", Silent())
    assert after.take()
    after.release()
    assert Objects(url).read(f"leases/{KEY}") is None


def lease_of(objects: Objects, **words: Any) -> None:
    words = {"owner": "x", "beat": 0, "host": "elsewhere", "process": 1, "boot": "b"} | words
    objects.write("lease", json.dumps(words).encode())


def test_a_lease_that_is_not_beaten_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, now = Objects(str(tmp_path)), [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    lease = Lease(objects, "lease", Silent())
    lease_of(objects)
    assert not lease.take()
    assert lease.holder == "elsewhere, process 1"
    now[0] += leases.STALE_SECONDS - 1
    lease_of(objects, beat=1)
    assert not lease.take(), "it was beaten"
    now[0] += leases.STALE_SECONDS - 1
    assert not lease.take()
    now[0] += 2
    assert lease.take()
    lease.release()


def test_a_process_of_this_machine_can_be_seen(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    here = {"host": socket.gethostname(), "boot": leases.BOOT.read_text().strip()}
    lease_of(objects, **here, process=os.getpid())
    assert not Lease(objects, "lease", Silent()).take()
    lease_of(objects, **here, process=2**22 + 1)
    lease = Lease(objects, "lease", Silent())
    assert lease.take(), "at once: it is gone"
    lease.release()


def test_a_lease_is_beaten_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    objects = Objects(str(tmp_path))
    lease = Lease(objects, "lease", Silent())
    assert lease.take()
    deadline = threading.Event()
    while json.loads(objects.read("lease") or b"{}")["beat"] < 2:
        assert not deadline.wait(0.01)
    lease._stop.set()
    assert lease._beats is not None
    lease._beats.join(60)
    lease_of(objects, owner="another")
    lease.release()
    assert objects.read("lease") is not None, "another's is left to him"


# ---- what a machine keeps


def bring(text: str) -> Any:
    return lambda path: path.write_text(text)


def test_a_cache_lets_go_of_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 10)
    for number, name in enumerate("abc"):
        cache.put_at(name, 4, tmp_path / f"{name}.1", bring(name * 4))
        os.utime(tmp_path / "cache/used" / name, (number, number))
        if name != "c":
            (tmp_path / f"{name}.1").unlink()
    assert sorted(p.name for p in (tmp_path / "cache/blobs").iterdir()) == ["b", "c"]
    cache.put_at("b", 4, tmp_path / "b.2", bring("not asked for"))
    assert (tmp_path / "b.2").read_text() == "bbbb"
    cache.empty()
    assert sorted(p.name for p in (tmp_path / "cache/blobs").iterdir()) == ["b", "c"], "what is in use frees nothing"
    (tmp_path / "b.2").unlink()
    cache.empty()
    assert [p.name for p in (tmp_path / "cache/blobs").iterdir()] == ["c"]


def test_a_step_is_brought_once_to_a_machine(tmp_path: Path) -> None:
    store = StepStore(Objects(str(tmp_path / "store")), NodeCache(tmp_path / "cache"))
    sha, folder = file_sha256(folder_of(tmp_path) / "model.bin"), tmp_path / "made"
    store.publish(KEY, folder, {})
    store.objects.remove(blob_name(sha))
    found = store.find(KEY)
    assert found is not None
    assert store.bring(found, tmp_path / "here", Silent())
    assert (tmp_path / "here/model.bin").stat().st_ino == (folder / "model.bin").stat().st_ino
