"""The words of report.json. A number that was NaN or infinite is null, and `reason` says so.

Additions do not raise SCHEMA_VERSION; a word that goes, or means something else, does. `convert schema report` prints
the JSON Schema.
"""

from __future__ import annotations

from typing import (
    Literal,
    NotRequired,  # pydantic makes the JSON Schema of these before Python 3.12
)

from typing_extensions import TypedDict

from validate.report.schema_caches import KvCacheEntry
from validate.report.schema_fit import FitEntry

SCHEMA_VERSION = 2

Status = Literal["passed", "failed", "not_run"]


class FileEntry(TypedDict):
    """A file, by its name relative to the report's folder where it lies below that, else its bare name."""

    path: str
    size_bytes: int
    sha256: str


class CacheEntry(TypedDict):
    """What was kept of the reference's logits, of which every candidate's drift is computed.

    `whole`: all of them, as float32. Else at each position the most likely tokens, and of the others their mass and a
    random sample, from which their part of KL is estimated: right on the average, and off by about a twelfth of
    `tail_mass` at a single position.
    """

    whole: bool
    bytes: int
    tokens_kept: float  # of the vocabulary, mean over positions
    tail_mass: float  # probability of the tokens that were not kept, mean over positions
    tail_mass_max: float


class ReferenceEntry(TypedDict):
    """What everything was compared with."""

    model: str
    hub: str
    revision: str
    runtime: str  # transformers 5.23.0, torch 2.13.0+cpu
    dtype: str  # float32: what it computed in, not what is stored
    vocabulary: int
    files: list[FileEntry]
    cache: CacheEntry
    quantized: NotRequired[str]  # by what its weights are, as it was published: GPTQ (4 bits, groups of 128)
    taken_as: NotRequired[str]  # by which class it is read, where no family serves its own: MyForCausalLM, converted as


class TextEntry(TypedDict):
    """One input set behind drift and perplexity: a text, or conversations rendered with the model's template.

    With `tokens: auto` it is what there was to read; how much of it an output read is in its `reading`.
    """

    name: str
    kind: Literal["text", "chat"]
    sha256: str  # of the file
    tokens: int
    windows: int
    source: NotRequired[str]  # the file's path, or which of our own sets
    tokens_sha256: NotRequired[str]  # of each window's number of tokens and their ids, as little-endian uint32


class MachineEntry(TypedDict):
    """Where it was measured; speed means nothing elsewhere."""

    processor: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str


class ProvenanceEntry(TypedDict):
    """What has to be known to measure the same again."""

    convert: str  # version of this program
    recipe_sha256: str
    command: str
    versions: dict[str, str]  # of the packages that took part
    machine: MachineEntry


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
    """Greedy continuations of `prompts` beginnings: of `tokens` in all, `equal` came before a first difference."""

    prompts: int
    prompt_tokens: int
    tokens: int
    equal: int
    lengths: list[int]  # of each continuation, the tokens before its first difference


class ToolCallEntry(TypedDict):
    """Answers to prompts that ask for a tool call, and how many of them are one that the tools allow."""

    asked: int
    valid_reference: int
    valid: int


class ChoiceCounts(TypedDict):
    """Answers to multiple-choice items on both sides, and how many changed each way.

    `p` is McNemar's exact test, two-sided: how often chance alone splits the flips as unevenly.
    """

    name: str  # of the set; empty where it is all of them
    items: int
    right_reference: int
    right: int
    right_to_wrong: int
    wrong_to_right: int
    wrong_to_wrong: int  # another wrong answer
    p: float


class ChoiceChange(TypedDict):
    """An item with another answer than the source's."""

    set: str
    shown: str  # the end of what was read
    right: str
    reference: str
    candidate: str


class ChoiceEntry(TypedDict):
    """Multiple-choice items, answered by the largest sum of log-probabilities; `normalized` by it over characters."""

    all: ChoiceCounts
    normalized: ChoiceCounts
    sets: list[ChoiceCounts]  # empty where there is one
    changes: list[ChoiceChange]  # some of those that changed


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
    """What becomes of images; `reason` says why a part was not checked."""

    reason: str
    projector: FileEntry | None
    projector_type: str
    images: list[ImageEntry]
    clicks: ClickEntry | None


class Limit(TypedDict):
    """A metric has to stay `better` ("<=" or ">=") than `limit`.

    `source` is "recipe", "default" (or PROVEN of validate.gates), or the name of a preset. `p_worse` is the paired test
    of "worse than the limit": the share of resampled texts on which the metric misses it; near 1 it surely does, near 0
    it surely does not, null where there is nothing to resample.
    """

    better: str
    limit: float
    source: str
    p_worse: float | None


class SliceEntry(TypedDict):
    """Drift over a part of the positions: an input set, a class of the token to be predicted, or places in a window."""

    kind: Literal["set", "class", "position"]
    name: str
    positions: int
    kl_mean: float | None
    kl_low: float | None  # 95 % confidence interval of kl_mean
    kl_high: float | None
    top1: float | None
    ppl_ratio: float | None


class GuessEntry(TypedDict):
    """A token and its probability."""

    text: str
    probability: float


class WorstEntry(TypedDict):
    """A position at which the candidate is furthest from the reference."""

    set: str
    window: int
    position: int
    kl: float
    before: str  # the end of the text that was read
    next: str  # the text's own next token; empty at a window's end
    reference: list[GuessEntry]  # the three most likely
    candidate: list[GuessEntry]


class QuantileEntry(TypedDict):
    """A share of all positions has at most this KL."""

    share: float
    kl: float


class WindowEntry(TypedDict):
    """Sums over one window, by which two reports of the same text are compared pair by pair."""

    positions: int
    scored: int  # positions whose next token lies in the window
    kl: float
    top1: int
    nll: float
    nll_reference: float


class ReadingEntry(TypedDict):
    """With `tokens: auto`, how much of the texts the output read: their first `windows` windows, and why no more.

    `decided`: the 95 % interval of every limited metric lies on one side of its limit.
    """

    tokens: int
    windows: int
    decided: bool
    reason: str


class SpeedEntry(TypedDict):
    """Measured in the same way for every output, beside other work: an indication."""

    load_seconds: float
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    peak_memory_bytes: int | None  # resident, of a process that holds this output alone; null where it has none
    threads: int | None


class TensorEntry(TypedDict):
    """A tensor of a file against the source's."""

    name: str
    type: str
    values: int
    error: float | None  # root mean square error over the source's root mean square
    note: NotRequired[str]  # what is wrong with it, where it lost more than its type rounds


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
    intervals: dict[str, tuple[float, float]]  # 95 % confidence interval of a metric, where it has one
    limits: dict[str, Limit]
    quantiles: list[QuantileEntry]
    slices: list[SliceEntry]
    worst: list[WorstEntry]
    windows: list[WindowEntry]
    reading: NotRequired[ReadingEntry | None]  # null where all outputs read the same
    embeddings: NotRequired[EmbeddingEntry | None]  # of an encoder, instead of what is said of the next token
    contract: dict[str, CheckEntry]
    greedy: GreedyEntry | None
    tool_calls: ToolCallEntry | None
    choices: NotRequired[ChoiceEntry | None]  # reports made before have none
    kv_cache: NotRequired[KvCacheEntry | None]  # where the recipe names types of it
    fit: NotRequired[FitEntry]  # of a file whose types were chosen for its size
    vision: VisionEntry
    speed: SpeedEntry | None
    tensors: list[TensorEntry]
    above_floor: NotRequired[
        float | None
    ]  # kl_mean over its runtime's noise floor, both at least 1e-9; where there is one


class EmbeddingEntry(TypedDict):
    """What became of texts, where the model gives "embeddings" or a classifier's "scores" and no text.

    `agreement` is over the `pairs` of texts that the source tells apart. Embeddings have cosines, scores an error.
    """

    gives: str
    texts: int
    width: int  # values of an embedding, or scores
    agreement: float | None
    pairs: int
    worst: str  # the beginning of the text that changed most
    cosine_min: float | None
    cosine_mean: float | None
    error: float | None
    largest: float | None


class FloorEntry(TypedDict):
    """A runtime's own drift: that of an output which holds the source's weights as they are."""

    runtime: str
    output: str  # its label
    kl_mean: float


class DuelEntry(TypedDict):
    """Two outputs by label: `better` drifts less than `worse` by this share, with its 95 % interval.

    Both were measured on the same resampled texts, pair by pair. `tied`: the interval holds 0.
    """

    better: str
    worse: str
    by: float
    low: float
    high: float
    tied: bool
    same_size: bool  # within a twentieth, of one format on one runtime


class RankingEntry(TypedDict):
    """Labels of outputs in groups, the best first; those of a group cannot be told from its first."""

    metric: str
    groups: list[list[str]]
    duels: list[DuelEntry]  # the first of each group with that of the next, and all pairs of a size


class ChoiceSetEntry(TypedDict):
    """A file of multiple-choice items, and how many of its items were used."""

    name: str
    sha256: str
    items: int


class MarkEntry(TypedDict):
    """What the outputs of a format are drawn as: a shape, and its colour on a light page and on a dark one."""

    shape: str
    colour: str  # "#1668c8"
    colour_dark: str  # empty where the other is good for both


class FormatEntry(TypedDict):
    """How a format is shown, and what a reader of its sizes has to know."""

    title: str
    mark: MarkEntry
    note: str


class Report(TypedDict):
    """report.json."""

    schema_version: int
    recipe: str
    reference: ReferenceEntry
    texts: list[TextEntry]
    window: int  # tokens of a full window
    formats: NotRequired[dict[str, FormatEntry]]  # of the outputs; reports made before have none
    outputs: list[Output]
    noise_floor: NotRequired[list[FloorEntry]]
    ranking: NotRequired[RankingEntry]  # where two outputs or more have intervals
    choices: NotRequired[list[ChoiceSetEntry]]
    overlaps: NotRequired[list[str]]  # stages that calibrated on what outputs were measured on, a sentence each
    provenance: ProvenanceEntry
