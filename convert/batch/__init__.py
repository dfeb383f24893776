"""Many models: what `convert batch` does. Importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert.batch.options import Keep, Limits, Order
    from convert.batch.results import ModelResult
    from convert.events import OnEvent

__all__ = ["batch"]


def batch(  # noqa: PLR0913 - all but the first three by name
    models: str | Path | Sequence[str | Path],
    recipe: str | Path | Sequence[str | Path] = (),
    out: str | Path = "out",
    *,
    lists: Sequence[str | Path] = (),
    limits: Limits | None = None,
    order: Order | None = None,
    keep: Keep | None = None,
    skip_bad: bool = False,
    only: str = "",
    stop_after: int | None = None,
    max_models: int | None = None,
    engine: str = "local",
    store: str = "",
    on_event: OnEvent = lambda event: None,
) -> Iterator[ModelResult]:
    """The result of every model as soon as it is done; in OUT lie the outputs, and a summary at the end.

    `models` is a batch.yaml, or folders, patterns, hub models and lists, of which each is made what `recipe` says. The
    conversions go on while the caller looks at a result; leaving the loop ends them. `on_event` is called from another
    thread. Raises PlanError before anything is started, with every problem of every line.

    from convert import batch
    for result in batch("models/*", "gguf.yaml", "out"):
        print(result.name, result.status, result.reason)
    """
    from dataclasses import replace

    from convert.batch.api import prepare
    from convert.batch.request import request_of

    words = [models] if isinstance(models, str | Path) else list(models)
    recipes = [recipe] if isinstance(recipe, str | Path) else list(recipe)
    request = request_of(words, recipes, lists)
    request = replace(request, limits=limits or request.limits, order=order or request.order)
    made = prepare(request, out, skip_bad=skip_bad, only=only, keep=keep)
    return replace(made, stop_after=stop_after, max_models=max_models, engine=engine, store=store).run(on_event)
