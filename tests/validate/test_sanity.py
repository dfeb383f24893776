"""Files that are broken on purpose: each misses the gate that is there for it, and no other kind of gate.

The source is a tiny Qwen2.5-VL; its own F32 file passes, the others are that file with one thing changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Artifact, Bundle, Role
from convert.progress import Silent
from convert.validation.stage import STAGE as stage
from tests import tiny
from tests.fixtures_validate import convert_tiny, folder, rewritten, weights
from validate.compare import measure
from validate.compressed_logits import room_bytes
from validate.measurement import Candidate, Questions, Settings
from validate.reference import Reference
from validate.report.advice import kept
from validate.runtimes import transformers

OPTIONS = {"tokens": 384, "window": 96, "threads": 1}
F32_BOUND = 1e-8  # nats: two float32 runtimes, one of which takes another epsilon for RMS norms of this architecture
MEAN, STD = tiny.PREPROCESSOR["image_mean"], tiny.PREPROCESSOR["image_std"]

DRIFT = {"kl_mean", "top1"}
IMAGES = {"image_cosine", "image_cosine_unresized"}
# what was done -> (the gate that has to see it, what else may)
BROKEN: Mapping[str, tuple[str, set[str]]] = {
    "zeroed": ("kl_mean", DRIFT | {"tensors_equal"}),
    "bos": ("special_ids_equal", {"tokens_equal"}),
    "template": ("templates_equal", set()),
    "swapped": ("image_cosine_unresized", IMAGES | {"settings_equal"}),
    "channels": ("image_cosine_unresized", IMAGES | {"settings_equal"}),
    "other": ("image_cosine_unresized", IMAGES | {"tensors_equal"}),
}


def zeroed(name: str, data: Any) -> Any:
    """The matrix whose loss shows least, of those of the last layer."""
    return data * 0 if name == "blk.1.attn_q.weight" else data


def file(path: Path, kind: str) -> Artifact:
    return Artifact(kind, path, path.stat().st_size, "0" * 64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The good file as stage gguf, and every broken one as a stage of its name."""
    home = tmp_path_factory.mktemp("sanity")
    bundles = convert_tiny(tiny.tiny_qwen2_5_vl, home, ["F32"])
    (home / "seed").mkdir()
    other = convert_tiny(tiny.tiny_qwen2_5_vl, home / "seed", ["F32"], seed=1)["gguf"].of(Role.PROJECTOR)[0]
    good, (eyes,) = weights(bundles, "F32"), bundles["gguf"].of(Role.PROJECTOR)

    def text(name: str, change: Mapping[str, Any], tensor: Callable[[str, Any], Any] | None = None) -> Bundle:
        path = rewritten(good.path, home / f"{name}.gguf", change, tensor)
        return bundles["gguf"].with_(weights=file(path, "gguf/F32"))

    def image(name: str, projector: Path) -> Bundle:
        (home / name).mkdir()
        path = home / name / f"{name}.gguf"
        path.hardlink_to(good.path)
        return bundles["gguf"].with_(weights=file(path, "gguf/F32"), projector=file(projector, eyes.kind))

    def seen(name: str, mean: list[float], std: list[float]) -> Bundle:
        change = {"clip.vision.image_mean": mean, "clip.vision.image_std": std}
        return image(name, rewritten(eyes.path, home / f"mmproj-{name}.gguf", change))

    return bundles | {
        "zeroed": text("zeroed", {}, zeroed),
        "bos": text("bos", {"tokenizer.ggml.add_bos_token": True}),
        "template": text("template", {"tokenizer.chat_template": tiny.CHATML.replace("<|im_end|>\n", "<|im_end|>")}),
        "swapped": seen("swapped", STD, MEAN),
        "channels": seen("channels", MEAN[::-1], STD[::-1]),
        "other": image("other", other.path),
    }


def validated(inputs: dict[str, Bundle], home: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows by stage, and the pages by name."""
    out = home / "sanity" / "validate.partial"
    out.mkdir(parents=True)
    files = {a.path.name: a.path for a in stage.run(stage.Options(**OPTIONS), inputs, out, Silent()).of(Role.REPORT)}
    pages = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return {row["stage"]: row for row in json.loads(pages["report.json"])["outputs"]}, pages


@pytest.fixture(scope="module")
def found(inputs: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    return validated(inputs, tmp_path_factory.mktemp("report"))


def missed(row: Any) -> set[str]:
    return {name for name in row["limits"] if not kept(row, name)}


def test_the_source_against_itself_has_no_drift_at_all(inputs: dict[str, Bundle]) -> None:
    home = folder(inputs)
    with transformers.RUNTIME.open(home, context=96, threads=1) as session:
        windows = [session.tokenize("Don't click the button 12 times, then wait. " * 9)[:96]] * 2
        reference = Reference(session, None, "", room_bytes(192))
        itself = Candidate(home, None, transformers.RUNTIME, 1, text_only="only the text is looked at")
        (result,) = measure(reference, [itself], Questions(windows), Settings(threads=1), Silent())
    assert not result.failures
    metrics = result.metrics
    assert (metrics["kl_mean"], metrics["kl_max"], metrics["logit_max_abs"]) == (0.0, 0.0, 0.0)
    assert (metrics["top1"], metrics["ppl_ratio"], metrics["greedy_equal"]) == (1.0, 1.0, 1.0)
    assert result.intervals["kl_mean"] == (0.0, 0.0)


def test_the_files_own_kind_stays_within_the_bound(found: Any) -> None:
    good = found[0]["gguf"]
    assert good["status"] == "passed", good["reason"]
    assert 0 <= good["metrics"]["kl_mean"] < F32_BOUND
    assert good["metrics"]["kl_max"] < 10 * F32_BOUND
    assert good["metrics"]["top1"] > 0.995
    assert good["metrics"]["image_cosine_unresized"] > 0.99999
    assert not missed(good)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_misses_its_gate_and_the_report_names_it(found: Any, broken: str) -> None:
    rows, pages = found
    row, (gate, others) = rows[broken], BROKEN[broken]
    assert row["status"] == "failed"
    assert gate in missed(row)
    assert missed(row) <= {gate, *others}, row["reason"]
    assert gate in row["reason"]
    for name in ("report.md", "report.html"):
        assert row["label"] in pages[name]
        assert gate in pages[name]
    line = next(li for li in pages["report.md"].splitlines() if li.startswith(f"- **FAILED** `{row['label']}`"))
    assert gate in line


def test_what_differs_is_shown(found: Any) -> None:
    rows, pages = found
    special = rows["bos"]["contract"]["special_ids"]["differences"]
    assert {"what": "BOS tokens put before a text", "reference": "0", "candidate": "1"} in special
    assert rows["template"]["contract"]["templates"]["differences"]
    assert "BOS tokens put before a text" in pages["report.md"]
    assert "BOS tokens put before a text" in pages["report.html"]
    assert "did not pass" in pages["report.md"].splitlines()[0]


def test_another_bos_than_the_one_that_the_model_learned(tmp_path: Path) -> None:
    bundles = convert_tiny(tiny.tiny_llama, tmp_path, ["F32"])  # one that puts it before every text
    wrong = rewritten(weights(bundles, "F32").path, tmp_path / "bos.gguf", {"tokenizer.ggml.bos_token_id": 7})
    rows, pages = validated(bundles | {"bos": bundles["gguf"].with_(weights=file(wrong, "gguf/F32"))}, tmp_path)
    assert rows["gguf"]["status"] == "passed", rows["gguf"]["reason"]
    assert {"special_ids_equal", "tokens_equal"} <= missed(rows["bos"])
    assert not missed(rows["bos"]) & DRIFT  # the weights are good: equal ids go into both
    assert {"what": "BOS", "reference": "1", "candidate": "7"} in rows["bos"]["contract"]["special_ids"]["differences"]
    assert "special_ids_equal" in pages["report.md"]
    assert "special_ids_equal" in pages["report.html"]
