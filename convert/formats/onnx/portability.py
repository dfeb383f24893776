"""Which runtimes accept a graph's operators, by the tables that the runtimes publish.

A runtime that lacks an operator runs the graph all the same where another can step in (a browser's GPU hands the node
to WASM, which costs a copy there and back); OpenVINO and TensorRT refuse the graph, QNN leaves the node to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.formats.onnx.portability_tables import RUNTIMES, Runtime

if TYPE_CHECKING:
    import onnx

STANDARD = ("", "ai.onnx")  # the default domain has two names
MICROSOFT = "com.microsoft"
NAMED = 4  # operators that a line names


@dataclass(frozen=True)
class Lacking:
    """An operator that a runtime does not have."""

    operator: str  # com.microsoft::MatMulNBits
    nodes: int
    first: str  # the name of the first of them

    def __str__(self) -> str:
        return f"{self.operator} ({self.nodes} nodes, the first {self.first})"


@dataclass(frozen=True)
class Verdict:
    """What a runtime makes of a graph."""

    runtime: Runtime
    lacking: tuple[Lacking, ...]
    opset: str = ""  # what is wrong with it

    @property
    def accepts(self) -> bool:
        return not self.lacking and not self.opset

    def __str__(self) -> str:
        said = [*([self.opset] if self.opset else []), *map(str, self.lacking[:NAMED])]
        rest = len(self.lacking) - NAMED
        return f"lacks {', '.join(said)}{f' and {rest} more' if rest > 0 else ''}" if said else "accepts it"


def verdicts(model: onnx.ModelProto) -> list[Verdict]:
    """What each runtime makes of a graph, subgraphs and functions included."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    used: dict[tuple[str, str], tuple[int, str]] = {}
    for number, node in enumerate(_nodes(model)):
        key = "" if node.domain in STANDARD else node.domain, node.op_type
        count, first = used.get(key, (0, node.name or f"number {number}"))
        used[key] = count + 1, first
    own = {(function.domain, function.name) for function in model.functions}
    wanted = {key: seen for key, seen in used.items() if key not in own}
    return [_verdict(runtime, wanted, opset) for runtime in RUNTIMES]


def facts(model: onnx.ModelProto) -> dict[str, object]:
    """The verdicts, a line each, and where the tables are from."""
    found = verdicts(model)
    lines: dict[str, object] = {f"on {each.runtime.name}": str(each) for each in found}
    return lines | {"these by": "; ".join(dict.fromkeys(each.runtime.source for each in found))}


def _verdict(runtime: Runtime, used: dict[tuple[str, str], tuple[int, str]], opset: int) -> Verdict:
    lacking = [
        Lacking(f"{domain}::{name}" if domain else name, *seen)
        for (domain, name), seen in used.items()
        if not _has(runtime, domain, name)
    ]
    low, high = runtime.opsets
    wrong = f"opset {opset} (it takes {low} to {high})" if opset and not low <= opset <= high else ""
    return Verdict(runtime, tuple(sorted(lacking, key=lambda one: -one.nodes)), wrong)


def _has(runtime: Runtime, domain: str, name: str) -> bool:
    if domain == MICROSOFT:
        return name in runtime.microsoft
    if domain:
        return False
    return name in runtime.standard if runtime.standard else name not in runtime.lacks


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    open_: list[Iterable[onnx.NodeProto]] = [model.graph.node, *(function.node for function in model.functions)]
    while open_:
        for node in open_.pop():
            yield node
            for attribute in node.attribute:
                graphs = [attribute.g, *attribute.graphs] if attribute.g.node or attribute.graphs else []
                open_ += [graph.node for graph in graphs]
