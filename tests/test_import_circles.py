"""No module imports, by whatever way round, one that imports it: also not inside of a function."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import grimp
import pytest

PACKAGES = ("convert", "quantize", "validate")


def imports_of(package: str) -> Mapping[str, set[str]]:
    """Module -> the modules of its package that it imports anywhere, but for types alone."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """The largest groups of modules of which each imports every other, if only by others (Tarjan, 1972)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    clock = itertools.count()

    def enter(module: str) -> tuple[str, Iterator[str]]:
        order[module] = lowest[module] = next(clock)
        stack.append(module)
        return module, iter(sorted(imports.get(module, ())))

    for start in sorted(imports):
        path = [] if start in order else [enter(start)]
        while path:
            module, others = path[-1]
            other = next(others, None)
            if other is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[module])
                if lowest[module] == order[module]:
                    group = stack[stack.index(module) :]
                    del stack[-len(group) :]
                    if len(group) > 1 or module in imports[module]:
                        found.append(sorted(group))
            elif other not in order:
                path.append(enter(other))
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}) == [["c", "d", "e"], ["a", "b"]]
    assert circles({"a": {"a"}}) == [["a"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_others(package: str) -> None:
    imports = imports_of(package)
    assert len(imports) > 5
    assert circles(imports) == []
