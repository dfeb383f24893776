"""The docs' tables of families are those that are generated."""

from __future__ import annotations

from convert import architectures
from tests.parity.families import Case, families
from tests.parity.table import HEAD, ORDER, PAGE, grouped, on_page, proofs, table


def test_the_page_has_the_tables_as_generated() -> None:
    told = "python -m tests.parity.table --write puts them there"
    assert on_page(PAGE.read_text(encoding="utf-8")) == table(), told


def test_every_family_has_its_row_and_its_proof() -> None:
    rows = [line for line in table().splitlines() if line.startswith("| ") and line not in HEAD]
    assert len(rows) == len(architectures.names())
    assert not [row for row in rows if row.endswith("| none |")]
    assert all(cases for cases in families().values())


def test_families_are_where_one_would_look_for_them() -> None:
    found = {family.name: group for group, members in grouped().items() for family in members}
    assert list(grouped()) == list(ORDER)
    assert {found[name] for name in ("llama", "gemma2", "gpt2")} == {"Text"}
    assert {found[name] for name in ("mixtral", "qwen3_moe", "deepseek2")} == {"Experts"}
    assert {found[name] for name in ("mamba2", "jamba", "rwkv7")} == {"State space and hybrids"}
    assert (found["bert"], found["qwen2_5_vl"], found["qwen2_audio"]) == ("Encoders", "Images", "Sound")


def test_a_proof_is_what_cases_compare() -> None:
    def made(**words: object) -> Case:
        return Case(lambda folder: folder, **words)  # type: ignore[arg-type]

    assert list(proofs([made(), made(no_parity="why"), made(image=(8, 8))])) == ["bytes (2)", "logits (3)", "images"]
    assert list(proofs([made(writes=False, no_parity="why")])) == ["vectors"]
    assert list(proofs([made(no_logits="why", sound=1.0)])) == ["bytes", "sound"]
    assert list(proofs([])) == []
