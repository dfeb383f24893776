"""What a run left, a release, a report: made hostile after they were made, or by somebody who made none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from tests.robust.cases.base import KINDS, Case, Place, cases, make_special

DEEP = 10_000
VERIFY = ("verify", "release")
MANIFEST = "out/r/gguf/manifest.json"


def _release(**files: str | bytes) -> Callable[[Place], object]:
    """A folder that calls itself a release; `_` stands for a dot in a name."""

    def make(place: Place) -> None:
        words = {
            "schema_version": 1,
            "self": "",
            "files": [{"path": "a.txt", "size": 1, "sha256": "0" * 64, "parts": []}],
        }
        base: dict[str, str | bytes] = {
            "release.json": json.dumps(words),
            "SHA256SUMS": f"{hashlib.sha256(b'a').hexdigest()}  a.txt\n",
            "a.txt": "a",
        }
        for name, content in (base | {name.replace("__", "."): raw for name, raw in files.items()}).items():
            place.write(f"release/{name}", content)

    return make


def _paths(*paths: object) -> Callable[[Place], object]:
    entries = [{"path": path, "size": 1, "sha256": "0" * 64, "parts": []} for path in paths]
    return _release(release__json=json.dumps({"schema_version": 1, "self": "", "files": entries}))


RELEASES = {
    "nothing": _release(release__json=""),
    "nested 10,000 deep": _release(release__json='{"files":' * DEEP + "1" + "}" * DEEP),
    "a list": _release(release__json="[]"),
    "files that are numbers": _release(release__json='{"schema_version": 1, "self": "", "files": [1]}'),
    "a path that leads out": _paths("../secret.txt"),
    "an absolute path": _paths("/etc/passwd"),
    "a path that is a number": _paths(7),
    "a path that clears the screen": _paths("\x1b[2J\n"),
    "sums that lead out": _release(SHA256SUMS=f"{'0' * 64}  ../secret.txt\n"),
    "sums of garbage": _release(SHA256SUMS=bytes(range(256)) * 100),
    "sums of a hundred thousand lines": _release(SHA256SUMS="".join(f"{'0' * 64}  f{i:06}\n" for i in range(100_000))),
    "provenance nested 10,000 deep": _release(provenance__json="[" * DEEP + "]" * DEEP),
    "provenance of numbers": _release(provenance__json="7"),
    "a signature of garbage": _release(model__sig=bytes(1000)),
    "a graph of garbage": _release(x__onnx=bytes(1000)),
    "weights of garbage": _release(x__safetensors=bytes(1000), y__gguf=b"GGUF" + bytes(1000)),
}
REPORTS = {
    "nothing": "",
    "nested 10,000 deep": '{"outputs":' * DEEP + "1" + "}" * DEEP,
    "a list": "[1]",
    "numbers": '{"schema_version": 1, "outputs": 7}',
    "a version of 10**400": '{"schema_version": 1' + "0" * 400 + "}",
    "outputs of numbers": '{"schema_version": 12, "outputs": [1, 2], "texts": [], "reference": {}, "provenance": {}}',
    "not UTF-8": b'{"a": "\xff"}',
}


def _reports(text: str | bytes) -> Callable[[Place], object]:
    return lambda place: (place.write("a.json", text), place.write("b.json", text))


def _manifest(text: str | bytes) -> Callable[[Place], object]:
    """A folder of a stage that holds a manifest and nothing else."""
    return lambda place: place.write(MANIFEST, text)


MANIFESTS = {
    "nothing": "",
    "nested 10,000 deep": '{"a":' * DEEP + "1" + "}" * DEEP,
    "a list": "[]",
    "a path that leads out": json.dumps(
        {"stage": "gguf", "roles": {"weights": [{"path": "../../../secret.txt", "kind": "gguf"}]}}
    ),
    "not UTF-8": b"\xff\xfe\xfd",
}


def _folder(name: str, kind: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        (place.root / name).parent.mkdir(parents=True, exist_ok=True)
        make_special(place.root / name, kind)

    return make


CASES = [
    *cases("release, verified", RELEASES, command=VERIFY, errors=20, harmless=True),
    *(
        Case(
            "release, verified",
            f"a file that is a {kind}",
            lambda p, kind=kind: (_release()(p), make_special(p.root / "release" / "a.txt", kind)),
            VERIFY,
            harmless=True,
        )
        for kind in KINDS
    ),
    *cases(
        "report, compared", {n: _reports(text) for n, text in REPORTS.items()}, command=("compare", "a.json", "b.json")
    ),
    *cases("manifest", {n: _manifest(text) for n, text in MANIFESTS.items()}, harmless=True),
    *(
        Case("output folder", f"is a {kind}", _folder("out", kind))
        for kind in ("pipe", "device", "socket", "loop", "dangling")
    ),
    *(
        Case("output folder", f"its stage is a {kind}", _folder("out/r/gguf", kind))
        for kind in ("pipe", "socket", "loop")
    ),
]
