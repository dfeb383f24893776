"""The docs' table of families is the one that is generated."""

from __future__ import annotations

from convert import architectures
from tests.parity.families import families
from tests.parity.table import PAGE, on_page, table


def test_the_page_has_the_table_as_generated() -> None:
    told = "python -m tests.parity.table --write puts it there"
    assert on_page(PAGE.read_text(encoding="utf-8")) == table(), told


def test_every_family_has_its_row_and_its_cases() -> None:
    rows = [line for line in table().splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(architectures.names())
    assert all(" 0 variants" not in row for row in rows)
    assert all(cases for cases in families().values())
