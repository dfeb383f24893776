"""Where a repository's files come from: an in-toto statement with SLSA's predicate, and a CycloneDX bill of materials.

Sources: in-toto.io/Statement/v1; slsa.dev/spec/v1.0/provenance; cyclonedx.org/docs/1.6/json. Both hold no time unless
SOURCE_DATE_EPOCH says one, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping

from convert import distribution
from convert.json_types import JsonDict, JsonObject
from convert.release import lineage
from convert.release.hashing import FileHash
from convert.release.licences import UNKNOWN
from convert.release.repository import Repository
from convert.release.rows import Made

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
TOOL = f"pkg:pypi/{distribution.NAME}"
BUILD_TYPE = f"{TOOL}#recipe/v1"  # what externalParameters and the rest mean
HUB = "https://huggingface.co"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, TOOL)


def statement(made: Made, repository: Repository, files: Mapping[str, FileHash]) -> str:
    """provenance.json: these files, and what they were built from by whom."""
    steps = lineage.steps_of(made, (place.row for place in repository.places))
    content = {
        "_type": STATEMENT,
        "subject": [{"name": path, "digest": {"sha256": files[path].sha256}} for path in sorted(files)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": {"name": made.recipe.name, "sha256": made.recipe.sha256},
                    "stages": list(lineage.stage_words(steps)),
                },
                "internalParameters": {"packages": lineage.packages(made, steps)},
                "resolvedDependencies": list(_dependencies(made, repository)),
            },
            "runDetails": {"builder": _builder(), "metadata": _metadata(repository, files)},
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _builder() -> JsonDict:
    return {"id": TOOL, "version": {distribution.NAME: distribution.RELEASE}}


def _metadata(repository: Repository, files: Mapping[str, FileHash]) -> JsonDict:
    when = lineage.timestamp()
    found: JsonDict = {"invocationId": str(_identity(repository, files))}
    return {**found, "startedOn": when, "finishedOn": when} if when else found


def _identity(repository: Repository, files: Mapping[str, FileHash]) -> uuid.UUID:
    """The same for the same files, whenever and wherever they are made."""
    said = [repository.name, *(f"{path} {files[path].sha256}" for path in sorted(files))]
    return uuid.uuid5(NAMESPACE, "\n".join(said))


def _dependencies(made: Made, repository: Repository) -> Iterable[JsonDict]:
    model = made.source.model
    home = f"{HUB}/{model.hub}/resolve/{model.revision or 'main'}/" if model.hub else ""
    for name, digest in sorted(lineage.source_files(made).items()):
        words: JsonDict = {"name": name, "digest": {"sha256": digest}}
        if home:
            words["uri"] = home + name
            words["digest"] |= {"gitCommit": model.revision} if model.revision else {}
        yield words
    steps = lineage.steps_of(made, (place.row for place in repository.places))
    for text in (*lineage.calibrated_on(made, steps), *lineage.measured_on(made)):
        yield {"name": text.name, "digest": {"sha256": text.sha256}, "annotations": {"use": text.use}}


def bill(made: Made, repository: Repository, files: Mapping[str, FileHash], licence: str) -> str:
    """sbom.cdx.json: the model as a component, its files, what it was made from, and the texts that went into it."""
    reference = f"model:{repository.name}"
    steps = lineage.steps_of(made, (place.row for place in repository.places))
    texts = [*lineage.calibrated_on(made, steps), *lineage.measured_on(made)]
    component: JsonDict = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": repository.name,
        "licenses": _licences(licence),
        "components": [_file(path, found) for path, found in sorted(files.items())],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "self-supervised"},
                "datasets": [{"ref": f"data:{text.use}:{text.sha256[:16]}"} for text in texts],
            },
            **_quantitative(repository),
        },
        "pedigree": {"ancestors": [_ancestor(made)]},
    }
    when = lineage.timestamp()
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_identity(repository, files)}",
        "version": 1,
        "metadata": {
            **({"timestamp": when} if when else {}),
            "tools": {"components": [_package(distribution.NAME, distribution.RELEASE)]},
            "component": component,
        },
        "components": [
            *(_data(text) for text in dict.fromkeys(texts)),
            *(_package(name, version) for name, version in lineage.packages(made, steps).items() if name != "convert"),
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _licences(licence: str) -> list[JsonDict]:
    """None where it is not known; an id of SPDX' list, or the name of what is on no list."""
    if licence == UNKNOWN:
        return []
    word = "name" if licence.startswith("LicenseRef-") else "id"
    return [{"license": {word: licence}}]


def _file(path: str, found: FileHash) -> JsonDict:
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": found.sha256}],
    }


def _ancestor(made: Made) -> JsonDict:
    model = made.source.model
    hashes = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for name, digest in sorted(lineage.source_files(made).items())
    ]
    purl = f"pkg:huggingface/{model.hub}" + (f"@{model.revision}" if model.revision else "")
    named = {"purl": purl} if model.hub else {}
    return {"type": "machine-learning-model", "bom-ref": "source", "name": model.name, **named, "components": hashes}


def _data(text: lineage.Text) -> JsonDict:
    return {
        "type": "data",
        "bom-ref": f"data:{text.use}:{text.sha256[:16]}",
        "name": text.name,
        "description": f"what it was {'calibrated' if text.use == 'calibration' else 'measured'} on",
        "hashes": [{"alg": "SHA-256", "content": text.sha256}],
    }


def _package(name: str, version: str) -> JsonDict:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _quantitative(repository: Repository) -> JsonDict:
    metrics = [
        {"type": metric, "value": f"{value:.6g}", "slice": place.weights}
        for place in repository.places
        if place.row.entry is not None
        for metric in ("kl_mean", "top1", "ppl_ratio")
        if (value := place.row.entry["metrics"].get(metric)) is not None
    ]
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


def subjects(content: JsonObject) -> dict[str, str]:
    """Path -> sha256 of a statement. Raises KeyError or TypeError for another thing."""
    if content["_type"] != STATEMENT or content["predicateType"] != PREDICATE:
        raise TypeError(f"a {content['_type']} with a {content['predicateType']}")
    return {str(one["name"]): str(one["digest"]["sha256"]) for one in content["subject"]}
