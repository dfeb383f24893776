"""What is published, where it lies, and what a second time does."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert import load_recipe
from convert.errors import PlanError, RecipeError, StageError
from convert.progress import Silent
from convert.release import contents, folder_store, repository
from convert.release.release import Release, Request, release
from convert.release_options import ReleaseOptions

F16, Q8 = "Tiny-VL-F16.gguf", "Tiny-VL-Q8_0.gguf"
FILES = {
    *(F16, Q8, "mmproj-Tiny-VL-F16.gguf", "LICENSE", "NOTICE.txt", "README.md", "SHA256SUMS", "release.json"),
    *("provenance.json", "sbom.cdx.json"),
}


def publish(place: Path, *accepted: str, dry_run: bool = False, **options: object) -> Release:
    recipe = load_recipe(place / "r.yaml")
    asked = ReleaseOptions.model_validate({"to": str(place / "to"), "ollama": False, **options})
    return release(recipe, place / "out", Request(asked, accepted, dry_run), Silent())


def listing(place: Path, name: str = "Tiny-VL-GGUF") -> set[str]:
    return set(folder_store.files_in(place / "to" / name))


def test_a_repository_has_all_that_belongs_to_it(place: Path, measured: dict[str, str]) -> None:
    (one,) = publish(place).repositories
    assert (one.name, one.state) == ("Tiny-VL-GGUF", "new")
    assert listing(place) == FILES
    assert sorted(p.name for p in (place / "to").iterdir()) == [".convert", "Tiny-VL-GGUF"]


def test_large_files_share_their_bytes_with_the_run_and_small_ones_do_not(
    place: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_store, "LINKED_FROM", 100_000)
    publish(place)
    home = place / "to/Tiny-VL-GGUF"
    assert (home / F16).samefile(place / "out/small/gguf" / F16)
    assert (home / "LICENSE").stat().st_nlink == 1
    assert publish(place).repositories[0].state == "unchanged"
    assert not [s for s in _plan(place) if not s.up_to_date], "a link is no change of the run's own file"


def _plan(place: Path) -> list:
    from convert import plan

    return list(plan(load_recipe(place / "r.yaml"), place / "out").steps)


def test_a_second_time_does_only_what_changed(place: Path, measured: dict[str, str]) -> None:
    publish(place)
    before = (place / "to/Tiny-VL-GGUF").stat().st_ino
    assert publish(place).repositories[0].state == "unchanged"
    assert (place / "to/Tiny-VL-GGUF").stat().st_ino == before
    assert publish(place, tags=["new"]).repositories[0].state == "changed"
    (place / "to/Tiny-VL-GGUF/README.md").write_text("mine")
    assert publish(place).repositories[0].state == "changed"
    (place / "to/Tiny-VL-GGUF/more.txt").write_text("mine")
    assert publish(place).repositories[0].state == "changed"
    assert listing(place) == FILES


def test_a_dry_run_writes_nothing(place: Path, measured: dict[str, str]) -> None:
    (one,) = publish(place, dry_run=True).repositories
    assert one.state == "new"
    assert F16 in one.contents.hashes
    assert not (place / "to").exists()


def test_what_failed_is_not_published(place: Path, measured: dict[str, str]) -> None:
    measured[Q8] = "failed"
    for which in ("passed", "all", ["Q8_0", "F16"]):
        found = publish(place, which=which)
        assert Q8 not in listing(place)
        assert found.left_out == {Q8: "mean KL is 3, limit 1"}


def test_what_failed_is_published_when_it_is_named_and_the_card_says_so(place: Path, measured: dict[str, str]) -> None:
    measured[Q8] = "failed"
    publish(place, Q8)
    assert {F16, Q8} < listing(place)
    card = (place / "to/Tiny-VL-GGUF/README.md").read_text()
    assert "> **Warning.**" in card
    assert f"> - `{Q8}`: mean KL is 3, limit 1" in card
    with pytest.raises(PlanError, match=r"--accept-failed: Tiny-VL-F16.gguf passed, wanted one that failed"):
        publish(place, F16)
    with pytest.raises(PlanError, match=r"there is no output 'Q8'; did you mean|there is no output 'Q8'"):
        publish(place, "Q8")


def test_patterns(place: Path, measured: dict[str, str]) -> None:
    publish(place, which=["Q8*"])
    assert F16 not in listing(place)
    with pytest.raises(PlanError, match=r"which: 'Q9_0' fits no output; did you mean 'Q8_0'"):
        publish(place, which=["Q9_0"])


def test_what_was_not_measured_is_published_by_all_alone_and_the_card_says_so(place: Path) -> None:
    with pytest.raises(PlanError, match=r"nothing to publish \(Tiny-VL-F16.gguf: not measured, .*which: all"):
        publish(place)
    publish(place, which="all")
    assert f"Not measured: `{F16}`, `{Q8}`." in (place / "to/Tiny-VL-GGUF/README.md").read_text()


def test_a_run_that_is_not_finished_is_not_published(place: Path, measured: dict[str, str]) -> None:
    (place / "out/small/gguf" / Q8).unlink()
    with pytest.raises(PlanError, match=rf"r.yaml:4: stage 'gguf' is not finished: {Q8} is missing; `convert run"):
        publish(place)


def test_a_file_that_is_too_large_is_refused_with_what_splits_it(
    place: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convert.release import release as module

    monkeypatch.setattr(module, "LARGEST", 200_000)
    with pytest.raises(
        PlanError, match=r"F16.gguf has 0.0 GB, wanted at most .* hubs take; split it with `split: 45GB`"
    ):
        publish(place)
    assert not (place / "to").exists()


def test_what_somebody_else_put_there_stays(place: Path, measured: dict[str, str]) -> None:
    (place / "to/Tiny-VL-GGUF").mkdir(parents=True)
    (place / "to/Tiny-VL-GGUF/theirs").write_text("x")
    with pytest.raises(PlanError, match="exists, and no release made it"):
        publish(place)
    assert listing(place) == {"theirs"}


def test_a_publishing_that_breaks_leaves_what_was_there(
    place: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place)
    before = (place / "to/Tiny-VL-GGUF/SHA256SUMS").read_bytes()

    def broken(path: Path, target: Path) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_store, "put", broken)
    with pytest.raises(OSError, match="No space"):
        publish(place, tags=["new"])
    assert (place / "to/Tiny-VL-GGUF/SHA256SUMS").read_bytes() == before
    assert not list((place / "to").glob("*.partial"))


def test_a_file_whose_bytes_are_not_the_runs_is_never_published(
    place: Path, measured: dict[str, str], made: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = contents.hash_file

    def flipped(path: Path, progress: object, parts_of: int | None = None) -> object:
        if path.name == Q8:
            raw = bytearray(path.read_bytes())
            raw[5000] ^= 1
            path.write_bytes(raw)
        return real(path, progress, parts_of)

    monkeypatch.setattr(contents, "hash_file", flipped)
    with pytest.raises(StageError, match=r"Q8_0.gguf: was changed since it was made"):
        publish(place)


def test_two_files_in_one_place_are_refused(place: Path, measured: dict[str, str], made: repository.Made) -> None:
    from dataclasses import replace

    one, two = made.rows
    same = replace(two.output, weights=replace(two.output.weights, path=two.output.weights.path.with_name(F16)))
    with pytest.raises(PlanError, match=rf"Tiny-VL-GGUF: {F16} and another output both have a file {F16}"):
        repository.lay_out(made, [one, replace(two, output=same, bundle=two.bundle.with_(weights=()))], None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{which: some}", "which: 'some' is neither 'passed' nor 'all'"),
        ("{to: 'ftp://x'}", "to: 'ftp://x': nothing is published at ftp://"),
        ("{tgas: [x]}", "unknown key 'tgas'; did you mean 'tags'?"),
        ("{to: 'hf://a/b/c'}", "wanted hf://ORGANIZATION/{name}"),
        ("[1]", "`release:` is a list"),
    ],
)
def test_a_recipe_says_what_is_wrong_with_it_and_where(tmp_path: Path, words: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(f"name: x\nmodel: {{path: m}}\nrelease: {words}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "r.yaml:3: " in str(caught.value)
    assert said in str(caught.value)
