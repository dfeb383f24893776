"""A llama.cpp that the user built: named by an environment variable, told in the report, and no silent fallback."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from convert.bundle import Bundle
from tests import processes
from tests.fixtures_validate import tiny_text, weights
from validate.errors import RuntimeFailure
from validate.runtimes import _llama_api as api
from validate.runtimes import llama_cpp, open_session

__all__ = ["tiny_text"]  # fixtures


def build(folder: Path, name: str = "libmtmd.so") -> Path:
    """A folder that looks like a build's: the wheel's library, which has everything in it."""
    wheel = api.library_path()
    assert wheel is not None
    folder.mkdir()
    (folder / name).symlink_to(wheel)
    return folder


def test_it_is_what_runs_and_what_the_report_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_text: dict[str, Bundle]
) -> None:
    path, tokens = weights(tiny_text, "F32").path, list(range(5, 40))
    with open_session(llama_cpp.RUNTIME, path, context=64, threads=1) as session:
        wanted = session.logits(tokens)
    wheel = llama_cpp.RUNTIME.version()
    folder = build(tmp_path / "bin")
    monkeypatch.setenv(api.OWN_BUILD, str(folder))
    with open_session(llama_cpp.RUNTIME, path, context=64, threads=1) as session:
        np.testing.assert_array_equal(session.logits(tokens), wanted)
    assert llama_cpp.RUNTIME.build() == llama_cpp.RUNTIME.version() != wheel
    assert str(folder) in llama_cpp.RUNTIME.version()


def test_another_library_at_the_same_place_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv(api.OWN_BUILD, str(folder))
    seen = set()
    for content in (b"one", b"two"):
        (folder / "libllama.so").write_bytes(content)
        seen.add(llama_cpp.RUNTIME.build())
    (folder / "libggml-cpu.so").write_bytes(b"three")
    seen.add(llama_cpp.RUNTIME.build())
    assert len(seen) == 3


def test_a_place_without_a_library_is_said_and_the_wheel_is_not_taken_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(api.OWN_BUILD, str(tmp_path))
    reason = llama_cpp.RUNTIME.available()
    assert reason is not None
    assert str(tmp_path) in reason
    assert "libllama.so" in reason


def test_what_is_no_library_does_not_load(tmp_path: Path, tiny_text: dict[str, Bundle]) -> None:
    (tmp_path / "libllama.so").write_bytes(b"not a library")
    code = (
        f"import os; os.environ['{api.OWN_BUILD}'] = {str(tmp_path)!r}\n"
        "from validate.errors import RuntimeFailure\n"
        "from validate.runtimes import _llama_api as api\n"
        "try: api.library()\n"
        "except RuntimeFailure as error: print(error)\n"
    )
    said = processes.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert f"{tmp_path}/libllama.so does not load" in said


def test_a_build_without_mtmd_shows_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_text: dict[str, Bundle]
) -> None:
    monkeypatch.setenv(api.OWN_BUILD, str(build(tmp_path / "bin", "libllama.so")))
    path = weights(tiny_text, "F32").path
    with pytest.raises(RuntimeFailure, match="no libmtmd beside it"):
        open_session(llama_cpp.RUNTIME, path, projector=path, context=64, threads=1)
    with open_session(llama_cpp.RUNTIME, path, context=64, threads=1) as session:
        assert session.tokenize("text")
