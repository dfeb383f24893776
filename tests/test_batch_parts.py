"""The parts of a batch by themselves: turns, kinds of failure, what changed, what is shared, what is written down."""

from __future__ import annotations

import csv
import errno
import importlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from convert.batch import sharing
from convert.batch.changes import changes
from convert.batch.failures import Failure, failure_of, of_a_death
from convert.batch.journal import Journal
from convert.batch.resources import PATIENCE_SECONDS, Asked, Budget, Disk
from convert.batch.results import ModelResult, Output, from_json
from convert.batch.summary import rows, to_csv
from convert.errors import BusyError, InputError, PlanError, Problem, StageError
from convert.files import STATE_FOLDER
from convert.needs import GB, Machine, Needs

BUDGET = Budget(Machine(cores=4, memory_bytes=16 * GB))


def asked(who: str, memory: int, cores: int = 1, since: float = 0.0, **more: bool) -> Asked:
    needs = Needs(memory * GB, cores, accelerator=more.pop("accelerator", False))
    return Asked(who, needs, since, **more)


@pytest.mark.parametrize(
    ("step", "running", "idle", "wanted"),
    [
        (asked("a", 100), [], 0, True),  # one alone always may
        (asked("a", 8), [asked("b", 8)], 0, True),
        (asked("a", 8), [asked("b", 9)], 0, False),
        (asked("a", 8), [asked("b", 8)], 1 * GB, False),  # idle processes hold the rest
        (asked("a", 1, cores=0), [asked("b", 1)], 0, False),  # all cores
        (asked("a", 1, alone=True), [asked("b", 1)], 0, False),
        (asked("a", 1), [asked("b", 1, alone=True)], 0, False),
        (asked("a", 1, accelerator=True), [asked("b", 1, accelerator=True)], 0, False),
    ],
)
def test_which_step_may_start(step: Asked, running: list[Asked], idle: int, wanted: bool) -> None:
    assert BUDGET.fits(step, running, idle) is wanted


def test_small_steps_go_ahead_but_not_for_ever() -> None:
    large, small, running = asked("large", 12), asked("small", 1), [asked("b", 8)]
    assert BUDGET.next([large, small], running, PATIENCE_SECONDS - 1) is small
    assert BUDGET.next([large, small], running, PATIENCE_SECONDS + 1) is None
    assert BUDGET.next([large, small], [], PATIENCE_SECONDS + 1) is large


def test_no_sequence_of_steps_is_beyond_the_budget() -> None:
    import random

    draw = random.Random(7)
    waiting = [asked(str(i), draw.randint(1, 16), draw.randint(0, 3), float(i)) for i in range(300)]
    running: list[Asked] = []
    done, now = 0, 300.0
    while done < 300:
        now += 1
        while (given := BUDGET.next(waiting, running, now)) is not None:
            waiting.remove(given)
            running.append(given)
            assert sum(one.needs.memory_bytes for one in running) <= 16 * GB
            assert sum(BUDGET.machine.busy(one.needs) for one in running) <= 4
        assert running, "nobody waits while nothing runs"
        running.pop(draw.randrange(len(running)))
        done += 1


@pytest.mark.parametrize(
    ("free", "promised", "limit", "need", "wanted"),
    [
        (10 * GB, {}, None, 9 * GB, True),
        (10 * GB, {"a": 2 * GB}, None, 9 * GB, False),
        (0, {}, None, 0, True),
        (100 * GB, {"a": 4 * GB}, 5 * GB, 2 * GB, False),
        (100 * GB, {}, 5 * GB, 9 * GB, True),  # one alone may
    ],
)
def test_room_on_the_disk(free: int, promised: dict[str, int], limit: int | None, need: int, wanted: bool) -> None:
    assert Disk(free, promised, limit).has_room(need) is wanted


# ---- failures


def chained(error: BaseException, cause: BaseException, *, hidden: bool = False) -> BaseException:
    """`error` as raised while `cause` was handled, `from None` where that is hidden."""
    try:
        try:
            raise cause
        except BaseException:
            if hidden:
                raise error from None
            raise error from cause
    except BaseException as caught:
        return caught


def http(status: int, **headers: str) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers=headers, request=None)
    return HfHubHTTPError("no", response=response)


HTTP: Any = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])  # httpx, of some version


def not_here() -> InputError:
    return InputError("hub model org/x", "is not there")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("config.json", "is not valid JSON"), "broken"),
        (chained(not_here(), http(429), hidden=True), "network"),
        (chained(not_here(), http(503), hidden=True), "network"),
        (chained(not_here(), http(404), hidden=True), "broken"),
        (chained(not_here(), http(403), hidden=True), "broken"),
        (chained(not_here(), HTTP.ConnectError("no route"), hidden=True), "network"),
        (chained(not_here(), HTTP.ReadTimeout("slow"), hidden=True), "network"),
        (chained(StageError("stage 'x'", "out of memory"), MemoryError()), "memory"),
        (chained(StageError("stage 'x'", "full"), OSError(errno.ENOSPC, "full")), "disk"),
        (chained(StageError("stage 'x'", "full"), OSError(errno.EFBIG, "too large")), "broken"),
        (InputError("https://hub/x", "gave nothing", "a server within reach"), "network"),
        (StageError("stage 'x'", "its process was stopped by SIGKILL: "), "killed"),
        (StageError("stage 'x'", "its process was stopped by SIGSEGV: "), "crash"),
        (BusyError(Problem("out/x", "is held by another run")), "busy"),
        (PlanError(Problem("r.yaml:3", "takes about 9 GB of memory")), "broken"),
        (PlanError(Problem("x", "stage 'q' takes more, out of memory")), "broken"),
        (RuntimeError("odd"), "broken"),
    ],
)
def test_what_kind_a_failure_is(error: BaseException, kind: str) -> None:
    assert failure_of(error).kind == kind


def test_a_server_may_say_when_to_come_again() -> None:
    failure = failure_of(chained(not_here(), http(429, **{"Retry-After": "120"}), hidden=True))
    assert failure.pause(1) == 120
    assert failure_of(chained(not_here(), http(503), hidden=True)).pause(1) < 10


def test_waits_grow_and_end() -> None:
    failure = Failure("network", ("busy",))
    waits = [failure.pause(attempt) for attempt in range(1, 12)]
    assert waits[0] < 7
    assert waits[3] > waits[0] * 4
    assert max(waits) <= 300
    assert [failure.again(n, 3) for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert not Failure("broken", ("x",)).again(1, 3)
    assert [Failure("crash", ("x",)).again(n, 3) for n in (1, 2)] == [True, False]
    assert Failure("memory", ("x",)).alone


def test_a_death_is_told_by_its_signal() -> None:
    assert of_a_death(-9, "q4", "").kind == "killed"
    dead = of_a_death(-11, "q4", "Fatal Python error: Segmentation fault")
    assert dead.kind == "crash"
    assert str(dead.problems[0]) == (
        "stage 'q4': the process that converts it was stopped by SIGSEGV: Fatal Python error: Segmentation fault"
    )


# ---- results


def output(label: str = "a-Q8.gguf", verdict: str = "passed", kl: float | None = 1e-3, size: int = 100) -> Output:
    ends = (None, None) if kl is None else (kl * 0.9, kl * 1.1)
    return Output(label, "gguf", f"gguf/{label}", "Q8_0", size, verdict, "", "llama.cpp", kl, *ends)


def result(name: str = "a", status: str = "passed", *outputs: Output, **more: object) -> ModelResult:
    given = {"ran": ("gguf",), "seconds": 2.0, **more}
    return ModelResult(name, f"/m/{name}", "r", "l.txt:1", status, outputs, **given)  # type: ignore[arg-type]


def test_a_result_survives_json() -> None:
    one = result("a", "failed", output(), problems=("why",), failure="broken")
    assert from_json(one.to_json()) == one


def test_a_journal_reads_what_it_wrote_and_passes_over_what_it_did_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep(result("a", "failed"))
    journal.keep(result("a", "passed"))
    with open(journal.folder / "results.jsonl", "a") as file:
        file.write('{"name": "b"}\nrubbish\n{"half')
    assert {name: r.status for name, r in journal.results().items()} == {"a": "passed"}
    journal.compact(journal.results().values())
    assert len((journal.folder / "results.jsonl").read_text().splitlines()) == 1


def test_what_got_worse_is_told_and_chance_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.folder.mkdir(parents=True)
    before = [
        result("a", "passed", output(kl=1e-3)),
        result("b", "passed", output(kl=1e-3)),
        result("c", "passed", output()),
        result("d", "failed"),
        result("e", "passed", output(size=100)),
    ]
    journal.remember(before)
    now = [
        result("a", "passed", output(kl=2e-3)),
        result("b", "passed", output(kl=1.05e-3)),  # within the intervals
        result("c", "missed", output(verdict="failed")),
        result("d", "passed", output()),
        result("e", "passed", output(size=150)),
        result("f", "failed", problems=("odd",)),
    ]
    found = [(c.name, c.way, c.what) for c in changes(now, journal.history())]
    assert found == [
        ("a", "worse", "mean KL 0.001 before, 0.002 now"),
        ("c", "worse", "passed before, failed now"),
        ("e", "worse", "100 bytes before, 150 now"),
        ("d", "better", "does not fail any more"),
        ("f", "new", "was not there before"),
    ]
    assert changes(before, []) == []


def test_a_row_for_each_output_and_no_formula_for_a_spreadsheet() -> None:
    found = [result("a", "passed", output(), output("a-Q4.gguf")), result("=b", "failed", problems=("@x, y",))]
    table = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["output"] for row in table] == ["a-Q8.gguf", "a-Q4.gguf", ""]
    assert table[0]["kl_mean"] == "0.001"
    assert (table[2]["name"], table[2]["reason"]) == ("'=b", "'@x, y")
    assert len(list(rows(found))) == 3


def test_two_recipes_of_a_model_share_what_is_named_by_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    (first / STATE_FOLDER / "reference").mkdir(parents=True)
    (first / STATE_FOLDER / "hashes.json").write_text("{}")
    (first / STATE_FOLDER / "reference/x.npz").write_bytes(b"logits")
    with sharing.lent(second, [first]):
        assert (second / STATE_FOLDER / "reference/x.npz").samefile(first / STATE_FOLDER / "reference/x.npz")
    assert (second / STATE_FOLDER / "hashes.json").read_text() == "{}"
    third = tmp_path / "c"

    def refused() -> None:
        with sharing.lent(third, [first]):
            raise PlanError("no")

    with pytest.raises(PlanError):
        refused()
    assert not third.exists(), "a plan with problems leaves nothing"
