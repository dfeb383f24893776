"""What is written beside the files: cards that the hub reads, bills of materials and provenance for others' tools."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from convert.errors import PlanError
from convert.release import folder_store
from convert.release.licences import spdx
from tests.release.test_release_folder import F16, Q8, publish

HOME = "to/Tiny-VL-GGUF"


@pytest.fixture
def card(place: Path, measured: dict[str, str]) -> ModelCard:
    publish(place)
    return ModelCard.load(place / HOME / "README.md")


def test_the_hub_reads_its_metadata(card: ModelCard) -> None:
    said = card.data.to_dict()
    assert (said["license"], said["language"], said["pipeline_tag"]) == (
        "apache-2.0",
        ["en", "de"],
        "image-text-to-text",
    )
    assert said["library_name"] == "gguf"
    assert {"gguf", "quantized", "tiny"} <= set(said["tags"])
    assert "base_model" not in said, "a checkpoint of this disk is nobody's base model"
    results = {(r.metric_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert results[f"{Q8}: equal most likely tokens", "top1_agreement"] == 0.97
    assert len(results) == 4
    assert ModelCard(str(card)).data.to_dict() == said


def test_the_base_model_is_named_where_it_is_on_the_hub(place: Path, measured: dict[str, str]) -> None:
    publish(place, base_model="org/Tiny-VL", name="Other")
    said = ModelCard.load(place / "to/Other-GGUF/README.md").data.to_dict()
    assert (said["base_model"], said["base_model_relation"]) == ("org/Tiny-VL", "quantized")


def test_the_card_says_what_a_person_asks(card: ModelCard, place: Path) -> None:
    text = card.text
    for word in (
        f"| [`{Q8}`](./{Q8}) | Q8_0 | ",
        "97.0% | 1.0020 | 90.0% |",
        "For images, take [`mmproj-Tiny-VL-F16.gguf`](./mmproj-Tiny-VL-F16.gguf) too.",
        f"`{Q8}` (",
        "| 2 GB or more |",
        "calculated: the weights, and what llama.cpp takes for a context of 8192 tokens and an image.",
        f"llama-server -m {Q8} --mmproj mmproj-Tiny-VL-F16.gguf",
        "Apache-2.0, as the original.",
        "Carried along: [`LICENSE`](./LICENSE), [`NOTICE.txt`](./NOTICE.txt).",
        "- numpy ",
        "on ours.txt `abababababababab`",
    ):
        assert word in text, word
    for link in re.findall(r"\]\(\./(.+?)\)", text):
        assert (place / HOME / link).is_file(), link
    assert "hf.co" not in text, "it is not on a hub"


def test_tables_are_tables(card: ModelCard) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", card.text, re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_template_of_ones_own(place: Path, measured: dict[str, str]) -> None:
    (place / "my.md.jinja").write_text(
        "# {{ name }}\n{% for line in lines %}\n- {{ line.file }} {{ line.kl }}\n{% endfor %}"
    )
    publish(place, card=str(place / "my.md.jinja"))
    text = ModelCard.load(place / HOME / "README.md").text
    assert text.startswith(f"# Tiny-VL-GGUF\n- {F16} ")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ nothing.there }}", r"my.md.jinja: the card's template: 'nothing' is undefined"),
        ("{% for %}", r"my.md.jinja:1: the card's template: "),
        ("{{ name.__class__.__mro__ }}", r"my.md.jinja: the card's template: access to attribute '__class__'"),
        ("{{ lines.clear() }}", r"my.md.jinja: the card's template: "),
    ],
)
def test_a_template_that_is_wrong(place: Path, measured: dict[str, str], template: str, said: str) -> None:
    (place / "my.md.jinja").write_text(template)
    with pytest.raises(PlanError, match=said):
        publish(place, card=str(place / "my.md.jinja"))
    assert not (place / HOME).exists()


def test_the_picture_is_an_svg_of_its_own() -> None:
    from tests.validate.sample_report import sample_report
    from validate.report.picture import size_against_drift

    said = sample_report()
    picture = size_against_drift(said, {output["label"] for output in said["outputs"]})
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc", "style", "path", "text"} <= names
    assert "script" not in names
    assert size_against_drift(said, set()) == ""


def test_provenance_is_an_in_toto_statement_of_every_file(card: ModelCard, place: Path) -> None:
    said = json.loads((place / HOME / "provenance.json").read_text())
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    names = {subject["name"] for subject in said["subject"]}
    assert names == set(folder_store.files_in(place / HOME)) - {"provenance.json", "release.json", "SHA256SUMS"}
    build = said["predicate"]["buildDefinition"]
    sources = {one["name"]: one["digest"]["sha256"] for one in build["resolvedDependencies"]}
    assert {"config.json", "model.safetensors", "ours.txt"} <= set(sources)
    assert [stage["use"] for stage in build["externalParameters"]["stages"]] == ["source", "gguf"]
    assert build["externalParameters"]["stages"][1]["options"]["types"] == ["F16", "Q8_0"]
    assert set(said["predicate"]["runDetails"]) == {"builder", "metadata"}
    assert "startedOn" not in said["predicate"]["runDetails"]["metadata"]


def test_the_bill_of_materials_is_valid(card: ModelCard, place: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    text = (place / HOME / "sbom.cdx.json").read_text()
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    said = json.loads(text)["metadata"]["component"]
    assert said["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert {one["name"] for one in said["components"]} >= {F16, Q8, "README.md"}


@pytest.mark.parametrize(
    ("licence", "name", "wanted"),
    [
        ("apache-2.0", "", "Apache-2.0"),
        ("MIT", "", "MIT"),
        ("gpl-3.0", "", "GPL-3.0-only"),
        ("llama3.1", "", "LicenseRef-llama3.1"),
        ("other", "My licence", "LicenseRef-My-licence"),
        ("", "", "NOASSERTION"),
        ("unknown", "", "NOASSERTION"),
    ],
)
def test_licences(licence: str, name: str, wanted: str) -> None:
    assert spdx(licence, name) == wanted


def test_every_spdx_id_of_ours_is_on_the_list() -> None:
    library = pytest.importorskip("license_expression")
    from convert.release.licences import HUB_NAMES, SPDX

    known = library.get_spdx_licensing()
    assert not [name for name in {*SPDX.values(), *HUB_NAMES.values()} if known.validate(name).errors]


def test_nothing_published_says_where_it_was_made(place: Path, measured: dict[str, str]) -> None:
    """No folder of this machine, no user, no host, no time."""
    publish(place)
    words = [
        str(place),
        str(Path.home()) + "/",
        str(Path(__file__).parents[2]),
        os.sep + "tmp" + os.sep,
        time.tzname[0],
    ]
    user, host = getpass.getuser(), socket.gethostname()
    words += [word for word in (f"/{user}/", f"@{host}", f'"{host}"') if len(word) > 4]
    manifests = list((place / "out/small").glob("*/manifest.json"))
    assert len(manifests) == 2
    for path in [*manifests, *((place / HOME) / name for name in folder_store.files_in(place / HOME))]:
        raw = path.read_bytes()
        found = [word for word in words if word.encode() in raw and not (word == time.tzname[0] and len(word) < 4)]
        assert not found, f"{path.name} says {found}"


def test_times_are_source_date_epochs(place: Path, measured: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    publish(place)
    first = {name: (place / HOME / name).read_bytes() for name in folder_store.files_in(place / HOME)}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    publish(place)
    changed = [name for name in first if (place / HOME / name).read_bytes() != first[name]]
    assert set(changed) == {"provenance.json", "sbom.cdx.json", "release.json", "SHA256SUMS"}
    assert "2023-11-14T22:13:20Z" in (place / HOME / "sbom.cdx.json").read_text()


def test_the_same_run_gives_the_same_bytes_elsewhere(place: Path, measured: dict[str, str], tmp_path: Path) -> None:
    publish(place)
    sums = (place / HOME / "SHA256SUMS").read_bytes()
    publish(place, to=str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere/Tiny-VL-GGUF/SHA256SUMS").read_bytes() == sums
