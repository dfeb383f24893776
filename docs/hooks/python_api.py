"""The page of the Python API, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

from docs.hooks import blocks

HEAD = """\
# Python API

Functions transform, frozen dataclasses carry. What is on this page is public; the rest of the code may move.
A docstring's first line states the result."""

LINE = 100
MODULES = (  # module, and what it is for
    ("convert", "Plan and run recipes"),
    ("convert.batch.results", "A batch: what came of each model"),
    ("convert.stage", "A stage: what makes files"),
    ("convert.formats.base", "A format: all there is to say of one"),
    ("validate.marks", "Marks: how a report draws a format"),
    ("convert.executors.base", "An executor: where a step runs"),
    ("convert.bundle", "Bundles: what travels between stages"),
    ("convert.options", "Options: what a recipe can say"),
    ("convert.errors", "Errors"),
    ("validate.runtimes.base", "A runtime: what runs outputs"),
    ("validate.measures.base", "A measure: what is compared"),
)


def page() -> str:
    """Every public name of the modules above, where it is named first."""
    shown: set[object] = set()
    return blocks.page(HEAD, *(_module(*entry, shown) for entry in MODULES))


def _module(name: str, purpose: str, shown: set[object]) -> str:
    module = importlib.import_module(name)
    new = [(word, found) for word, found in _public(module) if found not in shown]
    shown.update(found for _, found in new)
    return blocks.page(f"## {purpose}", f"`{name}`: {_doc(module)}", *(_member(*found) for found in new)).rstrip()


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
    methods = _methods(found) if inspect.isclass(found) else ()
    return blocks.page(f"### {name}", blocks.code(_declared(name, found), "python"), _doc(found), *methods).rstrip()


def _declared(name: str, found: object) -> str:
    """A signature; of a class with fields or members, these with their comments, as they stand in the source."""
    if not inspect.isclass(found) or not (vars(found).get("__annotations__") or issubclass(found, enum.Enum)):
        return _signature(name, found)
    source = inspect.getsource(found)  # type: ignore[arg-type]
    head = source[source.index("class ") :]
    fields = re.split(r"(?m)^    (?:def |@)", re.sub(r'    """.*?"""\n', "", head, count=1, flags=re.DOTALL))[0]
    return re.sub(r"\n{2,}", "\n", fields).rstrip()


def _signature(name: str, found: object) -> str:
    """As a person would write it: annotations without quotes, a long one over several lines."""
    try:
        signature = inspect.signature(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name
    is_class = inspect.isclass(found)
    given = [_plain(str(parameter)) for parameter in signature.parameters.values()]
    if (first := next((i for i, p in enumerate(signature.parameters.values()) if p.kind is p.KEYWORD_ONLY), -1)) >= 0:
        given.insert(first, "*")
    start = f"class {name}" if is_class else name
    returned = signature.return_annotation
    end = "" if is_class or returned is signature.empty else f" -> {_plain(str(returned))}"
    line = f"{start}({', '.join(given)}){end}"
    if len(line) < LINE:
        return line
    lines = "".join(f"    {one},\n" for one in given)
    return f"{start}(\n{lines}){end}"


def _plain(text: str) -> str:
    text = re.sub(r"<factory>|<[\w ]*(?:lambda|object|function)[^>]*>+(?: at 0x[0-9a-f]+>)?", "…", text)
    return re.sub(r"(?<=[:>] )'([^']*)'|^'([^']*)'$", lambda match: match[1] or match[2] or "''", text)


def _doc(found: object) -> str:
    """Its docstring; what is set apart in it, a drawing or a list, as it stands."""
    doc = inspect.cleandoc(found.__doc__ or "")
    if dataclasses.is_dataclass(found) and re.fullmatch(r"\w+\(.*\)", doc, re.DOTALL):
        return ""  # the one that dataclass makes says the signature again
    parts = doc.split("\n\n")
    return "\n\n".join(blocks.code(part, "text") if _is_drawn(part) else blocks.prose(part) for part in parts)


def _is_drawn(part: str) -> bool:
    return any(line.startswith("    ") for line in part.splitlines()) or part.startswith("from ")


def _methods(found: object) -> Iterator[str]:
    """A line for each method and property that says what it gives."""
    rows, fields = [], {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    for name, member in vars(found).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or name in fields or not inspect.isfunction(function):
            continue
        doc = (function.__doc__ or "").strip().partition("\n\n")[0] or _returned(function)
        call = name if isinstance(member, property) else f"{name}{_parameters(function)}"
        rows.append((f"`{call}`", blocks.prose(re.sub(r"\s+", " ", doc))))
    if rows:
        yield blocks.table(("member", "gives"), rows)


def _returned(function: object) -> str:
    """What it gives back, where no docstring says it."""
    returned = inspect.signature(function).return_annotation  # type: ignore[arg-type]
    return "" if returned in (inspect.Signature.empty, "None") else f"`{returned}`"


def _parameters(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return f"({', '.join(name for name in signature.parameters if name not in ('self', 'cls'))})"
