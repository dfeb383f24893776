"""What the code can say, read out of its syntax: one line a message, `{...}` where something is filled in.

    kind | where | got | wanted | remedy

`text` is any other sentence in the code: a reason in a plan, a verdict, a heading. ` ¦ ` parts what one of is said.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISED_BY_OURS = {"Problem", "InputError", "StageError", "PlanError", "RecipeError", "ConvertError", "BusyError"}
SAID = {"note", "warn", "say", "complain", "require", "failure", "echo", "Support", "RuntimeFailure"}
SAID |= {"Unsupported", "NotOnThisMachine", "NotComparable", "UsageError", "BadParameter", "fail"}
NOT_SAID = {"AssertionError", "NotImplementedError", "KeyError", "StopIteration", "BrokenPipeError"}
FILES = {
    "convert.cli": ("convert/cli",),
    "convert.recipe": ("convert/recipe.py", "convert/options.py", "convert/registry.py", "convert/plugins.py"),
    "convert.source": ("convert/source", "convert/model", "convert/bundle.py", "convert/hashes.py"),
    "convert.architectures": ("convert/architectures",),
    "convert.formats.gguf": ("convert/formats/gguf", "convert/gguf_field.py"),
    "convert.formats.onnx": ("convert/formats/onnx",),
    "convert.formats.tensorrt": ("convert/formats/tensorrt",),
    "convert.formats.compressed": ("convert/formats/compressed",),
    "convert.formats": ("convert/formats",),
    "convert.validation": ("convert/validation", "convert/candidates.py"),
    "convert.inspection": ("convert/inspection",),
    "convert.plan-and-run": ("convert",),
    "quantize": ("quantize",),
    "validate": ("validate",),
}
"""Snapshot -> what it is of; a file belongs to the first that names it or a folder it is in."""

NOT_MESSAGES = {"validate/samples.py", "convert/calibration/maths.py", "convert/calibration/talks.py"}
"""What is measured or calibrated on: strings that no user is told."""

NO_PROSE = re.compile(r"\\[pwsdn(\[]|</?[a-z]+[ >]|[{};]\s*\n|\(\?|^\s*SELECT|[a-z-]+: ?[^ ]+;")
PROSE = re.compile(r"[\w}'`\")…,:;.] +[\w{'`(]")
LONGEST = 44  # characters of an expression that are shown


def snapshots() -> dict[str, str]:
    """Name of each snapshot -> its text."""
    sections: dict[str, list[str]] = {name: [] for name in FILES}
    for file in sorted(f for top in ("convert", "quantize", "validate") for f in (ROOT / top).rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if path in NOT_MESSAGES:
            continue
        if lines := list(dict.fromkeys(_lines(ast.parse(file.read_text("utf-8"))))):
            sections[_snapshot(path)].append("\n".join([f"## {path}", *lines]))
    return {name: "\n\n".join(parts) + "\n" for name, parts in sections.items()}


def _snapshot(path: str) -> str:
    return next(n for n, tops in FILES.items() if any(path == top or path.startswith(f"{top}/") for top in tops))


def _lines(tree: ast.Module) -> Iterator[str]:
    used: set[ast.AST] = set(_docstrings(tree))
    found: list[tuple[int, int, str]] = []
    for scope in _scopes(tree):
        assigned = _assigned(scope)
        for call in _calls(scope):
            render = _Render(assigned, used)
            words = [render(argument) for argument in call.args]
            words += [f"{k.arg}={render(k.value)}" for k in call.keywords if k.arg]
            if any(PROSE.search(word) or re.search("[a-z]{3}", re.sub("{.*?}", "", word)) for word in words):
                found.append((call.lineno, call.col_offset, " | ".join([_name(call), *words])))
    found += [(n.lineno, n.col_offset, f"text | {_Render({}, used)(n)}") for n in _prose(tree, used)]
    yield from (line for _, _, line in sorted(found))


def _docstrings(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda))


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions in it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from _own(child)


def _calls(scope: ast.AST) -> Iterator[ast.Call]:
    own = list(_own(scope))
    raised = {n.exc for n in own if isinstance(n, ast.Raise)}
    inner: set[ast.AST] = set()  # a Problem within a PlanError is one message, not two
    for node in own:
        if isinstance(node, ast.Call) and node not in inner:
            name = _name(node)
            if name in RAISED_BY_OURS | SAID or (node in raised and name not in NOT_SAID):
                wraps = [a for a in node.args if isinstance(a, ast.Call) and _name(a) in RAISED_BY_OURS]
                if not wraps:
                    yield node


def _name(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """The strings that a scope's names stand for."""
    found: dict[str, list[ast.expr]] = {}
    for node in _own(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for name, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(name, ast.Name):
                            found.setdefault(name.id, []).append(value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).append(node.value)
    return {name: values for name, values in found.items() if any(map(_is_words, values))}


def _is_words(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
            return _is_words(one) or _is_words(other)
        case _:
            return False


def _prose(tree: ast.Module, used: set[ast.AST]) -> Iterator[ast.expr]:
    """The sentences of a file that are part of no message: outermost ones only."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if node in used or (isinstance(node, ast.Raise) and "AssertionError" in ast.unparse(node)):
            continue
        if isinstance(node, ast.Constant | ast.JoinedStr):
            words = "".join(
                p.value if isinstance(p, ast.Constant) and isinstance(p.value, str) else "{x}"
                for p in (node.values if isinstance(node, ast.JoinedStr) else [node])
            )
            if PROSE.search(words) and re.search("[A-Za-z]{3}", words) and not NO_PROSE.search(words):
                yield node
                continue
        waiting += ast.iter_child_nodes(node)


class _Render:
    """An expression as a reader would see it, `{...}` for what is filled in; notes in `used` what it has shown."""

    def __init__(self, assigned: dict[str, list[ast.expr]], used: set[ast.AST]) -> None:
        self._assigned, self._used, self._open = assigned, used, set[str]()

    def __call__(self, node: ast.expr) -> str:
        shown = " ".join(self._show(node).split())
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)

    def _show(self, node: ast.expr) -> str:
        self._used.add(node)
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.JoinedStr(values=values):
                return "".join(map(self._show, values))
            case ast.FormattedValue(value=value):
                return self._show(value) if _is_words(value) else self._filled(value)
            case ast.IfExp(body=one, orelse=other):
                return f"{{{self._show(one)} ¦ {self._show(other)}}}"
            case ast.BinOp(op=ast.Add(), left=one, right=other):
                return self._show(one) + self._show(other)
            case ast.Name(id=name) if name in self._assigned and name not in self._open:
                return self._of_name(name)
            case _:
                return self._filled(node)

    def _of_name(self, name: str) -> str:
        self._open.add(name)
        shown = list(dict.fromkeys(map(self._show, self._assigned[name])))
        self._open.discard(name)
        return shown[0] if len(shown) == 1 else "{" + " ¦ ".join(shown) + "}"

    def _filled(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id in self._assigned and node.id not in self._open:
            return self._of_name(node.id)
        for part in ast.walk(node):  # what is said within an expression is still said
            if part is not node and isinstance(part, ast.JoinedStr):
                return self._within(node)
        code = ast.unparse(node)
        return "{" + (code if len(code) <= LONGEST else code[: LONGEST - 1] + "…") + "}"

    def _within(self, node: ast.expr) -> str:
        self._used.update(ast.walk(node))
        return "{" + ast.unparse(node) + "}"
