"""What an encoder's file is for: llama.cpp makes of a text what transformers makes of it.

The vectors of all tokens, and what the files say is made of them: an embedding, pooled as sentence-transformers
does it, or a classifier's scores. Twice, as in test_logits.py: plainly, and with llama.cpp's table for GELU in
transformers too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from convert import architectures
from convert.bundle import Role
from convert.source.checkpoint import read_config
from tests.fixtures_gguf import convert, read_gguf
from tests.parity.families import every_case, tried
from tests.parity.rounding import look_up_gelu
from tests.parity.test_logits import _difference
from validate.runtimes import llama_cpp
from validate.runtimes import transformers as reference
from validate.runtimes._sentences import read_sentences, through

ALL = {name: case for name, case in every_case().items() if not case.writes}
ANSWERING = [name for name in tried(ALL) if name.startswith("t5") and "encoder alone" not in name]
ENCODING = [name for name in tried(ALL) if name not in ANSWERING]
CLOSE, ROUNDED = 2e-2, 2e-3  # of the standard deviation, as for logits


@pytest.mark.parametrize("name", ENCODING)
def test_vectors_and_embeddings_equal_transformers(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    folder = case.make(tmp_path / "tiny")
    (artifact,) = convert(folder, tmp_path / "out", "F32").of(Role.WEIGHTS)
    tokens = np.random.default_rng(0).integers(5, 300, 96).tolist()
    if case.computed:
        vectors = case.computed(folder, tokens)
        plain = exact = vectors, vectors.mean(0)
    else:
        plain, exact = _transformers(case.equal(tmp_path / "equal") if case.equal else folder, tokens)
    with llama_cpp.RUNTIME.open(artifact.path, threads=1) as session:
        got = session.embedder.token_vectors(tokens), session.embed(tokens)
    plain, exact = ((_behind(folder, vectors), pooled) for vectors, pooled in (plain, exact))
    assert _differ(exact[0])  # it says something
    assert _difference(got[0], plain[0]) < CLOSE
    assert _difference(got[0], exact[0]) < case.tolerance <= CLOSE
    assert case.tolerance <= ROUNDED or case.why
    if case.equal or case.computed:
        exact = exact[0], case.scored(folder, exact[0]) if case.scored else _pooled(artifact.path, exact[0])
    assert got[1].shape == exact[1].shape
    apart = float(np.abs(got[1] - exact[1]).max() / _scale(exact))
    assert apart > 0.1 if case.no_scores else apart < 2 * case.tolerance  # the reason still holds


@pytest.mark.parametrize("name", ANSWERING)
def test_an_answer_to_what_an_encoder_read_equals_transformers(name: str, tmp_path: Path) -> None:
    """The decoder's logits; of a class without a head those of the embedding, which llama.cpp takes for one."""
    import torch
    import transformers

    case = ALL[name]
    folder = case.make(tmp_path / "tiny")
    (artifact,) = convert(folder, tmp_path / "out", "F32").of(Role.WEIGHTS)
    draw = np.random.default_rng(0)
    read, answer = draw.integers(5, 300, 200).tolist(), [0, *draw.integers(5, 300, 40).tolist()]
    named = json.loads((folder / "config.json").read_text())["architectures"][0]
    known = getattr(transformers, named.replace("WithLMHeadModel", "ForConditionalGeneration"))
    model = known.from_pretrained(folder).float().eval()
    case.as_llama_cpp_sees(model)
    found = []
    for _ in range(2):
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([answer]))
            logits = out.logits if "logits" in out else out.last_hidden_state @ model.shared.weight.T
        found.append(logits[0].numpy())
        look_up_gelu(model)
    with llama_cpp.RUNTIME.open(artifact.path, threads=1) as session:
        got = session.embedder.answer_logits(read, answer, found[0].shape[1])
    assert np.ptp(found[0].argmax(1)) > 50  # it says something
    assert _difference(got, found[0]) < CLOSE
    assert _difference(got, found[1]) < case.tolerance <= ROUNDED


def test_what_a_family_says_it_gives_is_what_its_cases_give(tmp_path: Path) -> None:
    for number, (name, case) in enumerate(every_case().items()):
        config = read_config(case.make(tmp_path / str(number)))
        gives = architectures.find(config).given_by(config)
        assert case.writes == (gives == architectures.TEXT), name


Both = tuple[np.ndarray, np.ndarray]


def _transformers(folder: Path, tokens: Sequence[int]) -> tuple[Both, Both]:
    """Vectors and embedding plainly, then with llama.cpp's GELU."""
    with reference.RUNTIME.open(folder, threads=1) as source:
        plain = source.token_vectors(tokens), source.embed(tokens)
        look_up_gelu(source.model)
        return plain, (source.token_vectors(tokens), source.embed(tokens))


def _behind(folder: Path, vectors: np.ndarray) -> np.ndarray:
    """The vectors of tokens behind sentence-transformers' matrices, which llama.cpp multiplies them with too."""
    import torch

    sentences = read_sentences(folder)
    made = torch.from_numpy(vectors)
    for dense in sentences.dense if sentences else ():
        made = through(made, dense, folder)
    return made.numpy()


def _pooled(path: Path, vectors: np.ndarray) -> np.ndarray:
    """What the file says is made of vectors of tokens."""
    fields, _ = read_gguf(path)
    mode = fields.get(f"{fields['general.architecture']}.pooling_type", 1)
    return vectors.mean(0) if mode == 1 else vectors[{2: 0, 3: -1}[mode]]


def _differ(vectors: np.ndarray) -> bool:
    """Whether tokens have vectors of their own."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.median(unit @ unit.T)) < 0.99


def _scale(exact: tuple[np.ndarray, np.ndarray]) -> float:
    """What an embedding's differences are measured by; scores are few, and may be alike."""
    vectors, pooled = exact
    return float(pooled.std() if pooled.size >= vectors.shape[1] else max(1e-1, np.abs(pooled).max()))
