"""A hub that is not what it says: that sends elsewhere, promises and does not give, names files of other folders."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.robust.cases.base import Case, Place

COMMIT = "c0ffee" * 6 + "c0ff"
HUB = f"name: r\nmodel: {{hub: Org/Tiny, revision: {COMMIT}}}\nstages:\n  gguf: {{use: gguf, types: [F16]}}\n"
STREAM = HUB.replace("{hub:", "{stream: true, hub:")
Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Asked:
    """A request, and the folder that an honest hub would serve."""

    path: str
    folder: Path
    url: str

    @property
    def name(self) -> str:
        return self.path.partition("?")[0].rpartition("/")[2]

    @property
    def for_list(self) -> bool:
        return "/api/models/" in self.path

    def honest(self) -> Answer:
        if self.for_list:
            return self.listed([path.name for path in sorted(self.folder.iterdir())])
        path = self.folder / self.name
        if not path.is_file():
            return 404, b"none", {}
        raw = path.read_bytes()
        return 200, raw, {"ETag": f'"{hash(raw) & (1 << 60) - 1:x}"', "X-Repo-Commit": COMMIT}

    def listed(self, names: list[Any]) -> Answer:
        body = {"id": "Org/Tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return 200, json.dumps(body).encode(), {"Content-Type": "application/json"}


def _served(wicked: Callable[[Asked], Answer | None], recipe: str = HUB) -> Callable[[Place], None]:
    """The recipe's model is on a hub that answers as `wicked` says, and honestly where that says nothing."""

    def make(place: Place) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                del arguments

            def do_GET(self) -> None:
                asked = Asked(self.path, place.model, url)
                code, body, words = wicked(asked) or asked.honest()
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **words}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = True

            do_HEAD = do_GET

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asked was ended, or had enough
        url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        place.close += [server.shutdown, server.server_close]
        off = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5"}
        place.environment.update({"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", **off})
        place.recipe(recipe)

    return make


def _file(asked: Asked, answer: Answer) -> Answer | None:
    return None if asked.for_list else answer


def _weights(asked: Asked, change: Callable[[Answer], Answer]) -> Answer | None:
    return change(asked.honest()) if asked.name.endswith(".safetensors") else None


def _names(*names: Any) -> Callable[[Asked], Answer | None]:
    return lambda asked: asked.listed(["config.json", *names]) if asked.for_list else None


LISTS: dict[str, Callable[[Asked], Answer | None]] = {
    "names ../": _names("../../../pwned.safetensors", "model.safetensors"),
    "names an absolute path": _names("/tmp/pwned.safetensors"),
    "names a path of Windows": _names("..\\..\\pwned.safetensors"),
    "names nothing": _names(""),
    "names numbers": _names(7, None),
    "names a hundred thousand files": _names(*(f"f{i}.json" for i in range(100_000))),
    "is a page": lambda a: (200, b"<html>", {"Content-Type": "text/html"}) if a.for_list else None,
    "is nested 10,000 deep": lambda a: (200, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, {}) if a.for_list else None,
    "is a list": lambda a: (200, b"[1]", {}) if a.for_list else None,
    "is empty": lambda a: (200, b"", {}) if a.for_list else None,
    "is a gzip bomb": lambda a: (
        (200, gzip.compress(b" " * (300 << 20)), {"Content-Encoding": "gzip"}) if a.for_list else None
    ),
    "sends in circles": lambda a: (302, b"", {"Location": f"{a.url}{a.path}"}) if a.for_list else None,
}
FILES: dict[str, Callable[[Asked], Answer | None]] = {
    "are elsewhere, in a file": lambda a: _file(a, (302, b"", {"Location": "file:///etc/passwd"})),
    "are elsewhere, in the machine's own network": lambda a: _file(
        a, (302, b"", {"Location": "http://169.254.169.254/latest"})
    ),
    "are elsewhere, at a port of nobody": lambda a: _file(a, (302, b"", {"Location": "http://127.0.0.1:9/x"})),
    "are in circles": lambda a: _file(a, (302, b"", {"Location": f"{a.url}{a.path}"})),
    "are promised and not given": lambda a: _weights(
        a, lambda r: (r[0], r[1][:100], {**r[2], "Content-Length": str(len(r[1]))})
    ),
    "are a terabyte, by their length": lambda a: _weights(
        a, lambda r: (r[0], r[1], {**r[2], "Content-Length": str(1 << 40)})
    ),
    "are of a negative length": lambda a: _weights(a, lambda r: (r[0], r[1], {**r[2], "Content-Length": "-5"})),
    "have an etag that is a path": lambda a: _weights(
        a, lambda r: (r[0], r[1], {**r[2], "ETag": '"../../../../pwned"'})
    ),
    "have a commit that is a path": lambda a: _file(
        a, (a.honest()[0], a.honest()[1], {**a.honest()[2], "X-Repo-Commit": "../../pwned"})
    ),
    "have no etag": lambda a: _weights(a, lambda r: (r[0], r[1], {})),
    "are pages": lambda a: _file(a, (200, b"<html>", {"ETag": '"a"', "X-Repo-Commit": COMMIT})),
    "are gone": lambda a: _file(a, (404, b"", {})),
    "are not for you": lambda a: _file(a, (401, b"", {"X-Error-Code": "GatedRepo"})),
}
CASES = [
    *(Case("hub", f"its list {name}", _served(wicked)) for name, wicked in LISTS.items()),
    *(
        Case("hub", f"its files {name}", _served(wicked), harmless=name == "have no etag")
        for name, wicked in FILES.items()
    ),
    *(
        Case("hub, streamed", f"its files {name}", _served(wicked, STREAM))
        for name, wicked in FILES.items()
        if name not in ("have a commit that is a path", "have no etag")
    ),
]
