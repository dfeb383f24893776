"""A watch: looks what is new on the hub, queues it, and has it converted as a batch. `convert watch` is made of it.

A revision is queued before anything of it is begun, and every result is written down as it comes: whatever kills the
watch, the next one goes on with what was queued, and asks for no revision a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from convert.batch.api import Batch, prepare
from convert.batch.journal import Journal
from convert.batch.models import Found, Model
from convert.batch.options import Keep, Limits
from convert.batch.request import Request
from convert.batch.results import ModelResult
from convert.batch.watch_list import Watch
from convert.batch.watch_state import Queued, State
from convert.errors import InputError, PlanError, Problem
from convert.events import Event, OnEvent
from convert.source.hub_listing import Listed, model_at, models_of

MARGIN = timedelta(days=1)  # a listing may lag behind what it lists
WHOLE = timedelta(days=1)  # since all was looked at: a model that was private until today may have changed long ago
PASSING = ("network", "busy", "disk", "memory", "killed")
SEVERITY = ("failed", "missed", "passed", "made")  # of several recipes the first that is there


@dataclass
class Watcher:
    """What is watched for one output folder, and what to make of it."""

    out: Path
    watches: Sequence[Watch]
    recipes: Sequence[Path]
    backlog: bool = False  # whether what is there at the first look is converted too
    limits: Limits = field(default_factory=Limits)
    keep: Keep = "all"

    def __post_init__(self) -> None:
        self.state = State(self.out)

    def look(self, on_event: OnEvent) -> list[Problem]:
        """Queue what is new; why some could not be looked at, which the next look does again."""
        problems = []
        for watch in self.watches:
            try:
                new = list(_new(watch, self.state, self.backlog))
            except InputError as error:
                problems += [p if isinstance(p, Problem) else Problem(watch.where, p) for p in error.problems]
                continue
            for one in new:
                text = f"{one.model}@{one.revision[:12]}: queued ({one.where})"
                words = {"hub": one.model, "revision": one.revision, "where": one.where, "text": text}
                on_event(Event("queued", "", {"model": one.folder, **words}))
        return problems

    def batch(self) -> Batch | None:
        """The batch of what is queued; None where nothing is. Raises PlanError for what is wrong with the recipes."""
        queue = self.state.queue()
        if not queue:
            return None
        models = [Model(one.folder, one.where, None, one.model, one.revision, renamed=_renamed(one)) for one in queue]
        request = Request(Found(models), tuple(self.recipes), limits=self.limits, keep=self.keep)
        made = prepare(request, self.out)
        mine = {job.name for job in made.jobs}
        others = [result for name, result in Journal(self.out).results().items() if name not in mine]
        return replace(made, earlier=(*made.earlier, *others))

    def run(self, made: Batch, on_event: OnEvent = lambda event: None) -> Iterator[ModelResult]:
        """The results of a batch; what came of each revision is written down with its last."""
        waiting = {f"{one.model}@{one.revision}": one for one in self.state.queue()}
        mine = {job.name for job in made.jobs}
        left = {place: sum(job.model == place for job in made.jobs) for place in waiting}
        found: dict[str, list[ModelResult]] = {place: [] for place in waiting}

        def take(result: ModelResult) -> None:
            if result.model in waiting and result.status not in ("pending", "left out"):
                found[result.model].append(result)
                if len(found[result.model]) >= left[result.model]:
                    self._ended(waiting[result.model], found[result.model])

        for result in made.earlier:  # made by these very recipes before
            if result.name not in mine and left.get(result.model) == 0:
                take(result)
        for result in made.run(on_event):
            take(result)
            yield result

    def _ended(self, one: Queued, results: Sequence[ModelResult]) -> None:
        statuses = {result.status for result in results}
        status = next(word for word in SEVERITY if word in statuses)
        failures = {result.failure for result in results if result.status == "failed"}
        self.state.ended(one, status, passes=bool(failures) and failures <= set(PASSING))


def _new(watch: Watch, state: State, backlog: bool) -> Iterable[Queued]:
    """What a look at the hub finds that was not seen, after it was written down."""
    before, whole, now = state.until(watch.key), state.whole(watch.key), datetime.now(UTC)
    all_of_it = not before or watch.by_popularity or whole < _text(now - WHOLE)
    listed = list(_listed(watch, "" if all_of_it else _earlier(before)))
    new = [model for model in listed if watch.wants(model) and not state.knows(model)]
    # The oldest first: a watch that is killed between two goes on where it was, and what came first is made first.
    queued = state.see(reversed(new), watch.where, queue=backlog or bool(before))
    until = max([before, *(model.modified for model in listed)]) or _text(now)
    state.looked(watch.key, until, _text(now) if all_of_it else whole)
    return queued


def _listed(watch: Watch, since: str) -> Iterator[Listed]:
    """What has changed since then; all where that is empty."""
    if watch.is_model:
        yield model_at(watch.word, watch.revision)
        return
    for model in models_of(watch.word):
        if model.modified and model.modified < since:
            return
        yield model


def _earlier(moment: str) -> str:
    try:
        return _text(datetime.fromisoformat(moment) - MARGIN)
    except ValueError:
        return ""


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _renamed(one: Queued) -> bool:
    return one.folder != one.model.rpartition("/")[2]


def check(watches: Sequence[Watch], recipes: Sequence[Path]) -> None:
    """Raise PlanError where there is nothing to watch, or nothing to make of it."""
    if not watches:
        raise PlanError(Problem("command line", "names nothing to watch", "ORG, org/name, or a list of them"))
    if not recipes:
        raise PlanError(Problem("command line", "names no recipe", "what to make of new models", "give --recipe FILE"))
