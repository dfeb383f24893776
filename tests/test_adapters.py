"""LoRA adapters merged into a source: values, the vocabulary that grew, what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from convert.bundle import Bundle, Role
from convert.formats.gguf.stage import STAGE as gguf
from convert.progress import Silent
from convert.source import merge
from convert.source.checkpoint import open_bundle, read_config
from convert.source.stage import STAGE as source
from convert.source.stage import SourceOptions
from tests import tiny
from tests.fixtures_adapters import adapter, weights
from tests.fixtures_gguf import digests, edit_config
from tests.fixtures_packed import packed

ULP = 2.0**-8  # of bfloat16, relative
MISSING = "model.layers.9.mlp.up_proj"
A_MATRIX = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.tiny_llama(tmp_path / "base", tied=False)


def merged(base: Path, out: Path, *adapters: Any, **options: Any) -> tuple[Bundle, dict[str, Tensor]]:
    """The stage as a pipeline runs it; the bundle and its tensors."""
    words = [one if isinstance(one, dict) else {"path": one} for one in adapters]
    asked = SourceOptions.model_validate({"path": base, "adapter": words, **options})
    assert [str(p) for p in source.check(asked, {})] == []
    planned = source.forecast(asked, {})
    assert planned.pending is not None
    out.mkdir()
    bundle = source.run(asked, {}, out, Silent())
    found = weights(out)
    promised = open_bundle(planned)
    assert promised.config == read_config(out)
    assert {n: (t.dtype, t.shape) for n, t in promised.tensors.items()} == {
        n: (t.dtype, t.shape) for n, t in open_bundle(bundle).tensors.items()
    }
    return bundle, found


def lora(base: Tensor, low: dict[str, Tensor], module: str, scale: float) -> Tensor:
    return base.float() + scale * (low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"])


@pytest.mark.parametrize(
    ("words", "scale", "factor"),
    [({}, 1.0, 2.0), ({"use_rslora": True, "r": 9}, 1.0, 8 / 3), ({"lora_alpha": 3}, -0.5, -0.375)],
)
def test_a_lora_is_added(words: dict[str, Any], scale: float, factor: float, base: Path, tmp_path: Path) -> None:
    low, plain = adapter(tmp_path / "a", base, **words), weights(base)
    _, found = merged(base, tmp_path / "out", {"path": tmp_path / "a", "scale": scale})
    changed = {name.partition(".lora_")[0] for name in low}
    assert len(changed) == 4
    for name, tensor in plain.items():
        module = name.removesuffix(".weight")
        wanted = lora(tensor, low, module, factor).bfloat16() if module in changed else tensor
        torch.testing.assert_close(found[name], wanted, rtol=ULP, atol=0)
        assert torch.equal(found[name], tensor) is (module not in changed)


def test_patterns_say_other_alphas(base: Path, tmp_path: Path) -> None:
    low = adapter(tmp_path / "a", base, alpha_pattern={r"layers\.1\.self_attn\.q_proj": 40})
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    for layer, factor in ((0, 2), (1, 10)):
        module = f"model.layers.{layer}.self_attn.q_proj"
        wanted = lora(weights(base)[f"{module}.weight"], low, module, factor).bfloat16()
        torch.testing.assert_close(found[f"{module}.weight"], wanted, rtol=ULP, atol=0)


def test_dora_gives_rows_a_length(base: Path, tmp_path: Path) -> None:
    low = adapter(tmp_path / "a", base, use_dora=True)
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    sum_ = lora(weights(base)[f"{A_MATRIX}.weight"], low, A_MATRIX, 2)
    wanted = low[f"{A_MATRIX}.lora_magnitude_vector"][:, None] * sum_ / sum_.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found[f"{A_MATRIX}.weight"], wanted.bfloat16(), rtol=ULP, atol=0)


def test_matrices_that_are_stored_the_other_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's; with DoRA lengths are those of columns, which no block of rows knows alone."""
    from tests.parity.families import cases

    monkeypatch.setattr(merge, "BLOCK_VALUES", 1000)
    base = cases()["gpt2"].make(tmp_path / "gpt2")
    low = adapter(tmp_path / "a", base, ("c_proj",), fan_in_fan_out=True, use_dora=True)
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    name = next(name for name in weights(base) if name.endswith("h.0.mlp.c_proj.weight"))
    module = name.removesuffix(".weight")
    sum_ = weights(base)[name].float() + 2 * (low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]).T
    wanted = low[f"{module}.lora_magnitude_vector"] * sum_ / sum_.norm(dim=0, keepdim=True)
    torch.testing.assert_close(found[name].float(), wanted.to(found[name].dtype).float(), rtol=ULP, atol=0)


def test_several_adapters_each_with_its_weight(base: Path, tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "a", base), adapter(tmp_path / "b", base, ("q_proj",), r=2)
    _, found = merged(
        base, tmp_path / "out", {"path": tmp_path / "a", "scale": 0.5}, {"path": tmp_path / "b", "scale": 2}
    )
    wanted = lora(weights(base)[f"{A_MATRIX}.weight"], one, A_MATRIX, 1)
    wanted = lora(wanted, two, A_MATRIX, 8).bfloat16()
    torch.testing.assert_close(found[f"{A_MATRIX}.weight"], wanted, rtol=ULP, atol=0)


def test_an_embedding_that_grew_brings_its_tokenizer(base: Path, tmp_path: Path) -> None:
    """Rows, vocab_size, head, and the tokens that the rows are of: planned and made alike."""
    plain = weights(base)
    grown = {name: torch.cat([plain[name], torch.ones(8, 64, dtype=torch.bfloat16)]) for name in ENDS}
    adapter(tmp_path / "a", base, more=grown, modules_to_save=["embed_tokens", "lm_head"])
    made = json.loads((base / "tokenizer.json").read_text())
    last = made["added_tokens"][-1]
    made["added_tokens"].append({**last, "id": len(plain[ENDS[0]]), "content": "<|new|>", "special": True})
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(made))
    shutil.copy(base / "tokenizer_config.json", tmp_path / "a")
    bundle, found = merged(base, tmp_path / "out", tmp_path / "a")
    for name in ENDS:
        assert torch.equal(found[name], grown[name])
    assert read_config(tmp_path / "out")["vocab_size"] == len(grown[ENDS[0]])
    assert {a.path.parent for a in bundle.of(Role.TOKENIZER)} == {tmp_path / "a"}
    said = source.notes(SourceOptions.model_validate({"path": base, "adapter": {"path": tmp_path / "a"}}))
    assert f"the tokenizer is that of the adapter {tmp_path / 'a'}" in said
    assert any("rows, vocab_size was" in text for text in said)
    (tmp_path / "gguf").mkdir()
    for inputs in ({"source": bundle}, {"source": planned(base, tmp_path / "a")}):
        assert gguf.check(gguf.Options(types=["F32"]), inputs) == []


ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def planned(base: Path, *adapters: Path) -> Bundle:
    words = {"path": base, "adapter": [{"path": path} for path in adapters]}
    return source.forecast(SourceOptions.model_validate(words), {})


def test_the_plan_of_a_file_is_the_file(base: Path, tmp_path: Path) -> None:
    adapter(tmp_path / "a", base)
    bundle, _ = merged(base, tmp_path / "out", tmp_path / "a")
    options = gguf.Options(types=["Q8_0"])
    promised = gguf.forecast(options, {"source": planned(base, tmp_path / "a")}).of(Role.WEIGHTS)[0]
    (tmp_path / "gguf").mkdir()
    made = gguf.run(options, {"source": bundle}, tmp_path / "gguf", Silent()).of(Role.WEIGHTS)[0]
    assert promised.size == made.size == made.path.stat().st_size


def test_rows_of_an_embedding(base: Path, tmp_path: Path) -> None:
    rows = torch.randn(2, 64)
    more = {"model.embed_tokens.token_adapter.trainable_tokens_delta": rows}
    adapter(tmp_path / "a", base, more=more, trainable_token_indices={"embed_tokens": [7, 300]})
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    wanted = weights(base)[ENDS[0]].clone()
    wanted[[7, 300]] = rows.bfloat16()
    assert torch.equal(found[ENDS[0]], wanted)


def test_a_lora_of_an_embedding(base: Path, tmp_path: Path) -> None:
    a, b = torch.randn(4, 384), torch.randn(64, 4)
    more = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    adapter(tmp_path / "a", base, more=more)
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    wanted = (weights(base)[ENDS[0]].float() + 2 * (b @ a).T).bfloat16()
    torch.testing.assert_close(found[ENDS[0]], wanted, rtol=ULP, atol=0)


def test_a_head_that_was_tied_becomes_a_tensor(tmp_path: Path) -> None:
    base = tiny.tiny_llama(tmp_path / "base", tied=True)
    embedding = weights(base)[ENDS[0]]
    low = {"lm_head.lora_A.weight": torch.randn(4, 64), "lm_head.lora_B.weight": torch.randn(384, 4)}
    adapter(tmp_path / "a", base, more=low)
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    assert torch.equal(found[ENDS[0]], embedding)
    torch.testing.assert_close(found[ENDS[1]], lora(embedding, low, "lm_head", 2).bfloat16(), rtol=ULP, atol=0)
    assert read_config(tmp_path / "out")["tie_word_embeddings"] is False


def test_a_tied_head_that_was_saved_beside_stays_tied(tmp_path: Path) -> None:
    base = tiny.tiny_llama(tmp_path / "base", tied=True)
    values = weights(base)[ENDS[0]] * 2
    adapter(tmp_path / "a", base, more={ENDS[0]: values, ENDS[1]: values.clone()})
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    assert ENDS[1] not in found
    assert torch.equal(found[ENDS[0]], values)
    assert read_config(tmp_path / "out")["tie_word_embeddings"] is True


def test_an_adapter_on_a_quantized_model(tmp_path: Path) -> None:
    """QLoRA's: matrices are made whole, changed, and stored in the model's 16 bits."""
    base, whole = packed(tmp_path / "base", "bitsandbytes, nf4")
    edit_config(base, torch_dtype="bfloat16")
    plain = tiny.tiny_llama(tmp_path / "plain", layers=2)
    low = adapter(tmp_path / "a", plain)
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    torch.testing.assert_close(
        found[f"{A_MATRIX}.weight"], lora(whole[f"{A_MATRIX}.weight"], low, A_MATRIX, 2).bfloat16(), rtol=ULP, atol=0
    )
    other = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[other], whole[other].bfloat16())
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_pickles_on_both_sides(base: Path, tmp_path: Path) -> None:
    adapter(tmp_path / "a", base)
    _, wanted = merged(base, tmp_path / "out", tmp_path / "a")
    torch.save(weights(tmp_path / "a"), tmp_path / "a" / "adapter_model.bin")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save(weights(base), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    _, found = merged(base, tmp_path / "again", tmp_path / "a")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_shards_and_blocks_of_rows_change_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.source import rewrite

    adapter(tmp_path / "a", base, use_dora=True)
    bundle, wanted = merged(base, tmp_path / "out", tmp_path / "a")
    monkeypatch.setattr(rewrite, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(rewrite, "BLOCK_VALUES", 500)
    monkeypatch.setattr(merge, "BLOCK_VALUES", 500)
    shards, found = merged(base, tmp_path / "again", tmp_path / "a")
    assert len(shards.of(Role.WEIGHTS)) > 2
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    files = []
    for number, one in enumerate((bundle, shards)):
        (tmp_path / f"gguf-{number}").mkdir()
        files.append(gguf.run(gguf.Options(types=["F16"]), {"source": one}, tmp_path / f"gguf-{number}", Silent()))
    assert digests(files[0].of(Role.WEIGHTS)[0].path) == digests(files[1].of(Role.WEIGHTS)[0].path)


@pytest.mark.parametrize(
    ("modules", "more", "words", "message"),
    [
        ((), {f"{MISSING}.lora_A.weight": (4, 64), f"{MISSING}.lora_B.weight": (128, 4)},
         {}, "changes model.layers.9.mlp.up_proj of rank 4, [128, 4] by [4, 64], and the model has no model.layers.9"),
        ((), {f"{A_MATRIX}.lora_A.weight": (4, 80), f"{A_MATRIX}.lora_B.weight": (64, 4)}, {},
         f"{A_MATRIX}: lora_A [4, 80] and lora_B [64, 4] of rank 4 make [64, 80], the model's "
         f"{A_MATRIX}.weight is BF16 [64, 64]"),
        ((), {f"{A_MATRIX}.lora_A.weight": (4, 64), f"{A_MATRIX}.lora_B.weight": (64, 5)}, {},
         "lora_A [4, 64] and lora_B [64, 5] are no product of matrices"),
        ((), {f"{A_MATRIX}.lora_A.weight": (4, 64)}, {}, f"{A_MATRIX} has no lora_B"),
        ((), {"model.norm.weight": (65,)}, {}, "has model.norm.weight [65], the model's is [64]"),
        ((), {"model.layers.0.mlp.gate.weight": (4, 64)}, {}, "has model.layers.0.mlp.gate.weight [4, 64], and"),
        ((), {"model.embed_tokens.weight": (390, 64)}, {}, "lm_head.weight has 384 rows, the embedding 390"),
        (("q_proj",), {}, {"peft_type": "LOHA"}, "peft_type is 'LOHA', wanted 'LORA'"),
        (("q_proj",), {}, {"lora_alpha": "big"}, "is 'big'"),
        (("q_proj",), {"model.x.hada_w1_a": (4,)}, {}, "is nothing that a LoRA has"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_described(
    modules: tuple[str, ...], more: dict[str, Any], words: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    adapter(tmp_path / "a", base, modules or ("none",), {n: torch.ones(s) for n, s in more.items()}, **words)
    asked = SourceOptions.model_validate({"path": base, "adapter": {"path": tmp_path / "a"}})
    (problem,) = source.check(asked, {})
    assert message in str(problem)


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "at least 1 item"), ({"path": "a", "scale": 1e9}, "less than or equal to 100"), ("a", "valid dict")],
)
def test_words_of_an_adapter(words: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceOptions.model_validate({"path": "m", "adapter": words})


@pytest.mark.parametrize("words", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_peft_merges_the_same(words: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Within a unit of bfloat16's last place, which its two roundings may differ by."""
    peft = pytest.importorskip("peft", reason="PEFT is what this is compared with, and nothing here needs it")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    asked = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"], **words
    )
    trained = peft.get_peft_model(model, asked)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.05)
    trained.save_pretrained(tmp_path / "a")
    wanted = trained.merge_and_unload().state_dict()
    _, found = merged(base, tmp_path / "out", tmp_path / "a")
    for name, tensor in found.items():
        difference = (tensor.float() - wanted[name].float()).abs()
        size = torch.maximum(tensor.float().abs(), wanted[name].float().abs())
        assert bool((difference <= 2.0 ** (torch.floor(torch.log2(size.clamp_min(1e-30))) - 7)).all()), name
