"""What runs, what is skipped and why; what is on disk after every kind of end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import Result, load_recipe, plan, run
from convert.bundle import Bundle, Manifest, Role
from convert.errors import BusyError, ConvertError, PlanError, StageError
from convert.events import Event
from convert.hashes import HashMemory
from convert.plan import plan_verified
from tests import fake_stages

RECIPE = """\
name: demo
model: {path: model.txt}
stages:
  one: {use: upper, suffix: "?"}
  two: {use: upper, from: one}
validate: {limit: 100}
"""


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    with fake_stages.installed(monkeypatch) as fakes:
        yield fakes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "model.txt").write_text("hello")
    return tmp_path


def go(place: Path, recipe: str = RECIPE, **options: Any) -> Result:
    (place / "r.yaml").write_text(recipe)
    return run(plan(load_recipe(place / "r.yaml"), place / "out", **options))


def reasons(place: Path, recipe: str = RECIPE) -> dict[str, str]:
    (place / "r.yaml").write_text(recipe)
    return {s.name: s.reason for s in plan(load_recipe(place / "r.yaml"), place / "out").steps}


def test_the_whole_flow_and_then_nothing_to_do(place: Path, fakes: Any) -> None:
    result = go(place)
    assert result.ran == ("source", "one", "two", "validate")
    assert (place / "out/demo/two/upper.txt").read_text() == "HELLO?!"
    assert result.passed
    assert json.loads((place / "out/demo/report.json").read_text()) == result.report
    assert (place / "out/demo/report.md").read_text() == "# report"
    again = go(place)
    assert again.ran == ()
    assert again.bundles == result.bundles
    assert again.report == result.report
    assert len(fakes["upper"].runs) == 2


def test_the_manifest_names_every_file_with_its_hash(place: Path) -> None:
    go(place)
    manifest = Manifest.read(place / "out/demo/one")
    (artifact,) = manifest.bundle.of(Role.WEIGHTS)
    assert artifact.sha256 == hashlib.sha256(b"HELLO?").hexdigest()
    assert artifact.size == 6
    source = Manifest.read(place / "out/demo/source")
    assert list(source.key_inputs["files"]) == ["model.txt"]
    assert source.bundle.of(Role.WEIGHTS)[0].sha256 == source.key_inputs["files"]["model.txt"]


def test_a_manifest_says_nothing_of_this_machines_folders(place: Path) -> None:
    go(place)
    texts = [path.read_text() for path in (place / "out/demo").glob("*/manifest.json")]
    assert len(texts) == 4
    assert not [text for text in texts if str(place) in text]
    (elsewhere,) = Manifest.read(place / "out/demo/source").bundle.of(Role.WEIGHTS)
    assert (elsewhere.path.name, elsewhere.path.is_file()) == ("model.txt", False)


def test_the_model_may_be_moved_and_nothing_is_made_again(place: Path) -> None:
    go(place)
    (place / "there").mkdir()
    (place / "model.txt").rename(place / "there/model.txt")
    assert go(place, RECIPE.replace("model.txt", "there/model.txt")).ran == ()


def rot(path: Path, place: int) -> None:
    """Change a bit as a bad disk does, under the same size and times (but for ctime, which nobody can set)."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def forget_ctime(place: Path) -> None:
    """Let the memory of hashes hold the stamps of this moment."""
    memory = place / "out/demo/.convert/hashes.json"
    known = json.loads(memory.read_text())
    for path, entry in known.items():
        status = Path(path).stat()
        entry[0] = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    memory.write_text(json.dumps(known))


def test_a_rotten_bit_in_a_sampled_place_is_noticed(place: Path) -> None:
    go(place)
    rot(place / "out/demo/one/upper.txt", 0)
    forget_ctime(place)
    assert reasons(place)["one"] == "upper.txt was changed after it was written"
    assert "one" in go(place).ran
    assert (place / "out/demo/one/upper.txt").read_text() == "HELLO?"


def test_verify_finds_a_rotten_bit_anywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.hashes.SAMPLE_BYTES", 1)
    monkeypatch.setattr("convert.hashes.SAMPLES", 2)
    go(place)
    rot(place / "out/demo/one/upper.txt", 2)
    forget_ctime(place)
    assert reasons(place)["one"] == "up to date"
    planned = plan_verified(load_recipe(place / "r.yaml"), place / "out")
    assert planned.steps[1].reason == "upper.txt was changed after it was written"
    assert run(planned).ran == ("one",)
    assert (place / "out/demo/one/upper.txt").read_text() == "HELLO?"


def test_a_changed_option_runs_what_depends_on_it(place: Path) -> None:
    go(place)
    changed = RECIPE.replace('"?"', '"."')
    assert reasons(place, changed) == {
        "source": "up to date",
        "one": 'option suffix changed: "?" -> "."',
        "two": "input 'one' changed",
        "validate": "input 'one' changed; input 'two' changed",
    }
    assert go(place, changed).ran == ("one", "two", "validate")
    only_two = changed.replace("from: one", "from: one, times: 2")
    assert go(place, only_two).ran == ("two", "validate")


def test_a_changed_input_byte_runs_everything(place: Path) -> None:
    go(place)
    (place / "model.txt").write_text("jello")
    assert reasons(place)["source"] == "model.txt changed"
    assert go(place).ran == ("source", "one", "two", "validate")
    assert (place / "out/demo/two/upper.txt").read_text() == "JELLO?!"


def test_a_changed_tool_runs_its_stage(place: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes["upper"].TOOLS = ("click",)
    go(place)
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "click" else real(name))
    assert reasons(place)["one"].startswith("tool click changed: ")
    assert go(place).ran == ("one", "two", "validate")


def test_a_file_an_option_names_is_part_of_the_key(place: Path) -> None:
    (place / "extra.txt").write_text("a")
    recipe = RECIPE.replace("from: one", "from: one, extra: extra.txt")
    go(place, recipe)
    (place / "extra.txt").write_text("b")
    assert reasons(place, recipe)["two"] == "extra.txt changed"


def test_a_damaged_or_missing_output_is_made_again(place: Path) -> None:
    first = go(place)
    target = place / "out/demo/one/upper.txt"
    target.write_text("HELLO.")  # same size
    assert reasons(place)["one"] == "upper.txt was changed after it was written"
    assert go(place).ran == ("one",)
    target.unlink()
    assert go(place).ran == ("one",)
    (place / "out/demo/one/manifest.json").write_text("{")
    assert go(place).ran == ("one",)
    assert go(place).bundles == first.bundles


@pytest.mark.parametrize("change", [("{", "[" * 100_000 + "{"), ('"ingredients": {', '"ingredients": [], "x": {')])
def test_a_manifest_that_is_none_is_made_again(place: Path, change: tuple[str, str]) -> None:
    go(place)
    manifest = place / "out/demo/one/manifest.json"
    manifest.write_text(manifest.read_text().replace(*change, 1).replace('"key": "', '"key": "0'))
    assert "cannot be read" in reasons(place)["one"]
    assert go(place).ran == ("one",)


def test_a_moved_checkpoint_is_still_the_same(place: Path) -> None:
    go(place)
    (place / "new").mkdir()
    (place / "model.txt").rename(place / "new/model.txt")
    result = go(place, RECIPE.replace("model.txt", "new/model.txt"))
    assert result.ran == ()
    assert result.bundles["source"].of(Role.WEIGHTS)[0].path == place / "new/model.txt"


def test_a_folder_named_by_a_dot_counts_by_its_name(place: Path) -> None:
    """The model's name is its folder's, so another name is another output."""
    from convert.keys import plain

    assert plain(place / "a/.") == plain(place / "a/../a") == "a"
    assert plain(Path()) == Path.cwd().name


def test_folders_of_stages_that_are_gone_are_pointed_out(place: Path) -> None:
    go(place)
    (place / "out/demo/mine").mkdir()
    (place / "r.yaml").write_text(
        RECIPE.replace("  one:", "  uno:").replace("from: one", "from: uno").split("validate")[0]
    )
    events: list[Event] = []
    planned = plan(load_recipe(place / "r.yaml"), place / "out")
    said = [
        f"{place}/out/demo/{name}: of a stage that is no longer in the recipe; delete it when you no longer need it"
        for name in ("one", "validate")
    ]
    assert list(planned.notes) == said
    run(planned, events.append)
    assert [e.data["text"] for e in events if e.kind == "note" and e.step == "plan"] == said


def test_force(place: Path) -> None:
    go(place)
    assert go(place, force=["one"]).ran == ("one",)
    with pytest.raises(PlanError, match="no stage 'onne'; did you mean 'one'"):
        go(place, force=["onne"])


def test_a_limit_that_is_passed(place: Path) -> None:
    result = go(place, RECIPE.replace("limit: 100", "limit: 6"))
    assert not result.passed
    assert result.exit_code == 3
    assert go(place, RECIPE.replace("limit: 100", "limit: 6")).exit_code == 3  # and again when nothing has to run


def test_a_checkpoint_that_changes_while_it_is_read_is_no_good(place: Path, fakes: Any) -> None:
    """The key is of the bytes that were hashed; an output of other bytes must never be found under it."""
    real = fakes["upper"].run

    def slow(options: Any, inputs: Any, out: Path, progress: Any) -> Any:
        (place / "model.txt").write_text("jello")
        return real(options, inputs, out, progress)

    fakes["upper"].run = slow
    with pytest.raises(StageError, match=r"model\.txt: changed while stage 'one' was reading it.*run again"):
        go(place)
    assert not (place / "out/demo/one").exists()
    fakes["upper"].run = real
    (place / "model.txt").write_text("hello")
    assert (go(place).folder / "one/upper.txt").read_text() == "HELLO?"


def test_a_stage_may_link_its_input_and_nothing_is_hashed_again(
    place: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hard link moves the ctime of the checkpoint: that must not cost another pass over it."""
    old = 1_600_000_000
    os.utime(place / "model.txt", (old, old))
    monkeypatch.setattr("convert.hashes.RACY_NS", -(10**18))  # ctime cannot be set back
    read: list[str] = []
    original = HashMemory._read
    monkeypatch.setattr(HashMemory, "_read", lambda self, path, p: read.append(path.name) or original(self, path, p))

    def link(options: Any, inputs: Any, out: Path, progress: Any) -> Bundle:
        (source,) = inputs.values()
        (given,) = source.of(Role.WEIGHTS)
        (out / "upper.txt").hardlink_to(given.path)
        return source.with_(weights=replace(given, path=out / "upper.txt"))

    fakes["upper"].run = link
    recipe = "name: demo\nmodel: {path: model.txt}\nstages:\n  one: {use: upper}\nvalidate: {}\n"
    go(place, recipe)
    assert read.count("model.txt") == 1
    go(place, recipe, force=["one"])  # the link that was there goes, another comes
    assert go(place, recipe).ran == ()
    assert read.count("model.txt") == 1


def test_a_checkpoint_that_changes_before_the_source_is_looked_at_is_no_good(place: Path, fakes: Any) -> None:
    real = fakes["source"].run

    def late(*arguments: Any) -> Any:
        (place / "model.txt").write_text("jello")
        return real(*arguments)

    fakes["source"].run = late
    with pytest.raises(StageError, match=r"model\.txt: changed while stage 'source' was reading it"):
        go(place)


def test_a_failing_stage_leaves_its_log_and_nothing_else(place: Path) -> None:
    go(place)
    (place / "model.txt").write_text("fail")
    with pytest.raises(StageError, match=r"stage 'one': RuntimeError: the text says so; the details are in .*one\.log"):
        go(place)
    demo = place / "out/demo"
    assert "Traceback" in (demo / "logs/one.log").read_text()
    assert (demo / "one/upper.txt").read_text() == "HELLO?"  # the last good one stays
    assert not list(demo.glob("*.partial"))
    assert not (demo / "report.json").exists()  # it spoke of other outputs
    (place / "model.txt").write_text("hello")
    assert go(place).report is not None


def test_what_a_stage_refuses_once_the_run_has_begun_is_a_failed_stage(place: Path, fakes: Any) -> None:
    """Exit code 2 promises that nothing was started."""

    def refuse(*arguments: Any) -> Any:
        raise PlanError("checkpoint: lacks a tensor", "checkpoint: has one too many")

    fakes["upper"].run = refuse
    with pytest.raises(ConvertError) as caught:
        go(place)
    assert caught.value.exit_code == 1
    assert caught.value.problems == ("checkpoint: lacks a tensor", "checkpoint: has one too many")


def test_ctrl_c_leaves_nothing_half_done(place: Path) -> None:
    (place / "model.txt").write_text("stop")
    with pytest.raises(KeyboardInterrupt):
        go(place)
    assert sorted(p.name for p in (place / "out/demo").iterdir()) == [".convert", "logs", "source"]


def test_a_full_disk_is_one_message(place: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, says in ((28, "the disk is full"), (27, "the file system takes no file as large as this")):

        def full(*arguments: Any, number: int = number) -> Any:
            raise OSError(number, os.strerror(number))

        fakes["upper"].run = full
        with pytest.raises(StageError, match=says):
            go(place)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(PlanError, match=r"0\.00 GB are free, wanted 0\.07 GB"):
        go(place)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_no_run_made_is_not_replaced(place: Path, kind: str) -> None:
    mine = place / "out/demo/one"
    (place / "elsewhere").mkdir()
    mine.parent.mkdir(parents=True)
    if kind == "folder":
        mine.mkdir()
        (mine / "precious.txt").write_text("years of work")
    elif kind == "file":
        mine.write_text("years of work")
    else:
        mine.symlink_to(place / "elsewhere")
    with pytest.raises(PlanError, match=r"out/demo/one: exists, and no run of convert made it.*another --out"):
        go(place)
    assert mine.is_symlink() or (mine / "precious.txt" if kind == "folder" else mine).read_text() == "years of work"
    assert sorted(p.name for p in mine.parent.iterdir()) == ["one"]


def test_an_empty_folder_is_nobodys(place: Path) -> None:
    (place / "out/demo/one").mkdir(parents=True)
    assert go(place).ran == ("source", "one", "two", "validate")


def test_a_model_in_the_folder_of_a_stage_is_not_deleted(place: Path) -> None:
    go(place)
    model = place / "out/demo/source/model.txt"  # beside a manifest, so that it looks like an output
    model.write_text("mine")
    with pytest.raises(PlanError, match=r"source/model\.txt: lies in the output folder of stage 'source'"):
        go(place, RECIPE.replace("model.txt", "out/demo/source/model.txt"))
    assert model.read_text() == "mine"


@pytest.mark.parametrize("how", ["file", "read only"])
def test_an_output_folder_that_cannot_be_is_a_problem_of_the_plan(
    place: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "file":
        (place / "out").write_text("a file")
    else:
        # Root may write anywhere, so the question itself is answered otherwise.
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    found = plan(load_recipe(place / "r.yaml"), place / "out").problems
    assert [str(p).partition(": ")[2] for p in found] == [
        "is a file, wanted a folder; name another --out"
        if how == "file"
        else "cannot be written to; change its permissions or name another --out"
    ]


def test_a_finished_output_folder_may_be_read_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(place)
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    assert not plan(load_recipe(place / "r.yaml"), place / "out").problems


def test_a_report_someone_edited_is_put_right(place: Path) -> None:
    first = go(place)
    (place / "out/demo/report.json").write_bytes(b"\xff\xfe")
    assert go(place).report == first.report
    assert json.loads((place / "out/demo/report.json").read_text()) == first.report


def test_a_report_without_outputs_is_no_pass(tmp_path: Path) -> None:
    assert Result(tmp_path, {}, (), {"outputs": []}).exit_code == 3


def test_what_a_killed_run_left_is_cleared(place: Path) -> None:
    first = go(place)
    demo = place / "out/demo"
    (demo / "one.partial").mkdir()
    (demo / "one.partial/upper.txt").write_text("half")
    (demo / "two").rename(demo / "two.old")  # killed between the two renames
    result = go(place)
    assert result.ran == ()
    assert result.bundles == first.bundles
    assert not list(demo.glob("*.partial"))
    assert not list(demo.glob("*.old"))


def _hold(folder: Path, held: Any, done: Any) -> None:
    from convert.lock import hold

    with hold(folder):
        held.set()
        done.wait(30)


def test_the_second_run_says_who_holds_the_folder(place: Path) -> None:
    go(place)
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(place / "out/demo", held, done))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(BusyError, match=f"is held by process {other.pid} on "):
            go(place)
    finally:
        done.set()
        other.join(30)
    assert other.exitcode == 0
    assert go(place).ran == ()


def test_a_problem_starts_nothing(place: Path, fakes: Any) -> None:
    fakes["upper"].NEEDS = {"no_such_module": "gguf"}
    (place / "model.txt").unlink()
    planned = plan(load_recipe(place / "r.yaml"), place / "out")
    text = "\n".join(map(str, planned.problems))
    assert "model.txt: is not there, wanted a file; check the path" in text
    assert (
        "r.yaml:4: stage 'one' needs no_such_module, not installed; pip install 'convert-quantize-validate[gguf]'"
        in text
    )
    with pytest.raises(PlanError):
        run(planned)
    assert not (place / "out").exists()


def test_a_stages_own_problem_is_at_its_line(place: Path, fakes: Any) -> None:
    from convert.errors import Problem

    (place / "r.yaml").write_text(RECIPE.replace('{use: upper, suffix: "?"}', '\n    use: upper\n    suffix: "?"'))
    said = [Problem("upper", "is odd"), Problem("suffix", "is worse"), Problem("a.bin", "is torn")]
    fakes["upper"].check = lambda options, inputs: said
    found = plan(load_recipe(place / "r.yaml"), place / "out").problems
    at = f"{place}/r.yaml"
    assert [str(p) for p in found] == [f"{at}:4: is odd", f"{at}:6: suffix: is worse", "a.bin: is torn"]


def test_a_wrong_path_is_found_while_the_model_is_still_on_the_hub(place: Path, fakes: Any) -> None:
    fakes["source"].fetched = lambda options: False
    (place / "r.yaml").write_text(RECIPE.replace("{limit: 100}", "{text: none.txt}"))
    planned = plan(load_recipe(place / "r.yaml"), place / "out")
    assert planned.needs_download
    assert [str(p) for p in planned.problems] == [
        f"{place}/r.yaml:6: no file {place}/none.txt; paths are relative to the recipe"
    ]


def test_events_tell_the_story(place: Path) -> None:
    events: list[Event] = []
    run(plan(load_recipe(place / "r.yaml"), place / "out"), events.append)
    assert [e.step for e in events if e.kind == "step_started"] == ["source", "one", "two", "validate"]
    progress = [e.data for e in events if e.kind == "progress" and e.step == "one"]
    seconds = progress[-1].pop("seconds")
    assert 0 <= seconds < 60
    assert progress[-1] == {"what": "capitals", "done": 5, "total": 5, "unit": "B"}
    json.dumps([dict(e.data) for e in events])


def test_a_stage_is_told_its_key_so_that_a_file_can_name_it(place: Path, fakes: Any) -> None:
    told = []
    original = fakes["upper"].run
    fakes["upper"].run = lambda options, inputs, out, progress: (
        told.append(progress.key) or original(options, inputs, out, progress)
    )
    go(place)
    assert told == [Manifest.read(place / "out/demo" / name).key for name in ("one", "two")]


def test_tools_that_depend_on_the_options_are_in_the_key() -> None:
    from convert.formats.gguf.imatrix_stage import STAGE as imatrix
    from convert.formats.gguf.stage import STAGE as gguf

    plain = gguf.Options(types=["Q4_K_M"])
    measured = gguf.Options(types=["Q4_K_M"], imatrix={"calibrate": "text.txt", "parse_special": True})
    assert gguf.tools(plain) == gguf.TOOLS
    assert set(imatrix.TOOLS) <= set(gguf.tools(measured))
    assert measured.imatrix.asked.parse_special
