"""A hub of our own on this machine: one model, ranges, and every way in which a server fails."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
NAME = "Org/Tiny"


@dataclass
class Hub:
    """What is served, what was asked for, and what goes wrong: `fault(path, range)` names it."""

    folder: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, range
    fault: Callable[[str, str], str] = lambda path, span: ""
    sent: int = 0  # bytes of weights
    etags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    tokens: list[str] = field(default_factory=list)
    listing: list[dict[str, Any]] = field(default_factory=list)  # what the hub lists, the latest change first
    page: int = 100  # models on a page of it

    def once(self, kind: str, times: int = 1, where: str = ".safetensors") -> None:
        """The next few requests for ranges of such files go wrong so."""
        left = [times]

        def fault(path: str, span: str) -> str:
            if where not in path or span in ("", "bytes=0-0", "bytes=0-7") or not left[0]:
                return ""
            left[0] -= 1
            return kind

        self.fault = fault


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A server of the model in `folder`."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            del arguments

        def do_GET(self) -> None:
            span = self.headers.get("Range", "")
            hub.asked.append((self.path, span))
            hub.tokens.append(self.headers.get("Authorization", ""))
            _answer(self, hub, span)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _answer(to: BaseHTTPRequestHandler, hub: Hub, span: str) -> None:
    if hub.gated:
        return _send(to, 403, b"no")
    if to.path.startswith("/api/models?"):
        return _list(to, hub)
    if to.path.startswith(f"/api/models/{NAME}/revision/"):
        files = [{"rfilename": path.name} for path in sorted(hub.folder.iterdir())]
        return _send(to, 200, json.dumps({"sha": COMMIT, "siblings": files}).encode())
    path = hub.folder / to.path.rpartition("/")[2]
    if not to.path.startswith(f"/{NAME}/resolve/{COMMIT}/") or not path.is_file():
        return _send(to, 404, b"none")
    raw = path.read_bytes()
    etag = hub.etags.get(path.name) or f'"{hashlib.sha256(raw).hexdigest()}"'
    fault = hub.fault(to.path, span)
    if fault in ("429", "503", "500"):
        return _send(to, int(fault), b"busy", {"Retry-After": "7"} if fault == "429" else {})
    if not span or fault == "whole":
        return _send(to, 200, raw, {"ETag": etag})
    first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
    part = raw[first : last + 1]
    etag = '"another"' if fault == "changed" else etag
    size = len(raw) + 1 if fault == "grown" else len(raw)
    first += fault == "shifted"
    words = {"ETag": etag, "Content-Range": f"bytes {first}-{last}/{size}", "Content-Length": str(len(part))}
    if path.suffix == ".safetensors":
        hub.sent += len(part)
    if fault == "cut":  # promised, and half of it given
        part = part[: len(part) // 2]
        to.close_connection = True
    if fault == "short":  # less than was asked, and said so
        part = part[: max(1, len(part) // 3)]
        words["Content-Length"] = str(len(part))
    if fault == "nothing":
        part = b""
        to.close_connection = True
    _send(to, 206, part, words)
    return None


def _list(to: BaseHTTPRequestHandler, hub: Hub) -> None:
    """A page of an owner's models; what goes wrong is asked for with the page's number as range."""
    asked = dict(parse_qsl(urlsplit(to.path).query))
    number = int(asked.get("cursor", 0))
    if fault := hub.fault("/api/models", str(number)):
        return _send(to, int(fault), b"busy", {"Retry-After": "7"})
    theirs = [model for model in hub.listing if model["id"].startswith(asked["author"] + "/")]
    words = {}
    if len(theirs) > (number + 1) * hub.page:
        query = urlencode({**asked, "cursor": number + 1})
        words["Link"] = f'<{hub.url}/api/models?{query}>; rel="next"'
    return _send(to, 200, json.dumps(theirs[number * hub.page :][: hub.page]).encode(), words)


def _send(to: BaseHTTPRequestHandler, code: int, body: bytes, words: dict[str, str] | None = None) -> None:
    to.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **(words or {})}.items():
        to.send_header(name, value)
    to.end_headers()
    to.wfile.write(body)
