"""Reads report.json from anywhere: nothing in it is believed before it has the shape that is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from convert.errors import PlanError, Problem
from convert.json_types import JsonDict
from convert.source.untrusted import MAX_JSON_BYTES, read_bytes, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from validate.report.schema import Report

NAME = "report.json"


def read_report(path: Path) -> Report:
    """The report in the file at `path`, or in report.json of that folder. Raises PlanError for any other thing."""
    from pydantic import ValidationError

    from convert.errors import InputError

    file = path / NAME if path.is_dir() else path
    try:
        raw = read_bytes(file, MAX_JSON_BYTES)
        _check_version(file, json.loads(raw, parse_constant=_refuse_constant))
        return _adapter().validate_json(raw, strict=True)  # tells tuples, which JSON has as lists
    except InputError as error:
        raise PlanError(error.problem) from None
    except ValidationError as error:
        first, *others = error.errors()
        place = ".".join(map(str, first["loc"])) or "the whole"
        more = f" ({len(others)} more such)" if others else ""
        raise _no_report(file, f"{shown(place)}: {first['msg'].lower()}{more}") from None
    except (ValueError, RecursionError) as error:
        raise _no_report(file, f"is not valid JSON ({shown(str(error), 100)[1:-1]})") from None


def _check_version(file: Path, value: object) -> None:
    """Raise PlanError for a report of another version: its words mean other things."""
    from validate.report.schema import SCHEMA_VERSION

    version = value.get("schema_version") if isinstance(value, dict) else None
    if version is None:
        raise _no_report(file, "has no schema_version")
    if version != SCHEMA_VERSION:
        got = f"is a report of schema_version {shown(version, 20)}"
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        remedy = "a newer convert made it: install that" if newer else "measure again with convert validate"
        raise PlanError(Problem(str(file), got, str(SCHEMA_VERSION), remedy))


def _no_report(file: Path, got: str) -> PlanError:
    return PlanError(Problem(str(file), got, "a report.json of convert", "is it the right file?"))


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def json_schema() -> JsonDict:
    """The JSON Schema of report.json."""
    from validate.report.schema import SCHEMA_VERSION

    schema = _adapter().json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"convert report, version {SCHEMA_VERSION}",
        **{word: value for word, value in schema.items() if word != "title"},
    }


def _adapter() -> TypeAdapter[Report]:
    from pydantic import TypeAdapter

    from validate.report.schema import Report

    return TypeAdapter(Report)
