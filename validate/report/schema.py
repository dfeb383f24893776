"""The words of report.json. A number that was NaN or infinite is null, and `reason` says so.

Additions do not raise SCHEMA_VERSION; a word that goes, or means something else, does.
"""

from __future__ import annotations

from typing import Literal, TypedDict

SCHEMA_VERSION = 1

Status = Literal["passed", "failed", "not_run"]


class FileEntry(TypedDict):
    """A file, by its name relative to the report's folder where it lies below that, else its bare name."""

    path: str
    size_bytes: int
    sha256: str


class ReferenceEntry(TypedDict):
    """What everything was compared with."""

    model: str
    hub: str
    revision: str
    runtime: str  # transformers 5.23.0, torch 2.13.0+cpu
    dtype: str  # float32: what it computed in, not what is stored
    files: list[FileEntry]


class TextEntry(TypedDict):
    """The text behind drift and perplexity."""

    name: str
    sha256: str
    tokens: int
    windows: int
    window: int  # tokens of a full window


class DifferenceEntry(TypedDict):
    """One thing on which reference and candidate disagree."""

    what: str
    reference: str
    candidate: str


class CheckEntry(TypedDict):
    """A part of the contract: `equal` of `total` agreed; `differences` are the first few that did not.

    `metric` names the entry of `metrics` that its share is; null for a check that is only reported.
    """

    title: str
    total: int
    equal: int
    metric: str | None
    note: str
    differences: list[DifferenceEntry]


class GreedyEntry(TypedDict):
    """Tokens written greedily after the text's first tokens: `equal` of `tokens` before the first difference."""

    prompt_tokens: int
    tokens: int
    equal: int


class ImageEntry(TypedDict):
    """One image through the projector; `resized` when its size had to change, which the two sides do differently."""

    name: str
    width: int
    height: int
    resized: bool
    tokens: int
    cosine_min: float | None
    cosine_mean: float | None
    max_error: float | None
    kl: float | None
    next_reference: int
    next_candidate: int


class ClickEntry(TypedDict):
    """Clicks on held-out screenshots; `same` is the share of tasks on which both click the same pixel."""

    tasks: int
    accuracy_reference: float
    accuracy: float
    same: float
    well_formed: float
    distance: float | None  # pixels between both sides' clicks, mean


class VisionEntry(TypedDict):
    """What becomes of images; `reason` says why a part was not looked at."""

    reason: str
    projector: FileEntry | None
    projector_type: str
    images: list[ImageEntry]
    clicks: ClickEntry | None


class Limit(TypedDict):
    """A metric has to stay `better` ("<=" or ">=") than `limit`; `source` is "recipe" or "default"."""

    better: str
    limit: float
    source: str


class Output(TypedDict):
    """One output. `status` is `passed` only when everything was measured, was finite, and kept its limit.

    A row that is `neutral` was not run because this machine has no device or kernels for it: it is no pass, and alone
    no reason to fail a run. A runtime that is not installed is one.
    """

    stage: str
    format: str
    type: str
    label: str  # what this row is called; no two of a report are alike
    path: str
    size_bytes: int  # of all files but the projector's
    sha256: str
    files: list[FileEntry]  # every one, the projector's too
    parameters: int | None
    bits_per_weight: float | None
    runtime: str
    status: Status
    reason: str  # empty when passed
    neutral: bool
    metrics: dict[str, float | None]
    limits: dict[str, Limit]
    contract: dict[str, CheckEntry]
    greedy: GreedyEntry | None
    vision: VisionEntry


class Report(TypedDict):
    """report.json."""

    schema_version: int
    recipe: str
    reference: ReferenceEntry
    text: TextEntry
    outputs: list[Output]
