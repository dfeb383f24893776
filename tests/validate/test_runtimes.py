"""What every runtime has to do, and what happens when native code does not survive a file."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from convert.progress import Silent
from tests import processes
from tests.fixtures_validate import folder, rewritten, tiny_text, tiny_vision, weights
from validate import runtimes
from validate.runtimes import (
    Ability,
    NotOnThisMachine,
    RuntimeFailure,
    Unsupported,
    _llama_api,
    _watchdog,
    llama_cpp,
    transformers,
)
from validate.runtimes._isolated import IsolatedSession
from validate.runtimes._llama_log import Log

__all__ = ["tiny_text", "tiny_vision"]  # fixtures


@pytest.fixture(scope="module")
def reference(tiny_text: dict[str, Bundle]) -> Iterator[Any]:
    with runtimes.open_session(transformers.RUNTIME, folder(tiny_text)) as session:
        yield session


@pytest.fixture(scope="module")
def candidate(tiny_text: dict[str, Bundle]) -> Iterator[Any]:
    with runtimes.open_session(llama_cpp.RUNTIME, weights(tiny_text, "F32").path, context=64) as session:
        yield session


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_has_the_shape(name: str) -> None:
    runtime = runtimes.load(name)
    assert runtime.NAME
    assert runtime.FORMATS or runtime.ALSO_RUNS
    assert isinstance(runtime.ISOLATED, bool)
    assert runtime.available() is None or any(way in runtime.available() for way in ("pip install", "npm install"))
    assert runtime.available() or any(character.isdigit() for character in runtime.version())
    for format_ in runtime.FORMATS:
        assert runtimes.for_format(format_) is runtime
    for format_ in runtime.ALSO_RUNS:
        assert runtimes.for_format(format_) not in (runtime, None)
    lack = runtime.lacks()
    assert lack is None or (lack and "pip install" not in lack), "what can be installed is no lack of the machine"


def test_no_runtime_is_made_up() -> None:
    assert runtimes.for_format("punch cards") is None


@pytest.mark.parametrize("name", ["validate.runtimes._worker", *(f"validate.runtimes.{n}" for n in runtimes.names())])
def test_importing_a_runtime_imports_no_library(name: str) -> None:
    heavy = "{'torch', 'transformers', 'xllamacpp', 'onnx', 'onnxruntime', 'openvino', 'convert'}"
    code = f"import sys, {name}; sys.exit(' '.join({heavy} & sys.modules.keys()) or 0)"
    processes.run([sys.executable, "-c", code], check=True)


def test_both_sides_answer_the_same_questions_alike(reference: Any, candidate: Any) -> None:
    text = "Click the button, don't wait 12 seconds."
    ids = reference.tokenize(text)
    assert candidate.tokenize(text) == ids
    assert candidate.detokenize(ids) == reference.detokenize(ids) == text
    wanted, got = reference.logits(ids), candidate.logits(ids)
    assert wanted.shape == got.shape == (len(ids), reference.identity().vocab)
    assert wanted.dtype == got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    np.testing.assert_allclose(candidate.decode_logits(ids), wanted, atol=2e-5)
    assert candidate.generate(ids, 12) == reference.generate(ids, 12)
    for prompts in ([ids[:4], ids[2:6], ids[5:9]], [ids, ids[:3], ids[4:5]]):  # of one length, and of several
        alone = [reference.generate(prompt, 12) for prompt in prompts]
        assert candidate.generate_all(prompts, 12) == reference.generate_all(prompts, 12) == alone
    np.testing.assert_allclose(candidate.logits(ids), got, atol=1e-6)  # what was written before leaves nothing behind
    messages = [{"role": "user", "content": "hello"}]
    assert candidate.render(messages, None, True) == reference.render(messages, None, True)


def test_a_window_starts_with_an_empty_cache_and_may_be_longer_than_asked(candidate: Any) -> None:
    first = candidate.logits([5, 6, 7])
    longer = candidate.logits(list(range(10, 310)))
    assert longer.shape[0] == 300
    np.testing.assert_array_equal(candidate.logits([5, 6, 7]), first)
    first[0, 0] = 1.0  # what comes back is the caller's own


def test_bad_questions_are_errors_and_not_the_end(candidate: Any) -> None:
    for tokens in ([], [10**6], [-1]):
        with pytest.raises(RuntimeFailure):
            candidate.logits(tokens)
    for ask in (
        lambda: candidate.image_embeddings(np.zeros((28, 28, 3), np.uint8)),
        lambda: candidate.image_tokens(28, 28),
    ):
        with pytest.raises(Unsupported, match="no projector"):
            ask()
    assert candidate.logits([1]).shape[0] == 1


def test_images_through_the_projector(tiny_vision: dict[str, Bundle]) -> None:
    from validate import vision

    projector = tiny_vision["gguf"].roles["projector"][0].path  # type: ignore[index]
    with (
        runtimes.open_session(transformers.RUNTIME, folder(tiny_vision)) as reference,
        runtimes.open_session(llama_cpp.RUNTIME, weights(tiny_vision, "F16").path, projector=projector) as candidate,
    ):
        assert reference.identity().has_vision
        assert candidate.identity().has_vision
        assert reference.image_tokens(280, 196) == candidate.image_tokens(280, 196) == 70
        assert reference.identity().pixel_limits == candidate.identity().pixel_limits == (3136, 200704)
        seen = vision.ask(reference, "drawing", vision.drawing())  # type: ignore[arg-type]
        image = vision.compare_image(seen, candidate)
        assert not image.resized
        assert image.tokens == 70
        assert image.cosine_min > 0.99999
        assert image.kl < 1e-5
        assert image.next_reference == image.next_candidate
        pixels = [vision.drawing(), vision.drawing(140, 84)]
        prompts = [seen.prompt, reference.image_prompt("Another, longer question for the batch?")]  # type: ignore[attr-defined]
        together = reference.image_generate(prompts, pixels, 6)
        alone = [reference.image_generate([p], [x], 6)[0] for p, x in zip(prompts, pixels, strict=True)]
        assert together == alone == candidate.image_generate(prompts, pixels, 6)


def test_pixel_limits_of_another_type_are_none(tiny_vision: dict[str, Bundle], tmp_path: Path) -> None:
    """Reading a number of another type would end the process."""
    projector = tiny_vision["gguf"].roles["projector"][0].path  # type: ignore[index]
    assert _llama_api.pixel_limits(projector) == (3136, 200704)
    for changed in (None, "many"):
        path = rewritten(projector, tmp_path / "mmproj.gguf", {"clip.vision.image_max_pixels": None})
        if changed:
            path.write_bytes(path.read_bytes().replace(b"clip.vision.projector_type", b"clip.vision.image_max_pixels"))
        assert _llama_api.pixel_limits(path) is None
    (tmp_path / "broken.gguf").write_bytes(projector.read_bytes()[:1000])
    assert _llama_api.pixel_limits(tmp_path / "broken.gguf") is None


def test_what_llama_cpp_says_behind_a_session_is_heard_by_nobody(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    """Its log outlives every session: a callback that went with one would be freed memory."""
    import gc

    with llama_cpp.RUNTIME.open(weights(tiny_text, "F32").path, context=16, threads=1):
        pass
    gc.collect()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    assert _llama_api.pixel_limits(tmp_path / "broken.gguf") is None  # llama.cpp tells its log why
    assert Log.active is not None
    assert Log.active.lines


# ---- files that do not load


def test_a_truncated_file_is_a_failure_that_says_so(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    whole = weights(tiny_text, "F32").path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        broken = tmp_path / f"{share}.gguf"
        broken.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(RuntimeFailure, match="could not load the file: "):
            runtimes.open_session(llama_cpp.RUNTIME, broken)


def test_a_file_with_a_wrong_shape_is_a_failure(tiny_text: dict[str, Bundle], tmp_path: Path) -> None:
    original = weights(tiny_text, "F32").path
    broken = rewritten(original, tmp_path / "broken.gguf", {"qwen2.attention.head_count": 3})
    with pytest.raises(RuntimeFailure, match=r"llama\.cpp"):
        runtimes.open_session(llama_cpp.RUNTIME, broken)


def test_a_file_that_makes_the_runtime_abort_is_a_failure_with_its_last_words(
    tiny_text: dict[str, Bundle], tmp_path: Path
) -> None:
    import gguf

    original, key = weights(tiny_text, "F32").path, "tokenizer.ggml.tokens"
    tokens = list(gguf.GGUFReader(original).fields[key].contents())
    tokens[40] = tokens[41]  # llama.cpp asserts that no two tokens are alike
    broken = rewritten(original, tmp_path / "broken.gguf", {key: tokens})
    with pytest.raises(RuntimeFailure, match=r"was stopped by SIGABRT in open: .*GGML_ASSERT"):
        runtimes.open_session(llama_cpp.RUNTIME, broken)


def test_a_process_that_dies_is_a_failure_with_its_last_words(tiny_text: dict[str, Bundle]) -> None:
    session: Any = runtimes.open_session(llama_cpp.RUNTIME, weights(tiny_text, "F32").path, context=64)
    with session:
        os.kill(session._process.pid, signal.SIGABRT)
        with pytest.raises(RuntimeFailure, match=r"llama\.cpp was stopped by SIGABRT in logits"):
            session.logits([1, 2])


def test_closing_ends_the_process(tiny_text: dict[str, Bundle]) -> None:
    session: Any = runtimes.open_session(llama_cpp.RUNTIME, weights(tiny_text, "F32").path, context=64)
    session.close()
    assert session._process.returncode == 0


def test_an_unknown_parameter_layout_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_llama_api._CONTEXT_DEFAULTS, "type_k", 7)
    with pytest.raises(RuntimeFailure, match=r"ContextParams\.type_k is 1 by default, wanted 7"):
        _llama_api.context_params()


def test_a_missing_runtime_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llama_api, "library_path", lambda: None)
    with pytest.raises(Unsupported, match="xllamacpp is not installed: pip install"):
        runtimes.open_session(llama_cpp.RUNTIME, Path("x.gguf"))


# ---- processes that hang, and processes that are left behind


def test_a_process_that_stops_working_is_ended_and_named(
    tiny_text: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watchdog, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(_watchdog, "IDLE_SECONDS", 0.5)
    session: Any = runtimes.open_session(llama_cpp.RUNTIME, weights(tiny_text, "F32").path, context=64)
    with session:
        os.kill(session._process.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeFailure, match=r"llama\.cpp did nothing for .* s in logits and was ended"):
            session.logits([1, 2])
        assert session._process.returncode == -signal.SIGKILL


def test_a_process_that_only_spins_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watchdog, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(_watchdog, "ANSWER_SECONDS", 0.5)
    with processes.started([sys.executable, "-c", "while True: pass"]) as process:
        watchdog = _watchdog.Watchdog(process)
        with watchdog:
            assert process.wait(20) == -signal.SIGKILL
    assert watchdog.reason.startswith("gave no answer for")


def test_nobody_is_ended_while_no_answer_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watchdog, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(_watchdog, "IDLE_SECONDS", 0.1)
    with processes.started(["sleep", "60"]) as process:
        watchdog = _watchdog.Watchdog(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        watchdog.close()
    assert not watchdog.reason


def test_what_a_runtime_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatty.py").write_text(
        "import os, sys\n"
        "from validate.runtimes.base import Runtime, Session\n"
        "def rubbish():\n"
        "    sys.stdout.write('{' * (4 << 20))\n"
        "    os.write(1, bytes(range(256)) * (1 << 14))\n"
        "    os.write(2, b'x' * (4 << 20))\n"
        "class ChattySession(Session):\n"
        "    identity = detokenize = logits = pieces = lambda self, *_: None\n"
        "    def tokenize(self, text, **options):\n"
        "        rubbish()\n"
        "        return [len(text)]\n"
        "    def close(self): rubbish()\n"
        "class Chatty(Runtime):\n"
        "    NAME = 'chatty'\n"
        "    def version(self): return 'chatty 1'\n"
        "    def open(self, model, **options):\n"
        "        rubbish()\n"
        "        return ChattySession()\n"
        "RUNTIME = Chatty()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    session: Any = IsolatedSession(
        importlib.import_module("chatty").RUNTIME, tmp_path, projector=None, context=1, threads=1
    )
    with session:
        assert [session.tokenize("x" * count) for count in range(3)] == [[0], [1], [2]]
    assert session._process.returncode == 0


LOGGING_RUNTIME = """
import numpy as np
from validate.errors import RuntimeFailure
from validate.runtimes.base import Runtime, Session
class LoggingSession(Session):
    def __init__(self, log): self.log = log
    def identity(self): return None
    detokenize = pieces = identity
    def tokenize(self, text, **options): return [len(text)]
    def logits(self, tokens):
        with self.log.open("a") as file: file.write(f"{tokens[0]} ")
        if tokens[0] == 3: raise RuntimeFailure("no third window")
        return np.full((len(tokens), 2), tokens[0], np.float32)
class Logging(Runtime):
    NAME = "logging"
    def version(self): return "1"
    def open(self, model, **options): return LoggingSession(model)
RUNTIME = Logging()
"""


@pytest.fixture
def logging_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedSession]:
    (tmp_path / "logging_runtime.py").write_text(LOGGING_RUNTIME)
    monkeypatch.syspath_prepend(str(tmp_path))
    runtime = importlib.import_module("logging_runtime").RUNTIME
    with IsolatedSession(runtime, tmp_path / "log", projector=None, context=1, threads=1) as session:
        yield session


def test_the_next_window_is_computed_while_the_caller_looks_at_one(
    logging_session: IsolatedSession, tmp_path: Path
) -> None:
    found = logging_session.logits_of([[1] * 4, [2] * 5])
    first = next(found)
    _until(lambda: (tmp_path / "log").read_text() == "1 2 ")  # nobody asked for the second yet
    assert logging_session.tokenize("four") == [4]  # another question in between gets its own answer
    assert first.shape == (4, 2)
    assert (first == 1).all()
    second = next(found)
    assert second.shape == (5, 2)
    assert (second == 2).all()
    assert next(found, None) is None


def test_a_window_that_fails_is_raised_where_it_is_asked_for(logging_session: IsolatedSession) -> None:
    found = logging_session.logits_of([[1], [3], [2]])
    assert next(found) is not None
    with pytest.raises(RuntimeFailure, match="no third window"):
        next(found)
    assert (logging_session.logits([7]) == 7).all()  # and the session goes on


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_busy_process_does_not_outlive_the_one_that_asked(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "sleepy.py").write_text(
        "import os, pathlib, time\n"
        "from validate.runtimes import Runtime\n"
        "class Sleepy(Runtime):\n"
        "    NAME = 'sleepy'\n"
        "    def version(self):\n"
        "        return '1'\n"
        "    def open(self, model, **options):\n"
        "        model.with_suffix('.tmp').write_text(str(os.getpid()))\n"
        "        model.with_suffix('.tmp').rename(model)\n"
        "        time.sleep(600)\n"
    )
    told = tmp_path / "pid"
    asker = (
        "import pathlib\n"
        "from sleepy import Sleepy\n"
        "from validate.runtimes._isolated import IsolatedSession\n"
        f"IsolatedSession(Sleepy(), pathlib.Path({str(told)!r}), projector=None, context=1, threads=1)\n"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    with processes.started([sys.executable, "-c", asker], env=env, stderr=subprocess.DEVNULL) as process:
        _until(told.exists)
        process.send_signal(how)
        process.wait(20)
    worker = int(told.read_text())
    _until(lambda: _watchdog.processor_seconds(worker) is None or _is_zombie(worker))


def _until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true in 20 seconds")


def _is_zombie(pid: int) -> bool:
    """Ended, but whoever adopts orphans here has not asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_question_that_a_runtime_has_no_answer_to_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare.py").write_text(
        "from tests.validate.stand_ins import SpeaksNothing\n"
        "from validate.runtimes import Runtime\n"
        "class Bare(Runtime):\n"
        "    NAME = 'bare'\n"
        "    def version(self):\n"
        "        return '1'\n"
        "    def open(self, model, **options):\n"
        "        return SpeaksNothing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runtime = importlib.import_module("bare").Bare()
    with IsolatedSession(runtime, tmp_path, projector=None, context=1, threads=1) as session:
        assert not session.can(Ability.DECODE)
        with pytest.raises(Unsupported, match="this runtime has no decode_logits"):
            session.decode_logits([1])


def test_what_a_machine_lacks_ends_the_row_wherever_it_shows(tiny_text: dict[str, Bundle]) -> None:
    """A kernel that is missing may be missed when a graph is loaded, or only when it runs."""

    from validate import compare
    from validate.reference import Reference

    class Lacking(transformers.TransformersSession):
        def logits(self, tokens: Any) -> Any:
            raise NotOnThisMachine("no kernel for this")

    home = folder(tiny_text)

    class Poor(runtimes.Runtime):
        NAME = "x"
        ISOLATED = False

        def version(self) -> str:
            return "1"

        def open(self, model: Path, **_: Any) -> Lacking:
            return Lacking(home, 1, False)

    with transformers.RUNTIME.open(home, threads=1) as session:
        reference = Reference(session, None, "", 1 << 20)
        questions = compare.Questions([reference.tokenize("Click the button.")])
        candidate = compare.Candidate(home, None, Poor(), 1)
        (found,) = compare.measure(reference, [candidate], questions, compare.Settings(1), Silent())
    assert (found.not_run, found.lacking, found.failures) == ("built, not run: no kernel for this", True, [])
