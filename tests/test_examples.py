"""The files of docs/examples, and the batch of its page: every command parses, every call has the words it says."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

import convert
from convert.batch.jobs import jobs_of
from convert.batch.request import request_of
from tests import processes
from tests.test_docs import DOCS, ROOT, Block, blocks, parse

EXAMPLES = DOCS / "examples"
CRON = re.compile(r"((?:[\d*,/-]+ ){5})(.+)")


def test_every_example_is_looked_at_here_and_told_on_a_page() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files == {"crontab", "batch-workflow.yaml", "airflow_batch.py", "slurm-batch.sh", "kuberay-batch.yaml"}
    page = "".join((DOCS / "how-to" / name).read_text() for name in ("batch.md", "cluster.md"))
    assert all(f"(../examples/{name})" in page for name in files)


def cron_commands(text: str) -> list[str]:
    """The commands of a crontab's lines. Raises AssertionError for a line that cron would refuse."""
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#") or re.fullmatch(r"[A-Z_]+=.*", line):
            continue
        match = CRON.fullmatch(line)
        assert match, f"cron reads no such line: {line}"
        ranges = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
        for part, (low, high) in zip(match[1].split(), ranges, strict=True):
            assert all(low <= int(number) <= high for number in re.findall(r"\d+", part)), line
        assert "%" not in match[2], "cron takes % for the end of a line"
        found.append(match[2])
    return found


def test_the_crontab() -> None:
    commands = cron_commands((EXAMPLES / "crontab").read_text())
    ours = [part.strip() for command in commands for part in command.split("&&") if part.strip().startswith("convert ")]
    assert len(ours) == 3
    for command in ours:
        parse(command)
    with pytest.raises(AssertionError):
        cron_commands("61 2 * * * convert status")
    with pytest.raises(click.UsageError):
        parse("convert batch x.yaml --no-such-option")


def test_the_workflow() -> None:
    workflow = YAML(typ="safe").load((EXAMPLES / "batch-workflow.yaml").read_text())
    assert {"name", "on", "jobs"} <= set(workflow)
    (job,) = workflow["jobs"].values()
    assert {"runs-on", "steps"} <= set(job)
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    commands = [step["run"] for step in job["steps"] if step.get("run", "").startswith("convert ")]
    assert len(commands) == 1
    parse(commands[0])
    cron_commands(f"{workflow['on']['schedule'][0]['cron']} x")


def test_the_slurm_script() -> None:
    """Bash reads it, Slurm's options are ones of sbatch, and the batch is one."""
    path = EXAMPLES / "slurm-batch.sh"
    processes.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    options = re.findall(r"^#SBATCH --([\w-]+)(?:=\S+)?$", text, re.MULTILINE)
    assert len(options) == text.count("#SBATCH")
    known = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "exclusive", "time", "signal"}
    assert set(options) <= known
    assert text.index("#SBATCH") < text.index("set -euo"), "sbatch reads no option behind the first command"
    (command,) = re.findall(r"^(convert batch .*) &$", text, re.MULTILINE)
    parse(command)


def test_the_kubernetes_objects() -> None:
    cluster, job = YAML(typ="safe").load_all((EXAMPLES / "kuberay-batch.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    pods = [*(group["template"]["spec"] for group in groups), job["spec"]["template"]["spec"]]
    (batch,) = job["spec"]["template"]["spec"]["containers"]
    parse(" ".join(batch["command"]))
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1, "the same versions everywhere"
    for pod in pods:
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in pod["containers"][0].get("volumeMounts", [])} == volumes
    name = cluster["metadata"]["name"]
    assert f"ray://{name}-head-svc:10001" in batch["command"]
    assert cluster["spec"]["rayVersion"].startswith("2.60")


class Mapped:
    """As much of a task of Airflow as the example takes: it runs where it stands."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.failed: list[str] = []

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def expand(self, **mapped: Any) -> None:
        ((name, values),) = mapped.items()
        assert name in inspect.signature(self.function).parameters
        for value in values:
            try:
                self.function(value)
            except RuntimeError as error:
                failed.append(str(error))


failed: list[str] = []


def airflow() -> ModuleType:
    def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        assert set(options) <= {"retries", "retry_delay", "execution_timeout"}
        return Mapped(function) if function else Mapped

    module = ModuleType("airflow.sdk")
    vars(module).update(dag=lambda **options: lambda function: function, task=task)
    return module


def test_the_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with a stand-in for Airflow, which is not installed here."""
    asked: list[inspect.BoundArguments] = []
    signature = inspect.signature(convert.batch)

    def batch(*arguments: Any, **words: Any) -> list[Any]:
        asked.append(signature.bind(*arguments, **words))
        rows = [("a", "passed", ""), ("b", "failed", "broken"), ("c", "missed", "top1 0.1")]
        return [SimpleNamespace(name=name, status=status, reason=reason) for name, status, reason in rows]

    monkeypatch.setitem(sys.modules, "airflow", ModuleType("airflow"))
    monkeypatch.setitem(sys.modules, "airflow.sdk", airflow())
    monkeypatch.setattr(convert, "batch", batch)
    failed.clear()
    spec = importlib.util.spec_from_file_location("airflow_batch", EXAMPLES / "airflow_batch.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert asked[0].arguments["models"] == Path("/data/models/nightly.yaml")
    assert failed == ["b: broken", "c: top1 0.1"]


# ---- the page


def titled(title: str) -> str:
    (block,) = (b for b in blocks("text") if b.page == "docs/how-to/batch.md" and b.title == title)
    return block.text


def test_the_batch_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("models/small", "more/tiny-A"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for title in ("models.csv", "models.txt", "gguf.yaml", "batch.yaml"):
        (tmp_path / title).write_text(titled(title))
    (tmp_path / "onnx.yaml").write_text("stages: {onnx: {use: onnx}}\n")
    for words in ([], ["models.txt"]):
        found = jobs_of(request_of(words, ["gguf.yaml"], [] if words else ["models.csv"]), tmp_path / "out")
        assert [job.name for job in found.jobs] == ["small", "Fara"], found.bad
        assert "near-lossless" in found.jobs[0].text
        assert "name: Fara-v2" in found.jobs[1].text
    found = jobs_of(request_of(["batch.yaml"]), tmp_path / "out")
    assert (found.problems, found.bad) == ([], [])
    assert {job.name for job in found.jobs} >= {"small-onnx", "tiny-A-onnx", "Fara-onnx", "Big-70B-onnx"}


def test_the_python_of_the_page_calls_what_there_is() -> None:
    found: list[Block] = [block for block in blocks("python") if block.page == "docs/how-to/batch.md"]
    assert len(found) == 2
    from convert.batch.results import ModelResult, Output

    for block in found:
        compile(block.text, block.page, "exec")
        fields = {*ModelResult.__dataclass_fields__, *dir(ModelResult)}
        assert set(re.findall(r"\bresult\.(\w+)", block.text)) <= fields
        assert set(re.findall(r"\boutput\.(\w+)", block.text)) <= set(Output.__dataclass_fields__)
        (call,) = re.findall(r"batch\((.*)\)", block.text)
        assert set(re.findall(r"(\w+)=", call)) <= set(inspect.signature(convert.batch).parameters)


def test_the_examples_are_in_no_package() -> None:
    assert not (EXAMPLES / "__init__.py").exists()
    assert EXAMPLES.is_relative_to(ROOT)
