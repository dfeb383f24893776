"""Calibration against a reference written without any of it, and the stage around it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle, Role
from convert.errors import InputError, StageError
from convert.formats.gguf.calibration import Corpus, _windows, calibrate, check_calibration, model_key, read_matrices
from convert.formats.gguf.imatrix import Imatrix, coverage, read_imatrix
from convert.formats.gguf.imatrix_stage import STAGE as stage
from convert.model.reference import open_reference
from convert.progress import Silent
from convert.source.stage import STAGE as source
from tests import tiny
from tests.fixtures_gguf import convert, edit_config, edit_weights
from tests.fixtures_imatrix import overheard

NANO = Path(__file__).parents[1] / "recipes/models/fara-nano"
SEPARATE = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
MLP = {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
WINDOW = 24
RECIPE = """
name: r
model: {path: Tiny}
stages:
  imatrix: {use: imatrix, from: source, text: text.txt, chunks: 2, window: 24, threads: 1}
  weighted: {use: gguf, from: imatrix, types: [Q4_0]}
  plain: {use: gguf, from: source, types: [Q4_0]}
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text("\n".join(tiny._text()), encoding="utf-8")
    return path


def bundle(folder: Path) -> Bundle:
    return source.forecast(source.Options(path=folder.absolute()), {})


def straightforward(folder: Path, text: Path, chunks: int, window: int) -> dict[str, tuple[np.ndarray, int]]:
    """GGUF name -> (sums of squares in float64, tokens), by replacing every linear layer of the loaded model."""
    import torch
    import transformers as library

    config = library.AutoConfig.from_pretrained(folder)
    sees = getattr(config, "vision_config", None) is not None
    auto = library.AutoModelForImageTextToText if sees else library.AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, list[np.ndarray]] = {}

    def watched(name: str, linear: Any) -> Callable[[Any], Any]:
        def forward(x: Any) -> Any:
            seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).double().numpy())
            return torch.nn.functional.linear(x, linear.weight, linear.bias)

        return forward

    layers = (model.model.language_model if sees else model.model).layers
    for i, layer in enumerate(layers):
        for short, ours in SEPARATE.items():
            linear = getattr(layer.self_attn, f"{short}_proj")
            linear.forward = watched(f"blk.{i}.{ours}.weight", linear)
        for short, ours in MLP.items():
            linear = getattr(layer.mlp, f"{short}_proj")
            linear.forward = watched(f"blk.{i}.{ours}.weight", linear)
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), split_special_tokens=True)
    bos = tokenizer.bos_token_id if ids[0] == tokenizer.bos_token_id else None
    with torch.no_grad():
        for chunk in range(chunks):
            tokens = ids[chunk * window : (chunk + 1) * window]
            if bos is not None:
                tokens = [bos, *tokens[1:]]
            model(torch.tensor([tokens]))
    return {name: ((np.concatenate(rows) ** 2).sum(0), sum(map(len, rows))) for name, rows in seen.items()}


def assert_agrees(imatrix: Imatrix, wanted: dict[str, tuple[np.ndarray, int]]) -> None:
    assert imatrix.entries.keys() == wanted.keys()
    for name, (sums, tokens) in wanted.items():
        entry = imatrix.entries[name]
        assert entry.values.shape == (1, len(sums)), name
        assert entry.counts.tolist() == [tokens], name
        np.testing.assert_allclose(entry.values[0], sums, rtol=1e-5, err_msg=name)


# ---- the numbers


@pytest.mark.parametrize(
    "make", [tiny.tiny_llama, tiny.tiny_qwen2, tiny.tiny_qwen3, tiny.tiny_qwen2_5_vl], ids=lambda make: make.__name__
)
def test_the_sums_are_those_of_a_straightforward_reference(
    make: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    folder = make(tmp_path / "tiny")
    got = calibrate(bundle(folder), Corpus(text, 3, WINDOW, threads=1), Silent())
    assert_agrees(got, straightforward(folder, text, 3, WINDOW))
    assert (got.chunk_count, got.chunk_size, got.datasets) == (3, WINDOW, ("some.txt",))


def expert_by_expert(folder: Path, text: Path, chunks: int, window: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """GGUF name of a layer's router or experts -> (sums, tokens), an expert a row, from what enters the MLPs alone."""
    import torch
    import transformers as library

    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    entered: dict[int, list[Any]] = {}
    for i, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(
            lambda _, inputs, i=i: entered.setdefault(i, []).append(inputs[0].reshape(-1, inputs[0].shape[-1]))
        )
    ids = library.AutoTokenizer.from_pretrained(folder).encode(text.read_text(encoding="utf-8"))
    with torch.no_grad():
        for chunk in range(chunks):
            model(torch.tensor([ids[chunk * window : (chunk + 1) * window]]))
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i, layer in enumerate(model.model.layers):
        mlp, x = layer.mlp, torch.cat(entered[i])
        used = (x @ mlp.gate.weight.T).topk(mlp.gate.top_k).indices
        name, n = f"blk.{i}.ffn", mlp.experts.num_experts
        outer, inner = np.zeros((n, x.shape[1])), np.zeros((n, mlp.experts.down_proj.shape[2]))
        for e in range(n):
            mine = x[(used == e).any(1)]
            gate, up = (mine @ mlp.experts.gate_up_proj[e].T).chunk(2, 1)
            outer[e] = mine.double().square().sum(0).numpy()
            inner[e] = (torch.nn.functional.silu(gate) * up).double().square().sum(0).detach().numpy()
        tokens = np.array([(used == e).sum() for e in range(n)])
        found[f"{name}_gate_inp.weight"] = x.double().square().sum(0)[None].numpy(), np.array([len(x)])
        found |= {f"{name}_{which}_exps.weight": (outer, tokens) for which in ("gate", "up")}
        found[f"{name}_down_exps.weight"] = inner, tokens
    return found


def test_every_expert_has_what_went_into_it(tmp_path: Path, text: Path) -> None:
    folder = tiny.tiny_qwen3_moe(tmp_path / "tiny")
    got = calibrate(bundle(folder), Corpus(text, 3, WINDOW, threads=1), Silent())
    wanted = expert_by_expert(folder, text, 3, WINDOW)
    assert {name for name in got.entries if "ffn" in name} == wanted.keys()
    assert sum("attn" in name for name in got.entries) == 8
    for name, (sums, tokens) in wanted.items():
        assert got.entries[name].counts.tolist() == tokens.tolist(), name
        np.testing.assert_allclose(got.entries[name].values, sums, rtol=1e-4, err_msg=name)
    assert len({int(n) for n in wanted["blk.0.ffn_down_exps.weight"][1]}) > 1  # the router tells tokens apart


# llama.cpp's qwen2vl does not read the norms' epsilon (build 11549, src/models/qwen2vl.cpp): it computes with 0
@pytest.mark.parametrize(
    ("make", "tolerance"),
    [(tiny.tiny_llama, 1e-4), (tiny.tiny_qwen2, 1e-4), (tiny.tiny_qwen3_moe, 1e-4), (tiny.tiny_qwen2_5_vl, 1e-3)],
    ids=lambda make: getattr(make, "__name__", ""),
)
def test_the_sums_are_those_of_llama_cpps_own_graph(
    make: Callable[..., Path], tolerance: float, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, tensors and counts are what llama-imatrix collects from the F32 file of the same model."""
    folder = make(tmp_path / "tiny")
    corpus = Corpus(text, 3, WINDOW, threads=1)
    with open_reference(bundle(folder), 1) as reference:
        windows = list(_windows(reference, corpus))
    (gguf,) = convert(folder, tmp_path / "gguf", "F32").of(Role.WEIGHTS)
    wanted = overheard(monkeypatch, gguf.path, windows)
    got = calibrate(bundle(folder), corpus, Silent())
    assert got.entries.keys() == wanted.keys()
    for name, sums in wanted.items():
        assert got.entries[name].counts.tolist() == sums.counts.tolist(), name
        np.testing.assert_allclose(got.entries[name].values, sums.values(), rtol=tolerance, err_msg=name)


def test_an_expert_without_data_is_reported_not_guessed(tmp_path: Path, text: Path) -> None:
    folder = bundle(tiny.tiny_qwen3_moe(tmp_path / "tiny", experts=32, used=1))
    got, shapes = calibrate(folder, Corpus(text, 1, 16, threads=1), Silent()), read_matrices(folder).shapes
    idle = int((got.entries["blk.1.ffn_up_exps.weight"].counts == 0).sum())
    assert idle >= 16
    lines = [line for line in coverage(got, shapes) if "blk.1.ffn_up_exps.weight" in line]
    assert lines[0].startswith(f"imatrix: blk.1.ffn_up_exps.weight: {idle} of 32 experts have no data: ")


def test_fara_nano(tmp_path: Path) -> None:
    text = NANO / "heldout" / "train_text.txt"
    got = calibrate(bundle(NANO), Corpus(text, 4, 64, threads=1), Silent())
    assert_agrees(got, straightforward(NANO, text, 4, 64))
    assert len(list(coverage(got, read_matrices(bundle(NANO)).shapes))) == 1  # nothing is without data


def test_equal_runs_give_equal_bytes(tmp_path: Path, text: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "tiny")
    options = stage.Options(text=text, chunks=3, window=WINDOW, threads=1)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(stage.run(options, {"source": bundle(folder)}, tmp_path / name, Silent()))
    (a,), (b,) = (m.of(Role.IMATRIX) for m in made)
    assert (a.sha256, a.path.name) == (b.sha256, "tiny-imatrix.gguf")


def test_chunks_add_up(tmp_path: Path, text: Path) -> None:
    """Windows do not see each other: the sums of five are those of the first three and of no other two."""
    folder = bundle(tiny.tiny_qwen2(tmp_path / "tiny"))
    three, five = (calibrate(folder, Corpus(text, n, WINDOW, threads=1), Silent()) for n in (3, 5))
    for name in three.entries:
        assert (five.entries[name].values >= three.entries[name].values).all()
        assert five.entries[name].counts[0] - three.entries[name].counts[0] == 2 * WINDOW


def test_special_tokens_spelled_out_are_text_unless_asked_otherwise(tmp_path: Path) -> None:
    """As in llama-imatrix: a text about chat templates is no conversation."""
    folder = tiny.tiny_qwen2(tmp_path / "tiny")
    path = tmp_path / "special.txt"
    path.write_text("<|im_start|>" * 40)
    text, special = (
        calibrate(bundle(folder), Corpus(path, 400, 16, parse_special=parse, threads=1), Silent()).chunk_count
        for parse in (False, True)
    )
    assert special == 40 // 16
    assert text > 100 // 16


def test_layers_without_a_module_are_an_error(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.formats.gguf import calibration as _calibration

    monkeypatch.setattr(_calibration.Matrices, "made_of", lambda *_: ())
    with pytest.raises(StageError, match="nothing went into"):
        calibrate(bundle(tiny.tiny_qwen2(tmp_path / "tiny")), Corpus(text, 1, WINDOW, threads=1), Silent())


def test_overflow_is_named(tmp_path: Path, text: Path) -> None:
    folder = tiny.tiny_qwen2(tmp_path / "tiny", dtype="float32")

    def change(tensors: dict[str, Any]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"].mul_(3e38)

    edit_weights(folder, change)
    with pytest.raises(StageError, match=r"blk\.1\.ffn_down\.weight.*not finite"):
        calibrate(bundle(folder), Corpus(text, 1, WINDOW, threads=1), Silent())


# ---- the text


def test_a_short_text_is_used_up_and_said(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the button and then " * 20)
    said: list[str] = []

    class Listener(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    folder = tiny.tiny_qwen2(tmp_path / "tiny")
    got = calibrate(bundle(folder), Corpus(path, 999, 16, threads=1), Listener())
    assert 0 < got.chunk_count < 20
    assert f"{got.chunk_count} chunks of 16 tokens, fewer than the 999" in said[0]


def test_a_text_of_less_than_a_window_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("hello")
    with pytest.raises(StageError, match="at least one window of 16"):
        calibrate(bundle(tiny.tiny_qwen2(tmp_path / "tiny")), Corpus(path, 1, 16, threads=1), Silent())


def test_no_more_of_a_long_text_is_tokenized_than_it_takes(tmp_path: Path) -> None:
    from convert.calibration.rows import _first_tokens

    lengths = []

    class Reference:
        def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
            assert not parse_special
            lengths.append(len(text))
            return list(range(len(text) // 20))

    assert _first_tokens(Reference(), "x" * 10_000_000, 100, False) == list(range(100))
    assert max(lengths) < 10_000
    assert _first_tokens(Reference(), "x" * 400, 100, False) == list(range(20))


# ---- the stage


def options(text: Path, **words: Any) -> stage.Options:
    return stage.Options(text=text, **{"chunks": 2, "window": WINDOW, "threads": 1, **words})


def test_the_forecast_is_exact_and_the_matrix_travels_with_the_source(tmp_path: Path, text: Path) -> None:
    inputs = {"source": bundle(tiny.tiny_llama(tmp_path / "tiny"))}
    words = options(text)
    assert stage.check(words, inputs) == []
    (tmp_path / "out").mkdir()
    made = stage.run(words, inputs, tmp_path / "out", Silent())
    (forecast,), (artifact,) = stage.forecast(words, inputs).of(Role.IMATRIX), made.of(Role.IMATRIX)
    assert (forecast.path.name, forecast.size, forecast.kind) == (artifact.path.name, artifact.size, artifact.kind)
    assert made.of(Role.WEIGHTS) == inputs["source"].of(Role.WEIGHTS)
    assert read_imatrix(artifact.path).model == model_key(inputs["source"])
    assert list(stage.explain(words, inputs)) == ["14 matrices on 2 chunks of 24 tokens of some.txt"]


def test_the_key_is_that_of_the_weights(tmp_path: Path) -> None:
    from dataclasses import replace

    first, second = (bundle(tiny.tiny_llama(tmp_path / name, seed=i)) for i, name in enumerate("ab"))
    shards = bundle(tiny.tiny_llama(tmp_path / "c", shards=2))
    keys = [model_key(b) for b in (first, second, shards)]
    assert len(set(keys)) == 3
    assert all(a != b for a, b in itertools.combinations(keys, 2))
    hashed = first.with_(weights=tuple(replace(a, sha256="7" * 64) for a in first.of(Role.WEIGHTS)))
    assert model_key(hashed) != keys[0]  # a hash that is known is not made again
    edit_config(tmp_path / "a", rms_norm_eps=1e-4)
    assert model_key(bundle(tmp_path / "a")) == keys[0]


def test_what_is_wrong_is_said_before_the_run(tmp_path: Path, text: Path) -> None:
    inputs = {"source": bundle(tiny.tiny_llama(tmp_path / "tiny"))}
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe\x00")
    for words, said in (
        (options(tmp_path / "none.txt"), "no file"),
        (options(empty), "is empty"),
        (options(binary), "wanted text in UTF-8"),
        (options(text, window=1024), "at most the model's 512 positions"),
    ):
        (problem,) = stage.check(words, inputs)
        assert said in str(problem)


def test_an_unknown_architecture_is_a_problem(tmp_path: Path, text: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (problem,) = check_calibration(bundle(folder), Corpus(text))
    assert "not supported: model_type 'llama' (LamaForCausalLM)" in str(problem)


def test_a_model_larger_than_the_machine_is_a_problem(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from validate import memory

    monkeypatch.setattr(memory, "total_bytes", lambda: 1000)
    (problem,) = check_calibration(bundle(tiny.tiny_llama(tmp_path / "tiny")), Corpus(text))
    assert "GB of memory" in str(problem)


def test_it_takes_one_checkpoint(tmp_path: Path, text: Path) -> None:
    from convert.bundle import Artifact

    one = bundle(tiny.tiny_llama(tmp_path / "tiny"))
    made = one.with_(weights=Artifact("gguf/Q8_0", tmp_path / "x.gguf", 1))
    for inputs, said in (({"a": one, "b": one}, "takes from 2 stages"), ({"q8": made}, "gives gguf weights")):
        (problem,) = stage.check(options(text), inputs)
        assert said in str(problem)
        with pytest.raises(InputError):
            stage.forecast(options(text), inputs)


def test_in_a_recipe_it_is_made_once_and_used_by_who_takes_from_it(tmp_path: Path, text: Path) -> None:
    from convert import load_recipe, plan, run

    tiny.tiny_qwen2(tmp_path / "Tiny")
    (tmp_path / "text.txt").write_text(text.read_text(encoding="utf-8"))
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml")
    run(plan(recipe, tmp_path / "out"))
    weighted, plain = (tmp_path / f"out/r/{stage}/Tiny-Q4_0.gguf" for stage in ("weighted", "plain"))
    assert (tmp_path / "out/r/imatrix/Tiny-imatrix.gguf").is_file()
    assert weighted.read_bytes() != plain.read_bytes()
    assert all(step.up_to_date for step in plan(recipe, tmp_path / "out").steps)
    (tmp_path / "text.txt").write_text("another text")
    assert [step.name for step in plan(recipe, tmp_path / "out").steps if not step.up_to_date] == [
        "imatrix",
        "weighted",
    ]


# ---- a run that is stopped


def test_a_stopped_run_goes_on_at_its_layer(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.formats.gguf.calibration import Gathered
    from convert.model import resume

    monkeypatch.setattr(resume, "SECONDS", 0.0)
    folder, corpus = tiny.tiny_qwen3_moe(tmp_path / "tiny"), Corpus(text, 3, WINDOW, threads=1)
    wanted = calibrate(bundle(folder), corpus, Silent())
    layers, take = list[str](), Gathered.take

    def stops(self: Gathered, layer: Any, found: Any) -> None:
        layers.append(layer.name)
        if len(layers) == 2:
            raise KeyboardInterrupt
        take(self, layer, found)

    monkeypatch.setattr(Gathered, "take", stops)
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle(folder), corpus, Silent(), tmp_path / "state")
    got = calibrate(bundle(folder), corpus, Silent(), tmp_path / "state")
    assert layers[:2] == ["model.layers.0", "model.layers.1"]
    assert "model.layers.0" not in layers[2:]
    assert got.entries.keys() == wanted.entries.keys()
    for name, entry in wanted.entries.items():
        assert entry.values.tobytes() == got.entries[name].values.tobytes()
        assert entry.counts.tobytes() == got.entries[name].counts.tobytes()
    assert not any((tmp_path / "state").iterdir())
