"""What the files are for: llama.cpp computes what transformers computes, for every family and every variant of it.

Twice: plainly, and with llama.cpp's table for GELU in transformers too, where hardly anything may be left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.bundle import Role
from tests.fixtures_gguf import convert
from tests.parity import hearing
from tests.parity.families import cases, tried
from tests.parity.rounding import look_up_gelu, round_convolutions, round_pixels
from tests.parity.sight import llama_images, torch_images, torch_inputs, torch_logits
from validate.runtimes import IMAGE_MARK, llama_cpp
from validate.runtimes import transformers as reference

ALL = cases()
PROMPT = f"Click {IMAGE_MARK} the button"


@pytest.mark.parametrize("name", [name for name, case in tried(ALL).items() if not case.no_logits])
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    folder = case.make(tmp_path / "tiny")
    bundle = convert(folder, tmp_path / "out", "F32", mmproj="F32" if case.image or case.sound else None)
    tokens = np.random.default_rng(0).integers(3, 300, 96).tolist()
    source = case.equal(tmp_path / "equal") if case.equal else folder
    with reference.RUNTIME.open(source, threads=1) as session:
        case.as_source(session.model)
        wanted = session.logits(tokens)
        exact = session.logits(tokens) if look_up_gelu(session.model) else wanted
    assert np.ptp(wanted.argmax(1)) > 50  # it says something
    (artifact,) = bundle.of(Role.WEIGHTS)
    with llama_cpp.RUNTIME.open(artifact.path, threads=1) as session:
        got = session.logits(tokens)
    assert _difference(got, wanted) < 2e-2
    assert _difference(got, exact) < case.tolerance <= 2e-2
    assert case.tolerance <= 2e-3 or case.why


def _difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest one, as a part of the standard deviation."""
    return float(np.abs(got - wanted).max() / wanted.std())


@pytest.mark.parametrize("name", [name for name, case in tried(ALL).items() if case.image])
def test_images_equal_transformers(name: str, tmp_path: Path) -> None:
    """The embeddings of an image, and the logits after a prompt with it."""
    case = ALL[name]
    assert case.image is not None
    folder = case.make(tmp_path / "tiny")
    bundle = convert(folder, tmp_path / "out", "F32", mmproj="F32")
    pixels = np.random.default_rng(1).integers(0, 255, (*case.image, 3), dtype=np.uint8)
    weights, projector = bundle.of(Role.WEIGHTS)[0].path, bundle.of(Role.PROJECTOR)[0].path
    with llama_cpp.RUNTIME.open(weights, projector=projector, threads=1) as session:
        ids, got = llama_images(session, PROMPT, pixels)
        logits = session.image_logits(PROMPT, pixels)
    source = case.equal(tmp_path / "equal") if case.equal else folder
    inputs = dict(case.processed(pixels)) if case.processed else torch_inputs(source, pixels)
    with reference.RUNTIME.open(source, threads=1) as session:
        plain = torch_images(session, inputs, case.rows)
        case.as_llama_cpp_sees(session.model)
        if not case.exact_gelu:
            look_up_gelu(session.model)
        inputs = round_pixels(inputs)
        exact = torch_images(session, inputs, case.rows)
        exact_logits = torch_logits(session, ids, inputs, case.rows)
    assert got.shape == exact.shape
    apart = _difference(got, plain)
    assert apart < case.plain_image_tolerance if case.plain_image_tolerance else apart > 0.1  # the reason still holds
    assert _difference(got, exact) < case.image_tolerance
    assert _difference(logits, exact_logits) < case.image_tolerance
    assert case.why or (case.image_tolerance <= 2e-3 and case.plain_image_tolerance == 2e-2)


@pytest.mark.parametrize("name", [name for name, case in tried(ALL).items() if case.sound])
def test_sounds_equal_transformers(name: str, tmp_path: Path) -> None:
    """The embeddings of a sound, and the logits after a prompt with it."""
    case = ALL[name]
    folder = case.make(tmp_path / "tiny")
    bundle = convert(folder, tmp_path / "out", "F32", mmproj="F32")
    samples = hearing.sound(case.sound)
    weights, projector = bundle.of(Role.WEIGHTS)[0].path, bundle.of(Role.PROJECTOR)[0].path
    with llama_cpp.RUNTIME.open(weights, projector=projector, threads=1) as session:
        ids, got = hearing.llama_sounds(session, PROMPT, samples)
        logits = hearing.llama_logits(session, PROMPT, samples)
    inputs = hearing.torch_inputs(folder, samples)
    with reference.RUNTIME.open(folder, threads=1) as session:
        plain = hearing.torch_sounds(case, session.model, inputs)
        case.as_llama_cpp_sees(session.model)
        assert round_convolutions(session.model)
        exact = hearing.torch_sounds(case, session.model, inputs)
        exact_logits = hearing.torch_logits(session.model, ids, exact)
    assert got.shape == exact.shape
    assert case.plain_image_tolerance is None or _difference(got, plain) < case.plain_image_tolerance
    assert _difference(got, exact) < case.image_tolerance
    assert _difference(logits, exact_logits) < case.image_tolerance
    assert case.why or (case.image_tolerance <= 2e-3 and case.plain_image_tolerance == 2e-2)
