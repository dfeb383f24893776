"""Block types, file types and the rules of the mixes, against llama.cpp's constants and what llama-quantize does."""

from __future__ import annotations

from collections import Counter

import gguf
import pytest

from quantize.blocks import BY_ID, TYPES
from quantize.mixes import (
    CONDITIONS,
    MIXES,
    QUANTIZATION_VERSION,
    ROLES,
    RULES,
    Asked,
    Hyper,
    Tensor,
    choose,
    wants_importance,
)
from quantize.mixes import needs_imatrix as needs
from tests.peer_quantize import ONLY_WEIGHTED


@pytest.mark.parametrize("name", TYPES)
def test_sizes_and_ids_are_ggmls(name: str) -> None:
    kind, theirs = TYPES[name], gguf.GGMLQuantizationType[name]
    assert (kind.id, (kind.values, kind.bytes)) == (theirs.value, gguf.GGML_QUANT_SIZES[theirs])
    assert BY_ID[kind.id] is kind


def test_rows_are_whole_blocks() -> None:
    assert TYPES["Q8_0"].row_bytes(64) == 68
    assert not TYPES["Q8_0"].fits(172)
    with pytest.raises(ValueError, match="multiple of 32"):
        TYPES["Q8_0"].row_bytes(172)
    assert TYPES["Q4_K"].bits_per_value == 4.5


@pytest.mark.parametrize("name", MIXES)
def test_file_types_are_llama_cpps(name: str) -> None:
    """An _L variant has the number of what it is a variant of: llama.cpp knows no other."""
    of = {"Q2_K_L": "Q2_K", "Q3_K_XL": "Q3_K_L", "Q4_K_L": "Q4_K_M", "Q5_K_L": "Q5_K_M", "Q6_K_L": "Q6_K"}
    theirs = gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{of.get(name, name)}"]
    assert MIXES[name].file_type == theirs.value
    assert MIXES[name].main in TYPES
    assert QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION


def test_the_table_has_no_word_that_means_nothing() -> None:
    roles = {role for _, role in ROLES}
    for role, files, condition, kind in RULES:
        assert role in {"*", *roles}
        assert files == "*" or set(files.split()) <= {mix.rules for mix in MIXES.values()}
        assert condition in CONDITIONS
        assert kind in TYPES


def model(layers: int = 16, tied: bool = False, row: int = 256, experts: int = 0) -> list[Tensor]:
    """A decoder's tensors, in an order that llama-quantize would not have them in."""
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"]
    tensors = [Tensor(f"blk.{i}.{name}.weight", (64, row)) for i in reversed(range(layers)) for name in names]
    tensors += [Tensor(f"blk.{i}.attn_norm.weight", (row,)) for i in range(layers)]
    tensors += [Tensor(f"blk.{i}.ffn_gate_inp.weight", (8, row)) for i in range(layers if experts else 0)]
    ends = ["token_embd"] if tied else ["output", "token_embd"]
    return [Tensor("output_norm.weight", (row,)), *(Tensor(f"{e}.weight", (512, row)) for e in ends), *tensors]


def types(mix: str, tensors: list[Tensor], hyper: Hyper, asked: Asked | None = None) -> dict[str, str]:
    choices = choose(MIXES[mix], tensors, hyper, asked)
    assert all(choice.why for choice in choices)
    return {tensor.name: choice.type.name for tensor, choice in zip(tensors, choices, strict=True)}


def layers_of(found: dict[str, str], role: str, kind: str) -> list[int]:
    return sorted(int(n.split(".")[1]) for n, k in found.items() if n.endswith(f".{role}.weight") and k == kind)


PLAIN = Hyper("llama", layers=16, heads=4, kv_heads=4)
GROUPED = Hyper("llama", layers=16, heads=8, kv_heads=2)
EIGHT = Hyper("llama", layers=16, heads=4, kv_heads=4, experts=8)


@pytest.mark.parametrize(
    ("mix", "hyper", "role", "kind", "layers"),
    [
        ("Q4_K_M", PLAIN, "attn_v", "Q6_K", [0, 1, 4, 7, 10, 13, 14, 15]),
        ("Q4_K_M", PLAIN, "ffn_down", "Q6_K", [0, 1, 4, 7, 10, 13, 14, 15]),
        ("Q5_K_M", PLAIN, "attn_v", "Q6_K", [0, 1, 4, 7, 10, 13, 14, 15]),
        ("Q4_K_M", PLAIN, "attn_q", "Q4_K", list(range(16))),
        ("Q4_K_S", PLAIN, "attn_v", "Q5_K", [0, 1, 2, 3]),
        ("Q4_K_S", PLAIN, "ffn_down", "Q5_K", [0, 1]),
        ("Q3_K_M", PLAIN, "attn_v", "Q5_K", [0, 1]),
        ("Q3_K_M", PLAIN, "ffn_down", "Q5_K", [0]),
        ("Q3_K_M", PLAIN, "ffn_down", "Q4_K", list(range(1, 16))),
        ("Q3_K_M", PLAIN, "attn_output", "Q4_K", list(range(16))),
        ("Q3_K_M", EIGHT, "attn_output", "Q5_K", list(range(16))),
        ("Q3_K_L", EIGHT, "attn_output", "Q3_K", list(range(16))),
        ("Q3_K_S", PLAIN, "attn_v", "Q3_K", list(range(16))),
        ("Q2_K", PLAIN, "attn_v", "Q3_K", list(range(16))),
        ("Q2_K", GROUPED, "attn_v", "Q4_K", list(range(16))),
        ("Q2_K", EIGHT, "attn_v", "Q8_0", list(range(16))),
        ("Q6_K", EIGHT, "attn_k", "Q8_0", list(range(16))),
        ("Q2_K_S", PLAIN, "ffn_down", "Q4_K", [0, 1]),
        ("IQ4_XS", GROUPED, "attn_v", "Q5_K", list(range(16))),
        ("IQ4_XS", PLAIN, "ffn_down", "Q5_K", [0, 1]),
        ("Q4_0", PLAIN, "ffn_down", "Q4_0", list(range(16))),
    ],
)
def test_layer_rules(mix: str, hyper: Hyper, role: str, kind: str, layers: list[int]) -> None:
    assert layers_of(types(mix, model(), hyper), role, kind) == layers


@pytest.mark.parametrize(
    ("mix", "kind", "without", "with_"),
    [("Q4_0", "Q4_1", [], [0, 1]), ("Q5_0", "Q5_1", [], [0, 1]), ("IQ4_NL", "Q5_K", [0, 1], [])],
)
def test_an_imatrix_changes_the_first_ffn_down(mix: str, kind: str, without: list[int], with_: list[int]) -> None:
    for imatrix, layers in ((False, without), (True, with_)):
        assert layers_of(types(mix, model(), PLAIN, Asked(imatrix=imatrix)), "ffn_down", kind) == layers


@pytest.mark.parametrize(
    ("mix", "tied", "embedding", "output"),
    [
        ("Q4_K_M", False, "Q4_K", "Q6_K"),
        ("Q4_K_M", True, "Q6_K", None),  # where the embedding is the output, it is treated as one
        ("Q8_0", True, "Q8_0", None),
        ("Q2_K", False, "Q2_K", "Q6_K"),
        ("Q4_K_L", False, "Q8_0", "Q8_0"),
        ("Q3_K_XL", True, "Q8_0", None),
    ],
)
def test_embedding_and_output(mix: str, tied: bool, embedding: str, output: str | None) -> None:
    found = types(mix, model(tied=tied), PLAIN)
    assert (found["token_embd.weight"], found.get("output.weight")) == (embedding, output)


def test_a_70b_model_has_values_of_five_bits() -> None:
    seventy = Hyper("llama", layers=80, heads=64, kv_heads=8)
    assert Counter(k for n, k in types("Q4_K_S", model(80), seventy).items() if "attn_v" in n) == {"Q5_K": 80}
    other = Hyper("qwen3", layers=80, heads=64, kv_heads=8)
    assert Counter(k for n, k in types("Q4_K_S", model(80), other).items() if "attn_v" in n) == {"Q5_K": 4, "Q4_K": 76}


@pytest.mark.parametrize(
    ("mix", "row", "kind"),
    [
        *[("Q4_K_S", 96, "Q5_0"), ("Q5_K_S", 96, "Q5_1"), ("Q6_K", 96, "Q8_0"), ("Q3_K_S", 96, "Q4_0")],
        *[("Q2_K_S", 96, "Q4_0"), ("IQ4_XS", 96, "IQ4_NL"), ("Q4_K_S", 80, "F16"), ("Q8_0", 80, "F16")],
    ],
)
def test_rows_that_are_no_whole_blocks_get_another_type(mix: str, row: int, kind: str) -> None:
    (choice,) = choose(MIXES[mix], [Tensor("blk.9.attn_q.weight", (64, row))], PLAIN)
    assert choice.type.name == kind
    assert f"rows of {row} values" in choice.why


def test_what_the_recipe_asks_for_comes_first() -> None:
    asked = Asked("Q5_K", "Q3_K", ((r"blk\.[01]\.attn_v", "Q8_0"), ("attn", "Q5_0"), ("token_embd|norm", "Q2_K")))
    found = types("Q4_K_M", model(), PLAIN, asked)
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q5_K", "Q3_K")
    assert layers_of(found, "attn_v", "Q8_0") == [0, 1]
    assert layers_of(found, "attn_v", "Q5_0") == list(range(2, 16))
    assert found["blk.0.attn_norm.weight"] == "F32"


def test_overridden_layers_are_not_counted() -> None:
    """As in llama-quantize, whose rules count the tensors that they decide about."""
    found = types("Q4_K_S", model(), PLAIN, Asked(overrides=((r"blk\.[12]\.attn_v", "Q8_0"),)))
    assert layers_of(found, "attn_v", "Q5_K") == [0, 3, 4, 5]


def test_a_plain_file_has_no_overrides() -> None:
    assert types("F16", model(), PLAIN, Asked(overrides=(("attn_v", "Q8_0"),))) == types("F16", model(), PLAIN)


def test_pure_is_one_type_but_for_what_no_file_quantizes() -> None:
    found = types("Q4_K_M", model(experts=8), EIGHT, Asked(pure=True))
    assert {kind for name, kind in found.items() if "norm" not in name and "gate_inp" not in name} == {"Q4_K"}
    assert {kind for name, kind in found.items() if "norm" in name or "gate_inp" in name} == {"F32"}


def test_which_tensors_need_an_imatrix() -> None:
    tensor, embedding = Tensor("blk.0.attn_q.weight", (64, 256)), Tensor("token_embd.weight", (64, 256))
    assert needs(MIXES["Q2_K_S"], tensor, TYPES["Q2_K"])
    assert not needs(MIXES["Q2_K_S"], tensor, TYPES["Q4_K"])
    assert not needs(MIXES["Q2_K_S"], embedding, TYPES["Q2_K"])
    assert not needs(MIXES["Q2_K"], tensor, TYPES["Q2_K"])
    for kind in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0"):
        assert needs(MIXES["Q4_K_M"], tensor, TYPES[kind]) == (kind not in {"IQ3_S", "TQ1_0"}), kind
        # ggml has no way of encoding these without: llama-quantize ends in an assertion of its
        assert needs(MIXES["Q4_K_M"], embedding, TYPES[kind]) == (kind in {"IQ1_S", "IQ2_XXS", "IQ2_XS"}), kind


def test_which_files_want_importance() -> None:
    assert {name for name, mix in MIXES.items() if wants_importance(mix)} == set(ONLY_WEIGHTED)


@pytest.mark.parametrize(
    ("mix", "name", "shape", "kind"),
    [
        ("Q8_0", "blk.0.ffn_up.weight", (128, 64), "Q8_0"),
        ("Q8_0", "token_embd.weight", (512, 64), "Q8_0"),
        ("Q8_0", "output.weight", (512, 64), "Q8_0"),
        ("Q8_0", "blk.0.ffn_down.weight", (64, 172), "F16"),  # 172 is no multiple of 32
        ("Q8_0", "blk.0.attn_q_norm.weight", (2, 64), "F32"),
        ("Q8_0", "blk.0.attn_norm.weight", (64,), "F32"),
        ("Q8_0", "blk.0.attn_q.bias", (64,), "F32"),
        ("Q8_0", "v.patch_embd.weight", (64, 3, 14, 14), "F32"),
        ("F16", "v.patch_embd.weight", (64, 3, 14, 14), "F16"),
        ("F16", "v.patch_embd.weight.1", (64, 3, 14, 14), "F16"),
        ("BF16", "v.patch_embd.weight.1", (64, 3, 14, 14), "F32"),
        ("F32", "blk.0.ffn_up.weight", (128, 64), "F32"),
        ("BF16", "blk.0.ffn_up.weight", (128, 64), "BF16"),
    ],
)
def test_types_of_tensors(mix: str, name: str, shape: tuple[int, ...], kind: str) -> None:
    (choice,) = choose(MIXES[mix], [Tensor(name, shape)], Hyper())
    assert choice.type.name == kind
    assert choice.why
