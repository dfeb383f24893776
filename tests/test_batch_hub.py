"""A batch of models of the hub, one on this machine: downloaded, tried again while it is busy, let go of when made."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from convert.batch import failures
from convert.batch.api import prepare
from convert.batch.options import Limits
from convert.batch.request import request_of
from convert.events import Event
from convert.source import hub
from tests.test_hub import NAME, FakeHub
from tests.tiny import tiny_llama

RECIPE = "stages:\n  gguf: {use: gguf, types: [F16], tokenizer_check: warn}\n"


class BusyHub(FakeHub):
    """Answers the first questions with 429."""

    busy = 0

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/{NAME}") and BusyHub.busy:
            BusyHub.busy -= 1
            self.send_response(429)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine, for this process and those that it starts; the folder of the test."""
    FakeHub.files = tiny_llama(tmp_path / "served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BusyHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = str(tmp_path / "cache")
    for name, value in {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_CACHE": cache,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(failures, "FIRST_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_models_of_the_hub(served: Path) -> None:
    BusyHub.busy = 3  # one question each is about its size
    shutil.copytree(FakeHub.files, served / "Local")
    request = request_of([NAME, "org/none", "Local"], ["r.yaml"])
    batch = replace(prepare(request, "out", keep="outputs"), limits=Limits(jobs=1, downloads=1))
    events: list[Event] = []
    results = {result.name: result for result in batch.run(events.append)}
    assert {name: (r.status, r.failure) for name, r in results.items()} == {
        "tiny": ("made", ""),
        "none": ("failed", "broken"),
        "Local": ("made", ""),
    }
    assert "hub model org/none: is not on the hub, or private" in results["none"].reason
    retried = [(event.data["model"], event.data["failure"]) for event in events if event.kind == "model_retried"]
    assert retried
    assert set(retried) == {("tiny", "network")}
    assert (served / "out/tiny/gguf/tiny-F16.gguf").stat().st_size > 100_000
    said = [
        event.data["text"] for event in events if event.kind == "note" and "which the hub has" in event.data["text"]
    ]
    assert len(said) == 1
    assert hub.cached(NAME, "main") is None, "the source is let go of"
    assert (served / "Local/model.safetensors").is_file(), "and no folder of the user's"
