"""Runtimes in other environments: the documented protocol, and workers that do not keep to it."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from convert.bundle import Artifact, Bundle, Model
from convert.validation.outputs import outputs
from convert.validation.second import second_runtimes, versions_elsewhere
from convert.validation.stage import STAGE as stage
from validate import runtimes
from validate.errors import Killed, NotOnThisMachine, RuntimeFailure, Unsupported
from validate.runtimes import Ability, _elsewhere, _watchdog
from validate.runtimes._elsewhere import ElsewhereRuntime, ElsewhereSession, Environment, runtime_named
from validate.runtimes.vllm import WORKER, Vllm

PAGE = Path(__file__).parents[2] / "docs/extend/runtime-elsewhere.md"
EXAMPLE = re.findall(r'```python title="bytes_worker.py"\n(.*?)```', PAGE.read_text("utf-8"), re.S)[0]


def runtime(tmp_path: Path, worker: str, options: str = "{}") -> ElsewhereRuntime:
    path = tmp_path / "bytes_worker.py"
    path.write_text(worker, "utf-8")
    return runtime_named("bytes", Environment(Path(sys.executable), path, options))


def opened(tmp_path: Path, worker: str) -> ElsewhereSession:
    model = tmp_path / "model.safetensors"
    model.touch()
    session = runtimes.open_session(runtime(tmp_path, worker), model)
    assert isinstance(session, ElsewhereSession)
    return session


def answering(method: str, line: str) -> str:
    """The example, which runs a line of its own before it answers a method."""
    body = f'    if question["method"] == {method!r}:\n{textwrap.indent(line, "        ")}\n'
    return EXAMPLE.replace("    try:\n", f"{body}    try:\n", 1)


def test_the_documented_worker_is_a_runtime(tmp_path: Path) -> None:
    found = runtime(tmp_path, EXAMPLE)
    assert (found.available(), found.lacks(), found.NAME, found.ALSO_RUNS) == (None, None, "Bytes", ("gptq",))
    assert found.version() == "bytes-engine 1.0"
    assert len(EXAMPLE.splitlines()) < 75
    with opened(tmp_path, EXAMPLE) as session:
        assert session.identity().vocab == 256
        assert session.identity().end_of_generation == {10}
        tokens = session.tokenize("héllo")
        assert session.detokenize(tokens) == "héllo"
        logits = session.logits(np.array(tokens))
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, 8 * np.eye(256, dtype=np.float32)[tokens])
        logits[0] = 1  # what comes back is the caller's own
        assert session.generate(tokens, 2) == [111, 111]
        assert session.pieces()[65] == "A"
        assert session.can(Ability.GENERATE)
        for ability in (Ability.DECODE, Ability.RENDER, Ability.IMAGES):
            assert not session.can(ability)
        with pytest.raises(Unsupported):
            session.decode_logits(tokens)


def test_a_model_that_does_not_open_is_the_workers_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"no file .*none\.safetensors"):
        runtimes.open_session(runtime(tmp_path, EXAMPLE), tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("print('the engine fell over', flush=True); os._exit(3)", RuntimeFailure, "exit code 3 in logits.*fell over"),
        ("os.abort()", RuntimeFailure, "stopped by SIGABRT in logits"),
        ("os.kill(os.getpid(), 9)", Killed, "stopped by SIGKILL in logits"),
        (
            "replies.write(b'INFO loading\\n'); replies.flush()",
            RuntimeFailure,
            "answered 'INFO loading'; wanted",
        ),
        ("replies.write(b'{\"id\": 77}\\n'); replies.flush()", RuntimeFailure, "wanted an object with id"),
        ("replies.write(b'\\xff\\xfe' * 99 + b'\\n'); replies.flush()", RuntimeFailure, "wanted a line of JSON"),
        (
            'replies.write(b\'{"id": %d, "array": {"dtype": "float32", "shape": [99999999, 256]}}\\n\' '
            "% question['id']); replies.flush()",
            RuntimeFailure,
            r"wanted float32 or float16 of shape \[2, 256\]",
        ),
        (
            'replies.write(b\'{"id": %d, "array": {"dtype": "float32", "shape": [2, 256]}}\\nab\' '
            "% question['id']); replies.flush(); os._exit(0)",
            RuntimeFailure,
            "exit code 0 in logits",
        ),
        (
            'replies.write(b\'{"id": %d, "error": {"kind": "not_on_this_machine", "message": "no GPU"}}\\n\' '
            "% question['id']); replies.flush(); continue",
            NotOnThisMachine,
            "no GPU",
        ),
        (
            "replies.write(b'{\"id\": %d, \"error\": 7}\\n' % question['id']); replies.flush(); continue",
            RuntimeFailure,
            "answered the error 7",
        ),
    ],
)
def test_a_worker_that_breaks_is_a_failure_of_its_row(
    tmp_path: Path, line: str, kind: type[Exception], words: str
) -> None:
    with opened(tmp_path, answering("logits", line)) as session, pytest.raises(kind, match=f"(?s){words}") as told:
        session.logits([1, 2])
    assert type(told.value) is kind


def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watchdog, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(_watchdog, "IDLE_SECONDS", 1.0)
    hanging = opened(tmp_path, answering("logits", "import time; time.sleep(1000)"))
    with hanging as session, pytest.raises(RuntimeFailure, match="did nothing for 1 s in logits and was ended"):
        session.logits([1, 2])


@pytest.mark.parametrize(("child", "ended"), [("while True: pass", False), ("import time; time.sleep(1000)", True)])
def test_a_worker_whose_child_computes_is_not_idle_and_its_child_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, ended: bool
) -> None:
    monkeypatch.setattr(_watchdog, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(_watchdog, "IDLE_SECONDS", 1.0)
    line = (
        f"import subprocess as s, time; p = s.Popen([sys.executable, '-c', {child!r}], stdout=replies.fileno())\n"
        "open(os.path.join(os.path.dirname(sys.argv[0]), 'child'), 'w').write(str(p.pid)); time.sleep(3)"
    )
    with opened(tmp_path, answering("logits", line)) as session:
        if ended:  # the child holds the pipe of the answers open: it has to go too
            with pytest.raises(RuntimeFailure, match="did nothing for 1 s"):
                session.logits([1, 2])
        else:
            assert session.logits([1, 2]).shape == (2, 256)
    pid = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, "what a worker started outlives it"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_does_not_say_hello_is_told_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_elsewhere, "HELLO_SECONDS", 0.5)
    reason = runtime(tmp_path, "import time; time.sleep(1000)").available()
    assert reason is not None
    assert "gave no answer for 0 s in hello" in reason or "gave no answer for 1 s in hello" in reason


@pytest.mark.parametrize(
    ("python", "worker", "words"),
    [
        ("nowhere/python", "bytes_worker.py", "python is .*nowhere/python, which is no file"),
        (sys.executable, "no_worker.py", "worker is .*no_worker.py, which is no file"),
        ("bytes_worker.py", "bytes_worker.py", "bytes_worker.py does not start: Permission denied"),
    ],
)
def test_what_cannot_start_is_told(tmp_path: Path, python: str, worker: str, words: str) -> None:
    (tmp_path / "bytes_worker.py").write_text(EXAMPLE, "utf-8")
    found = runtime_named("bytes", Environment(tmp_path / python, tmp_path / worker))
    assert re.search(words, found.available() or "")


def test_a_python_without_vllm_says_how_to_install_it_there() -> None:
    reason = Vllm(Environment(Path(sys.executable), WORKER)).available()
    assert reason == f"vllm not installed in {sys.executable}: {sys.executable} -m pip install vllm"


def test_vllms_worker_refuses_options_that_it_does_not_know() -> None:
    for options in ('{"dtype": "int3"}', '{"tp": 2}'):
        reason = Vllm(Environment(Path(sys.executable), WORKER, options)).available()
        assert reason is not None
        assert "only dtype: one of bfloat16, float16, float32" in reason


# ---- in a recipe


def gptq_inputs(tmp_path: Path) -> dict[str, Bundle]:
    source = Bundle(Model("tiny"))
    return {"source": source, "gptq": source.with_(weights=Artifact("gptq/4-bit", tmp_path / "model.safetensors", 1))}


def words(tmp_path: Path, worker: str = EXAMPLE) -> dict[str, object]:
    (tmp_path / "bytes_worker.py").write_text(worker, "utf-8")
    return {"python": sys.executable, "worker": tmp_path / "bytes_worker.py"}


def test_a_worker_of_the_recipe_adds_a_row_and_its_versions_to_the_key(tmp_path: Path) -> None:
    options = stage.Options(runtimes={"bytes": words(tmp_path)}, also_on="bytes")
    rows = outputs(gptq_inputs(tmp_path), second_runtimes(options))
    assert [row.on for row in rows] == ["", "bytes"]
    assert versions_elsewhere(options) == stage.versions(options) == {"bytes: bytes-engine": "1.0"}
    assert tmp_path / "bytes_worker.py" in stage.reads(options)
    assert stage.versions(stage.Options(also_on="openvino")) == {}


@pytest.mark.parametrize(
    ("runtimes_", "told"),
    [
        ({"sglang": {"python": "p"}}, "sglang has no `worker`"),
        ({"openvino": {"python": "p"}}, "openvino runs in this environment only"),
        ({"vllm": {"python": "p", "worker": "w"}}, "vllm has a worker of its own"),
    ],
)
def test_what_cannot_live_elsewhere_is_refused(runtimes_: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        stage.Options(runtimes=runtimes_)


def test_vllm_that_is_nowhere_is_one_error_of_the_plan(tmp_path: Path) -> None:
    problems = stage.check(stage.Options(also_on="vllm"), gptq_inputs(tmp_path))
    (told,) = [str(problem) for problem in problems if "vllm" in str(problem)]
    assert "runtimes: {vllm; {python" not in told
    assert "vllm not installed here" in told
    assert "names the Python of an environment" in told
