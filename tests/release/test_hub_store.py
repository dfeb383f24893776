"""To a hub of our own that fails in every way: what is there in the end is what is here, and nothing was sent twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from convert import retry
from convert.cli import main
from convert.errors import StageError
from convert.release.release import Published
from tests.release import hub as hubs
from tests.release.test_release_folder import Q8, publish

ID = "Org/Tiny-VL-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.UploadHub]:
    with hubs.serving() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)  # another server's protocol
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


def send(place: Path, **options: object) -> Published:
    (one,) = publish(place, to="hf://Org/{name}", **options).repositories
    return one


def same(hub: hubs.UploadHub, one: Published) -> bool:
    """Whether the hub has every file of a release, with its hash, and no other."""
    there = {path: hashlib.sha256(raw).hexdigest() for path, raw in hub.repositories[ID].items()}
    sums = there.pop("SHA256SUMS")
    text = one.contents.texts["SHA256SUMS"].encode()
    return there == {p: h.sha256 for p, h in one.contents.hashes.items()} and sums == hashlib.sha256(text).hexdigest()


def test_all_in_one_commit_and_private_first(place: Path, measured: dict[str, str], hub: hubs.UploadHub) -> None:
    one = send(place)
    assert (one.state, one.where) == ("new", "hf://Org/Tiny-VL-GGUF")
    assert same(hub, one)
    assert len(hub.commits) == 1
    assert hub.private == {ID: True}
    card = hub.repositories[ID]["README.md"].decode()
    assert "llama-server -hf Org/Tiny-VL-GGUF:Q8_0" in card
    assert "model.yaml" in hub.repositories[ID]


def test_a_second_time_only_what_changed(place: Path, measured: dict[str, str], hub: hubs.UploadHub) -> None:
    send(place)
    sent = hub.received
    assert send(place).state == "unchanged"
    assert len(hub.commits) == 1
    one = send(place, tags=["more"])
    assert one.state == "changed"
    assert hub.received - sent < 60_000, "the weights went again"
    assert Q8 not in hub.commits[1]["operations"]
    assert same(hub, one)


def test_what_a_release_has_no_longer_goes_and_what_is_anothers_stays(
    place: Path, measured: dict[str, str], hub: hubs.UploadHub
) -> None:
    send(place)
    hub.repositories[ID]["their.txt"] = b"x"
    send(place, which=["F16"])
    assert Q8 not in hub.repositories[ID]
    assert hub.repositories[ID]["their.txt"] == b"x"


FAULTS = [
    ("POST", "/api/repos/create", "503"),
    ("POST", "/preupload/", "429"),
    ("POST", "/objects/batch", "503"),
    ("PUT", "/lfs/", "cut"),
    ("PUT", "/lfs/", "503"),
    ("PUT", "/lfs/", "429"),
    ("POST", "/commit/", "503"),
    ("POST", "/commit/", "429"),
    ("GET", "/tree/", "503"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[1].strip('/').replace('/', '-')}-{f[2]}")
def test_what_passes_is_tried_again(
    place: Path, measured: dict[str, str], hub: hubs.UploadHub, fault: tuple[str, str, str]
) -> None:
    hub.faults = [fault, fault]
    assert same(hub, send(place))
    assert not hub.faults
    assert len(hub.commits) == 1


def test_an_upload_that_was_cut_off_goes_on_where_it_was(
    place: Path, measured: dict[str, str], hub: hubs.UploadHub
) -> None:
    hub.faults = [("POST", "/commit/", "403")]
    with pytest.raises(StageError, match="the token may not write to Org"):
        send(place)
    sent = hub.received
    assert hub.commits == []
    assert sent > 100_000
    assert same(hub, send(place))
    assert hub.received == sent, "bytes that were there were sent again"


def test_a_hub_that_loses_a_bit_is_noticed(place: Path, measured: dict[str, str], hub: hubs.UploadHub) -> None:
    hub.faults = [("PUT", "/lfs/", "wrong")]
    with pytest.raises(StageError, match="has other bytes on the hub than here"):
        send(place)


def test_without_a_token(place: Path, measured: dict[str, str], hub: hubs.UploadHub, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(place / "no-token"))
    with pytest.raises(StageError, match=r"there is no token, wanted one that may write; `hf auth login`"):
        send(place)
    assert hub.asked == []


def test_the_token_is_in_no_file_and_no_message(
    place: Path, measured: dict[str, str], hub: hubs.UploadHub, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_anotherverysecrettoken")
    words = ["release", str(place / "r.yaml"), "--out", str(place / "out"), "--to", "hf://Org", "--which", "all", "-v"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "the token is not good" in done.output
    assert "secrettoken" not in done.output
    for path in place.rglob("*"):
        if path.is_file():
            assert b"secrettoken" not in path.read_bytes(), path


def test_a_dry_run_asks_nobody(place: Path, measured: dict[str, str], hub: hubs.UploadHub) -> None:
    words = ["release", str(place / "r.yaml"), "--out", str(place / "out"), "--to", "hf://Org", "--which", "all"]
    done = CliRunner().invoke(main, [*words, "--dry-run", "--json"])
    said = json.loads(done.output.splitlines()[-1])
    assert said["repositories"][0]["where"] == "hf://Org/Tiny-VL-GGUF"
    assert Q8 in said["repositories"][0]["files"]
    assert hub.asked == []


def test_secrets_are_taken_out_of_messages() -> None:
    said = retry.reason(ValueError("at https://x/y?X-Amz-Signature=abc&q=1 with hf_abcdefgh Bearer abc"))
    assert "abc" not in said
    assert "https://x/y" in said
