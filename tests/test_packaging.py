"""What is published with the sources: workflows, the container, the lock file; and that none says where it was made."""

from __future__ import annotations

import getpass
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import processes

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def workflow(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def steps(path: Path) -> list[Any]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_is_there_and_has_few_rights(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [word for step in steps(path) for word in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))]
    assert set(made) <= targets
    found = workflow(path)
    assert found["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in found["jobs"].values())
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"]) for step in steps(path) if "uses" in step)


def test_publishing_needs_no_token() -> None:
    job = workflow(ROOT / ".github/workflows/publish.yml")["jobs"]["pypi"]
    assert job["permissions"] == {"id-token": "write"}
    assert job["environment"]["name"] == "pypi"
    assert "secrets." not in json.dumps(job)


def test_the_container_is_nobodys_and_installs_by_hash() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "slim" in last.splitlines()[0]
    assert "--require-hashes -r requirements.lock" in text
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_the_lock_has_a_hash_for_everything_and_the_tested_versions() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n\n")[0] if "\n\n" in text else text)
    named = [entry for entry in entries if PIN.match(entry)]
    assert len(named) > 100
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in named)
    tested = {name.lower(): version for name, version in PIN.findall((ROOT / "constraints.txt").read_text())}
    locked = {name.lower(): version for name, version in PIN.findall(text)}
    assert not {name for name, version in locked.items() if tested.get(name, version) != version}
    core = re.findall(
        r'^    "([a-z_.0-9-]+)[><=]', (ROOT / "pyproject.toml").read_text().partition("\n]")[0], re.MULTILINE
    )
    assert {name.replace("_", "-").replace(".", "-") for name in core} <= {name.replace("_", "-") for name in locked}


def test_no_source_says_where_it_was_made() -> None:
    """No folder of this machine, no user at this host, no zone of its time."""
    listed = processes.run(["git", "ls-files", "-z"], check=False, capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("no clone")
    words = [str(ROOT), f"{Path.home()}/", f"{getpass.getuser()}@", socket.gethostname(), "/home/runner/", "TZ="]
    words += [zone for zone in time.tzname if zone not in ("UTC", "GMT")]
    words = [word for word in words if len(word) > 2 and word not in ("localhost", "/root/", "root@")]
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        raw = path.read_bytes() if path.is_file() else b""
        held = [word for word in words if word.encode() in raw]
        found += [(name, word) for word in held if re.search(rb"(?<![\w-])" + re.escape(word.encode()), raw)]
    assert [pair for pair in found if pair[0] != "tests/test_packaging.py"] == []
