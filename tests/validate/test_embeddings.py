"""Embeddings and scores of an encoder: what is compared, what is read, and what becomes of it in a validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle, Role
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source.stage import STAGE as source
from convert.validation.stage import STAGE as validate
from tests.parity.families import every_case
from validate.embeddings import EMBEDDINGS, SCORES, compare
from validate.gates import gates
from validate.logits import NotComparable
from validate.metrics import applies
from validate.passages import LEAST_CHARACTERS, passages
from validate.texts import default_sets

TEXTS = ["one", "two", "three", "four"]
AXES = np.eye(4, 6, dtype=np.float32)


# ---- the numbers


def test_the_same_vectors_are_the_same_whatever_their_length() -> None:
    found = compare(EMBEDDINGS, AXES, 3 * AXES, TEXTS)
    assert found.metrics == pytest.approx({"rank_agreement": 1, "embedding_cosine": 1, "embedding_cosine_mean": 1})


def test_the_worst_text_is_named() -> None:
    turned = AXES.copy()
    turned[2] = [0, 0, 1, 0, 1, 0]
    found = compare(EMBEDDINGS, AXES, turned, TEXTS)
    assert found.worst == "three"
    assert found.cosine_min == pytest.approx(np.sqrt(0.5))
    assert found.cosine_mean == pytest.approx((3 + np.sqrt(0.5)) / 4)


def test_an_order_counts_where_the_source_tells_two_apart() -> None:
    """The first is nearer to the second than to the third; afterwards it is the other way round."""
    near = np.array([[1, 0], [0.9, 0.1], [0.1, 0.9]], np.float32)
    far = near[[0, 2, 1]]
    found = compare(EMBEDDINGS, near, far, TEXTS[:3])
    assert found.pairs == 3
    assert found.agreement == 0
    flat = np.array([[1, 0], [1, 0.001], [1, -0.001]], np.float32)
    assert compare(EMBEDDINGS, near, np.concatenate([near[:1], flat[1:]]), TEXTS[:3]).agreement < 1


def test_scores_are_judged_by_how_they_differ_between_texts() -> None:
    exact = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = compare(SCORES, exact, exact + np.array([[0.5], [0], [0], [0]]), TEXTS)
    assert found.error == pytest.approx(0.25 / exact.std())
    assert (found.largest, found.worst, found.agreement) == (0.5, "one", 1)
    assert compare(SCORES, exact, -exact, TEXTS).agreement == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (np.zeros((4, 5)), "5 values of a text where the source gives 6"),
        (np.full((4, 6), np.nan), "the candidate's embeddings are not finite"),
    ],
)
def test_what_cannot_be_compared_says_so(changed: np.ndarray, message: str) -> None:
    with pytest.raises(NotComparable, match=message):
        compare(EMBEDDINGS, AXES, changed, TEXTS)


def test_two_texts_have_no_order() -> None:
    with pytest.raises(NotComparable, match="2 texts, wanted at least 3"):
        compare(EMBEDDINGS, AXES[:2], AXES[:2], TEXTS[:2])


def test_limits_are_of_what_the_model_gives() -> None:
    entries = {"*": {"preset": "good"}}
    of_text, of_vectors = (set(gates(entries, ["*"], "Q4_K_M", None, gives)) for gives in ("text", EMBEDDINGS))
    assert {"kl_mean", "top1", "ppl_ratio"} <= of_text - of_vectors
    assert {"embedding_cosine", "rank_agreement"} <= of_vectors - of_text
    assert "score_error" in gates(entries, ["*"], "Q4_K_M", None, SCORES)
    assert applies("tokens_equal", SCORES)
    mine = gates({"*": {"kl_mean": 0.1}}, ["*"], "Q8_0", None, EMBEDDINGS)
    assert mine["kl_mean"] == (0.1, "recipe"), "the recipe's own word is not passed over in silence"


# ---- what is read


class Words:
    """A tokenizer of one token a word, with 1 before and 2 behind a text."""

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        ids = [3 + len(word) for word in text.split()]
        return [1, *ids, 2] if add_special else ids


def test_texts_are_whole_paragraphs_with_what_stands_around_them() -> None:
    made = passages(Words(), default_sets(), 2000, 40)  # type: ignore[arg-type]
    assert len(made.tokens) > 20
    assert {len(set(made.sets)), len(made.entries)} == {4}
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= 40 for ids in made.tokens)
    assert max(map(len, made.tokens)) == 40, "a long one is cut, and ends as any other"
    assert sum(map(len, made.tokens)) < 2000 + 4 * 40
    assert sum(entry.windows for entry in made.entries) == len(made.tokens)
    assert LEAST_CHARACTERS > 10


# ---- a validation


def run(folder: Path, home: Path, change: Any = None, **options: Any) -> dict[str, Any]:
    """report.json of F32 and Q8_0 files of a checkpoint, the files changed first."""
    for name in ("source", "gguf", "report"):
        (home / name).mkdir(parents=True)
    bundles: dict[str, Bundle] = {"source": source.run(source.Options(path=folder), {}, home / "source", Silent())}
    bundles["gguf"] = gguf.run(gguf.Options(types=["F32", "Q8_0"]), bundles, home / "gguf", Silent())
    for artifact in bundles["gguf"].of(Role.WEIGHTS) if change else ():
        change(artifact.path)
    asked = validate.Options(threads=1, **options)
    assert validate.check(asked, bundles) == []
    validate.run(asked, bundles, home / "report", Silent())
    return dict(json.loads((home / "report" / "report.json").read_text()))


@pytest.mark.parametrize("name", ["bert, first token", "bert, reranker", "roberta", "modern_bert"])
def test_an_encoders_files_pass_without_kl(name: str, tmp_path: Path) -> None:
    folder = every_case()[name].make(tmp_path / "tiny")
    report = run(folder, tmp_path)
    assert [(o["type"], o["status"], o["reason"]) for o in report["outputs"]] == [
        ("F32", "passed", ""),
        ("Q8_0", "passed", ""),
    ]
    exact, rounded = (o["embeddings"] for o in report["outputs"])
    assert exact["texts"] > 10
    scored = exact["gives"] == SCORES
    assert rounded["error"] > exact["error"] if scored else rounded["cosine_mean"] < exact["cosine_mean"]
    for output in report["outputs"]:
        assert not {"kl_mean", "top1", "ppl_ratio"} & {*output["metrics"], *output["limits"]}
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"The model gives {exact['gives']} and predicts no next token: KL, top1 and perplexity do not apply." in page
    assert "not comparable" not in (tmp_path / "report" / "report.html").read_text()


def test_a_file_that_pools_otherwise_fails(tmp_path: Path) -> None:
    """Its tokens' vectors are right; what is made of them is not."""
    folder = every_case()["bert, first token"].make(tmp_path / "tiny")

    def pool_by_mean(path: Path) -> None:
        raw = path.read_bytes()
        key = b"bert.pooling_type" + (4).to_bytes(4, "little")
        assert raw.count(key + (2).to_bytes(4, "little")) == 1
        path.write_bytes(raw.replace(key + (2).to_bytes(4, "little"), key + (1).to_bytes(4, "little")))

    report = run(folder, tmp_path, pool_by_mean)
    assert all(o["status"] == "failed" and "embedding_cosine" in o["reason"] for o in report["outputs"])


def test_a_limit_on_kl_of_an_encoder_fails_with_the_reason(tmp_path: Path) -> None:
    folder = every_case()["bert, first token"].make(tmp_path / "tiny")
    report = run(folder, tmp_path, limits={"F32": {"kl_mean": 0.1}, "*": "good"})
    exact, rounded = report["outputs"]
    assert exact["reason"] == "kl_mean was not measured: the model gives embeddings"
    assert rounded["status"] == "passed"
    assert rounded["limits"]["embedding_cosine"]["source"] == "good"


def test_what_only_a_model_that_writes_can_be_asked_is_refused(tmp_path: Path) -> None:
    folder = every_case()["bert"].make(tmp_path / "tiny")
    bundles = {"source": source.run(source.Options(path=folder), {}, tmp_path, Silent())}
    bundles["gguf"] = gguf.forecast(gguf.Options(types=["F32"]), bundles)
    said = [str(p) for p in validate.check(validate.Options(choices="ours", kv_cache=["q8_0"]), bundles)]
    assert (
        "validate: choices, and the model gives embeddings, wanted a model that writes text; leave out choices" in said
    )
    assert any("kv_cache, and the model gives embeddings" in line for line in said)
