"""The page of the Python API, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

from docs.hooks import blocks

HEAD = """\
# Python API

Functions transform, frozen dataclasses carry. What is on this page is public; the rest of the code may move.
A docstring's first line states the result."""

MODULES = (  # module, and what it is for
    ("convert", "Plan and run recipes"),
    ("convert.stage", "A stage: what makes files"),
    ("convert.formats.base", "A format: all there is to say of one"),
    ("convert.bundle", "Bundles: what travels between stages"),
    ("convert.options", "Options: what a recipe can say"),
    ("convert.errors", "Errors"),
    ("validate.runtimes.base", "A runtime: what runs outputs"),
    ("validate.measures.base", "A measure: what is compared"),
)


def page() -> str:
    """Every public name of the modules above."""
    return blocks.page(HEAD, *(_module(*entry) for entry in MODULES if _is_there(entry[0])))


def _is_there(name: str) -> bool:
    parent = name.rpartition(".")[0]
    return (not parent or importlib.util.find_spec(parent) is not None) and importlib.util.find_spec(name) is not None


def _module(name: str, purpose: str) -> str:
    module = importlib.import_module(name)
    about = blocks.code(inspect.cleandoc(module.__doc__ or ""), "text")
    return blocks.page(f"## {purpose}", f"`{name}`", about, *(_member(*found) for found in _public(module))).rstrip()


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Its functions and classes, in the order of its source; of a package those it exports."""
    exported = getattr(module, "__all__", None)
    own = [
        (name, found)
        for name, found in vars(module).items()
        if (inspect.isclass(found) or inspect.isfunction(found))
        and (name in exported if exported is not None else found.__module__ == module.__name__)
        and not name.startswith("_")
    ]
    return iter(own)


def _member(name: str, found: object) -> str:
    parts = [f"### {name}", blocks.code(_signature(name, found), "python"), _doc(found)]
    if dataclasses.is_dataclass(found):
        return blocks.page(*parts, *_methods(found, data=True)).rstrip()
    return blocks.page(*parts, *(_methods(found) if inspect.isclass(found) else ())).rstrip()


def _signature(name: str, found: object) -> str:
    try:
        signature = str(inspect.signature(found))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name
    signature = re.sub(r"<factory>|<function <lambda> at 0x[0-9a-f]+>|<object object at 0x[0-9a-f]+>", "…", signature)
    word = "class " if inspect.isclass(found) else ""
    text = f"{word}{name}{signature}".replace(" -> None", "") if word else f"{name}{signature}"
    if len(text) < 100:
        return text
    return re.sub(r", (?=\*?\w+(?::|=))", ",\n    ", text)


def _doc(found: object) -> str:
    doc = inspect.cleandoc(vars(found).get("__doc__") or "") if hasattr(found, "__dict__") else ""
    if re.match(r"^\w+\(.*\)$", doc, re.DOTALL) and dataclasses.is_dataclass(found):
        return ""  # the one that dataclass makes says the signature again
    return "\n\n".join(
        blocks.code(block, "text") if block.startswith("    ") or "\n    " in block else blocks.prose(block)
        for block in doc.split("\n\n")
    )


def _methods(found: object, *, data: bool = False) -> Iterator[str]:
    """A line for each method and property that says what it gives."""
    rows = []
    for name, member in vars(found).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        doc = (function.__doc__ or "").strip().partition("\n\n")[0]
        call = name if isinstance(member, property) else f"{name}{_parameters(function)}"
        rows.append((f"`{call}`", blocks.prose(re.sub(r"\s+", " ", doc))))
    if rows:
        yield blocks.table(("member", "gives"), rows)


def _parameters(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return f"({', '.join(name for name in signature.parameters if name not in ('self', 'cls'))})"
