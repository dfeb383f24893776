"""The pages and files that a browser on this machine is given, and nothing else.

    /                    the page, of this package's folder page/
    /outputs.json        what there is to choose from
    /models/NAME/FILE    a file of an output's folder
    /package/FILE        a file of transformers.js or ONNX Runtime's web build, as npm installed them

Bound to 127.0.0.1, and answering only to that name: a page of another site cannot read it through a name that leads
here (DNS rebinding). A path that leads out of its folder, by dots or by a link, is not there.
"""

from __future__ import annotations

import json
import mimetypes
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from convert.errors import InputError
from convert.serving.outputs import REMEDY, Served

ADDRESS = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
PACKAGES = ("@huggingface/transformers/dist", "onnxruntime-web/dist")  # what of node_modules is handed out
BLOCK = 1 << 20
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
HEADERS = {
    "Cache-Control": "no-store",  # a run may write another model under the same name
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",  # these two: WASM with threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' blob: 'wasm-unsafe-eval'; "
    "worker-src 'self' blob:; img-src 'self' blob: data:; connect-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
}


@dataclass(frozen=True)
class Site:
    """What is served: outputs by name, and the folder of npm's packages."""

    outputs: Mapping[str, Served]
    modules: Path

    def listing(self) -> bytes:
        """outputs.json."""
        said = {"outputs": [served.to_json() for served in self.outputs.values()], "remedy": REMEDY}
        return json.dumps(said).encode()

    def file(self, path: str) -> Path | None:
        """The file that a URL's path names; None for what is not there or leads out of its folder."""
        parts = unquote(path).split("/")[1:]
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            return _inside(PAGE, ["index.html"]) if parts == [""] else None
        if parts[0] == "models":
            return self._of_an_output(parts[1:])
        if parts[0] == "package":
            return next((f for name in PACKAGES if (f := self._of_a_package(name, parts[1:]))), None)
        return _inside(PAGE, parts) if len(parts) == 1 else None

    def _of_an_output(self, parts: list[str]) -> Path | None:
        for count in range(len(parts) - 1, 0, -1):
            if served := self.outputs.get("/".join(parts[:count])):
                return _inside(served.folder, parts[count:])
        return None

    def _of_a_package(self, name: str, parts: list[str]) -> Path | None:
        home = name.split("/")
        return _inside(self.modules / name, parts[len(home) :]) if parts[: len(home)] == home else None


def _inside(folder: Path, parts: list[str]) -> Path | None:
    home = folder.resolve()
    path = home.joinpath(*parts).resolve()
    return path if parts and path.is_relative_to(home) and path.is_file() else None


def open_server(site: Site, port: int) -> Server:
    """A server that waits for `serve_forever`; port 0 is any that is free. Raises InputError for one that is taken."""

    class Bound(_Handler):
        served = site

    try:
        return Server((ADDRESS, port), Bound)
    except OSError as error:
        got = f"port {port} cannot be used ({error.strerror})"
        raise InputError("--port", got, "a port that is free", "--port 0 takes any") from error


class Server(ThreadingHTTPServer):
    """Answers each question in a thread of its own, until `shutdown`."""

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing of a browser that went away, which is no error; what else there is, as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    served: Site
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "convert", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's."""

    def _answer(self, body: bool) -> None:
        assert isinstance(self.server, Server)
        if self.headers.get("Host") not in (f"{ADDRESS}:{self.server.port}", f"localhost:{self.server.port}"):
            return self._refuse(HTTPStatus.FORBIDDEN, body)
        path = urlsplit(self.path).path
        if path == "/outputs.json":
            return self._send(HTTPStatus.OK, "application/json", self.served.listing(), body)
        file = self.served.file(path)
        if file is None:
            return self._refuse(HTTPStatus.NOT_FOUND, body)
        try:
            self._send_file(file, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page went away in between
        return None

    def _refuse(self, status: HTTPStatus, body: bool) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode(), body)

    def _send(self, status: HTTPStatus, kind: str, text: bytes, body: bool) -> None:
        self._head(status, kind, len(text), {})
        if body:
            self.wfile.write(text)

    def _send_file(self, file: Path, body: bool) -> None:
        size = file.stat().st_size
        kind = TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        asked = self.headers.get("Range")
        span = _span(asked, size) if asked else None
        if span is not None and span[0] >= span[1]:
            return self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kind, 0, {"Content-Range": f"bytes */{size}"})
        start, stop = span or (0, size)
        more = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if span else {}
        self._head(HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK, kind, stop - start, more)
        if body:
            self._copy(file, start, stop)
        return None

    def _copy(self, file: Path, start: int, stop: int) -> None:
        with open(file, "rb") as source:
            source.seek(start)
            while start < stop:
                block = source.read(min(BLOCK, stop - start))
                if not block:  # it was cut short meanwhile: the length that was said cannot be kept
                    self.close_connection = True
                    return
                self.wfile.write(block)
                start += len(block)

    def _head(self, status: HTTPStatus, kind: str, length: int, more: Mapping[str, str]) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(length), "Accept-Ranges": "bytes", **HEADERS, **more}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of one range of bytes, empty where it lies behind the end; None for what is none: all is sent."""
    found = RANGE.fullmatch(asked.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:  # the last so many
        return max(0, size - int(last)), size if int(last) else 0
    return int(first), min(size, int(last) + 1) if last else size
