"""What `from convert import ...` promises."""

from __future__ import annotations

import inspect

import convert


def test_exported_names() -> None:
    assert convert.__all__ == sorted(convert.__all__)
    assert {"load_recipe", "plan", "run"} <= set(convert.__all__)
    for name in convert.__all__:
        assert (getattr(convert, name).__doc__ or "").strip(), name


def test_plan_and_run_are_functions_not_modules() -> None:
    import convert.plan
    import convert.run

    assert inspect.isfunction(convert.plan)
    assert inspect.isfunction(convert.run)
