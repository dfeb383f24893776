"""The program as a user runs it: a process of its own, a real (tiny) checkpoint, files on disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import processes
from tests.hostile import BROKEN
from tests.tiny import tiny_llama, tiny_qwen2_5_vl

RECIPE = "name: tiny\nmodel: {path: Tiny}\nstages:\n  gguf: {use: gguf, types: [F32, F16, BF16, Q8_0]}\n"


def convert(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *words]
    return processes.run(command, cwd=place, capture_output=True, text=True, check=False)


def outputs(place: Path) -> dict[str, str]:
    """sha256 of every file the run published, by its path."""
    files = [p for p in (place / "out/tiny").glob("*/*") if p.parent.name not in ("logs", ".convert") and p.is_file()]
    return {str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("model") / "Tiny")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "Tiny")


def placed(checkpoint: Path, place: Path) -> Path:
    shutil.copytree(checkpoint, place / "Tiny")
    (place / "tiny.yaml").write_text(RECIPE)
    return place


def test_run_and_run_again(vl: Path, tmp_path: Path) -> None:
    place = placed(vl, tmp_path)
    first = convert(place, "run", "tiny.yaml")
    assert first.returncode == 0, first.stderr
    made = outputs(place)
    names = {Path(p).name for p in made}
    assert names >= {"Tiny-F32.gguf", "Tiny-F16.gguf", "Tiny-BF16.gguf", "Tiny-Q8_0.gguf", "mmproj-Tiny-F16.gguf"}
    manifest = json.loads((place / "out/tiny/gguf/manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        path = place / ("Tiny" if artifact.get("outside") else "out/tiny/gguf") / artifact["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact["sha256"]
        assert path.stat().st_size == artifact["size"]
    again = convert(place, "run", "tiny.yaml")
    assert "nothing to do" in again.stdout
    assert outputs(place) == made


def test_the_plan_predicts_every_size_to_the_byte(vl: Path, tmp_path: Path) -> None:
    place = placed(vl, tmp_path)
    planned = json.loads(convert(place, "plan", "tiny.yaml", "--json").stdout)
    predicted = {s["name"]: s["write_bytes"] for s in planned["steps"]}
    convert(place, "run", "tiny.yaml")
    assert predicted["gguf"] == sum(p.stat().st_size for p in (place / "out/tiny/gguf").glob("*.gguf"))


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_input_is_one_message_and_no_file(llama: Path, tmp_path: Path, case: str) -> None:
    place = placed(llama, tmp_path)
    BROKEN[case](place / "Tiny")
    done = convert(place, "run", "tiny.yaml")
    assert done.returncode in (1, 2), done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not outputs(place)
    assert not list(place.glob("**/*.gguf"))


def test_inspect_reads_what_we_write(vl: Path, tmp_path: Path) -> None:
    place = placed(vl, tmp_path)
    convert(place, "run", "tiny.yaml", "-q")
    for path in (*sorted(place.glob("out/tiny/gguf/*.gguf")), place / "Tiny/model.safetensors"):
        done = convert(place, "inspect", str(path))
        assert done.returncode == 0, done.stderr
        assert path.name in done.stdout
    garbage = place / "x.gguf"
    garbage.write_bytes(b"GGUF" + bytes(range(200)))
    done = convert(place, "inspect", str(garbage))
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


SEVERAL = """name: tiny
model: {path: Tiny}
stages:
  gguf: {use: gguf, types: [F32, F16, BF16, Q8_0]}
  named: {use: gguf, types: [Q8_0, Q4_0], name: Other}
  pure: {use: gguf, types: [IQ4_NL, Q5_1], name: Pure, pure: true}
"""


def killed_run(place: Path, after: float, how: signal.Signals, *words: str) -> bool:
    """Start a run, end it after so many seconds; whether it was still running."""
    command = [sys.executable, "-m", "convert", "run", "tiny.yaml", *words]
    with processes.started(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(after)
        alive = process.poll() is None
        process.send_signal(how)
        process.wait(60)
    return alive


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_at_any_moment_and_run_again(vl: Path, tmp_path: Path, how: signal.Signals) -> None:
    kills = int(os.environ.get("CONVERT_TEST_KILLS", "4"))
    calm = placed(vl, tmp_path / "calm")
    started = time.monotonic()
    assert convert(calm, "run", "tiny.yaml").returncode == 0
    seconds = time.monotonic() - started
    place = placed(vl, tmp_path / "killed")
    moments = random.Random(int(how))
    for _ in range(kills):
        shutil.rmtree(place / "out", ignore_errors=True)
        killed_run(place, moments.uniform(0.1, seconds), how)
        for path in place.glob("out/tiny/gguf/*.gguf"):  # a final name is a whole file
            assert hashlib.sha256(path.read_bytes()).hexdigest() == outputs(calm)[str(path.relative_to(place))]
        done = convert(place, "run", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        made, wanted = outputs(place), outputs(calm)
        # The manifest of `source` names the checkpoint by its absolute path, which differs between the two places.
        assert {k: v for k, v in made.items() if k.endswith(".gguf")} == {
            k: v for k, v in wanted.items() if k.endswith(".gguf")
        }
        assert not list(place.glob("out/tiny/*.partial"))


def published(place: Path) -> dict[str, str]:
    """sha256 of every file of weights that a run published, by its path."""
    files = [path for path in (place / "out/tiny").rglob("*.gguf") if ".partial" not in str(path)]
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_with_several_steps_at_a_time(llama: Path, tmp_path: Path) -> None:
    """What is under a final name is whole, and a run that goes on gives the bytes of one that was let alone."""
    kills = int(os.environ.get("CONVERT_TEST_KILLS", "4"))
    calm, place = placed(llama, tmp_path / "calm"), placed(llama, tmp_path / "killed")
    for each in (calm, place):
        (each / "tiny.yaml").write_text(SEVERAL)
    started = time.monotonic()
    assert convert(calm, "run", "tiny.yaml", "--jobs", "1").returncode == 0
    seconds, wanted = time.monotonic() - started, published(calm)
    assert {path.split("/")[2] for path in wanted} == {"gguf", "named", "pure"}
    moments = random.Random(2)
    for _ in range(kills):
        shutil.rmtree(place / "out", ignore_errors=True)
        killed_run(place, moments.uniform(0.5, seconds), signal.SIGKILL, "--jobs", "2")
        for path, digest in published(place).items():
            assert wanted[path] == digest, path
        done = convert(place, "run", "tiny.yaml", "--jobs", "2")
        assert done.returncode == 0, done.stderr
        assert published(place) == wanted
        assert not list(place.glob("out/tiny/*.partial"))
