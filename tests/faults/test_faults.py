"""A sample of the damage that `make faults` does in all: each is found and placed, and honest files raise no alarm."""

from __future__ import annotations

import pytest

from tests.faults.__main__ import MODULES, all_verdicts
from tests.faults.kinds import SUITE
from tests.faults.measure import Verdict

FAST = [fault for fault in SUITE.faults if fault.fast]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    home = tmp_path_factory.mktemp("faults")
    verdicts, _ = all_verdicts(FAST, home / "cache", home, ("gguf", "onnx"))
    return verdicts


@pytest.mark.parametrize("fault", FAST, ids=[fault.name for fault in FAST])
def test_damage_is_found_and_placed(fault, said: dict[str, Verdict]) -> None:
    verdict = said[fault.name]
    assert verdict.failed
    assert verdict.names(fault.place), verdict.advice


def test_honest_outputs_raise_no_alarm(said: dict[str, Verdict]) -> None:
    honest = {name: verdict for name, verdict in said.items() if name.startswith("honest ")}
    assert len(honest) == 7
    assert {name: v.reason for name, v in honest.items() if v.failed} == {}


def test_the_suite_has_more_than_fifty_kinds_each_with_a_name_of_its_own() -> None:
    assert MODULES
    names = [fault.name for fault in SUITE.faults]
    assert len(names) == len(set(names)) >= 150
    assert all(fault.place for fault in SUITE.faults)
