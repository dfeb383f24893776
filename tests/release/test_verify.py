"""A flipped bit anywhere in a release is found, and its file is named."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from convert.cli import main
from convert.errors import InputError
from convert.progress import Silent
from convert.release import folder_store
from convert.release.hashing import hash_file, part_bytes
from convert.release.sums import RELEASE, SUMS, read_sums
from convert.release.verify import Verified, repositories, verify
from tests.release.test_release_folder import F16, Q8, publish

FLIPS = 100


@pytest.fixture
def released(place: Path, measured: dict[str, str]) -> Path:
    """A repository that nothing links to."""
    publish(place)
    return Path(shutil.copytree(place / "to/Tiny-VL-GGUF", place / "copy"))


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


def look(folder: Path) -> Verified:
    return verify(folder, Silent())


def test_what_was_published_is_as_it_was(released: Path) -> None:
    found = look(released)
    assert found.findings == ()
    assert found.files == len(folder_store.files_in(released))


def test_random_bits_over_all_files(released: Path) -> None:
    """Of each file some, whatever its size: lists and texts too."""
    draw, files = random.Random(7), folder_store.files_in(released)
    for number in range(FLIPS):
        path = files[number % len(files)]
        bit = draw.randrange(8 * (released / path).stat().st_size)
        flip(released / path, bit)
        found = look(released)
        flip(released / path, bit)
        assert path in {finding.path for finding in found.findings}, f"bit {bit} of {path}"
        places = [f.first for f in found.findings if f.path == path and f.first]
        assert all(start <= bit // 8 < stop for start, stop in places)
        assert places or path == SUMS or "cannot be read" in found.findings[0].what


def test_every_bit_of_the_list_of_hashes(released: Path) -> None:
    """The list that nothing else has a hash of: what it says is held against the others."""
    path = released / SUMS
    raw = path.read_bytes()
    for place in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert SUMS in {finding.path for finding in look(released).findings}, raw[max(0, place - 20) : place + 20]


def test_the_place_of_a_change_is_named_by_its_tensor(released: Path) -> None:
    flip(released / Q8, 8 * ((released / Q8).stat().st_size - 40))
    (finding,) = look(released).findings
    assert finding.first is not None
    assert finding.first[1] - finding.first[0] <= part_bytes(1)
    assert re.match(r"tensor \S+", finding.inside)


@pytest.mark.parametrize("kind", ["cut", "grown", "gone", "more", "link"])
def test_other_damage(released: Path, kind: str) -> None:
    path = released / F16
    raw = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "more":
        path = released / "setup.py"
        path.write_text("import os")
    elif kind == "link":
        path.unlink()
        path.symlink_to("nowhere")
    else:
        path.write_bytes(raw[:-100] if kind == "cut" else raw + b"x")
    said = {f.path: f.what for f in look(released).findings}
    assert set(said) == {path.name}
    wanted = {"gone": "is missing", "more": "is no part of the release", "link": "is no file"}
    assert said[path.name] == wanted.get(kind, said[path.name])


def test_a_list_that_is_gone_is_named(released: Path) -> None:
    for name in (SUMS, RELEASE, "provenance.json"):
        kept = (released / name).read_bytes()
        (released / name).unlink()
        assert name in {f.path for f in look(released).findings}
        (released / name).write_bytes(kept)


def test_what_a_hub_puts_there_itself_is_no_finding(released: Path) -> None:
    (released / ".gitattributes").write_text("*.gguf filter=lfs\n")
    (released / ".cache/huggingface").mkdir(parents=True)
    (released / ".cache/huggingface/x.lock").touch()
    assert look(released).findings == ()


def test_paths_that_lead_elsewhere_are_no_paths() -> None:
    for path in ("../x", "/etc/passwd", "a/../b", "a//b"):
        with pytest.raises(ValueError, match="line 1"):
            read_sums(f"{'0' * 64}  {path}\n")


def test_the_command_names_the_file_and_ends_with_3(released: Path) -> None:
    run = CliRunner().invoke(main, ["verify", str(released)])
    assert (run.exit_code, run.output.count("all as published")) == (0, 1)
    flip(released / "LICENSE", 3)
    run = CliRunner().invoke(main, ["verify", str(released)])
    assert run.exit_code == 3
    assert "error: LICENSE: was changed, first in bytes 0 to 8\n" in run.output
    said = json.loads(CliRunner().invoke(main, ["verify", str(released), "--json"]).output.splitlines()[-1])
    assert said["repositories"][0]["findings"][0]["path"] == "LICENSE"


def test_a_folder_of_repositories_and_one_of_none(released: Path, tmp_path: Path) -> None:
    assert repositories(released.parent / "to") == [released.parent / "to/Tiny-VL-GGUF"]
    with pytest.raises(InputError, match="has no SHA256SUMS"):
        repositories(tmp_path)
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "nothing")]).exit_code == 1


def test_parts_cover_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for size in (0, 1, 65536, 65537, 3 * 65536):
        path.write_bytes(bytes(size))
        found = hash_file(path, Silent())
        assert len(found.parts) == -(-size // found.part_bytes)
    assert part_bytes(45_000_000_000) == 64 << 20


def test_a_rebuild_gives_the_same_bytes(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = released.parent
    monkeypatch.setattr("convert.formats.gguf.tokenizer_proof.prove_tokenizer", lambda *_: None)
    words = ["verify", str(released), "--rebuild", str(place / "r.yaml"), "--scratch", str(place / "scratch")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert f"{released}: 5 files made again, 5 of them equal" in done.output
    (place / "Tiny-VL/LICENSE").write_text("You may not.")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 3
    assert "error: LICENSE: is not what the recipe makes now, first in bytes 0 to 65,535" in done.output
