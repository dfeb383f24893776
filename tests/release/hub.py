"""As much of the hub's upload API as a release takes, on this machine, with every way in which a server fails.

POST /api/repos/create                  a repository
GET  /api/models/ORG/NAME(/tree/main)   whether it is there, and its files
POST …/preupload/main                   which files are large
POST /ORG/NAME.git/info/lfs/objects/batch   where to put those that are not there
PUT  /lfs/OID                           their bytes
POST …/commit/main                      the commit, a line of JSON an operation
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 10_000  # bytes from which a file is kept apart
TOKEN = "hf_testtokentesttoken"


@dataclass
class UploadHub:
    """Repositories and blobs; `faults` are taken one by one, by (method, part of the path)."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    received: int = 0  # bytes of large files
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> str:
        with self.lock:
            self.asked.append((method, path))
            for number, (wanted, part, kind) in enumerate(self.faults):
                if wanted == method and part in path:
                    del self.faults[number]
                    return kind
        return ""


@contextmanager
def serving() -> Iterator[UploadHub]:
    """The server, empty."""
    hub = UploadHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            del arguments

        def do_GET(self) -> None:
            _Exchange(self, hub).answer()

        do_POST = do_PUT = do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Exchange:
    def __init__(self, to: BaseHTTPRequestHandler, hub: UploadHub) -> None:
        self.to, self.hub, self.path = to, hub, to.path.partition("?")[0]

    def answer(self) -> None:
        kind = self.hub.fault(self.to.command, self.path)
        if kind == "cut":  # half of it is read, and nobody answers
            self.to.rfile.read(int(self.to.headers.get("Content-Length", 2)) // 2)
            self.to.close_connection = True
            return
        body = self.body()
        if kind in ("429", "503", "500", "403", "401"):
            self.send(int(kind), {"error": "no"}, {"Retry-After": "0"} if kind == "429" else {})
        elif not self.path.startswith("/lfs/") and self.to.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "who are you"})
        else:
            self.route(body, kind)

    def body(self) -> bytes:
        if "chunked" in self.to.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.to.rfile.readline().strip() or b"0", 16):
                parts.append(self.to.rfile.read(size))
                self.to.rfile.readline()
            self.to.rfile.readline()
            return b"".join(parts)
        return self.to.rfile.read(int(self.to.headers.get("Content-Length", 0)))

    def route(self, body: bytes, kind: str) -> None:
        hub, path = self.hub, self.path
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            hub.repositories.setdefault(name, {})
            hub.private[name] = bool(said.get("private")) or said.get("visibility") == "private"
            self.send(200, {"url": f"{hub.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif path.startswith("/lfs/"):
            self.put(path.rpartition("/")[2], body, kind)
        elif path.endswith("/info/lfs/objects/batch"):
            self.batch(json.loads(body))
        elif (name := self.name()) not in hub.repositories:
            self.send(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                for f in files
            ]
            self.send(200, {"files": modes})
        elif "/commit/" in path:
            self.commit(name, [json.loads(line) for line in body.splitlines() if line])
        elif "/tree/" in path:
            self.send(200, [self.entry(*item) for item in hub.repositories[name].items()])
        elif "/resolve/" in path:
            content = hub.repositories[name].get(path.rpartition("/main/")[2])
            self.send(404, {}) if content is None else self.send(200, content)
        else:
            self.send(200, {"id": name, "sha": "1" * 40, "private": hub.private[name], "siblings": []})

    def name(self) -> str:
        parts = self.path.removeprefix("/api/models").strip("/").split("/")
        return "/".join(parts[:2])

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        found = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if len(content) >= LARGE:
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return found

    def put(self, oid: str, body: bytes, kind: str) -> None:
        self.hub.received += len(body)
        if kind == "wrong":  # it lost a bit, and says that all is well
            body = bytes([body[0] ^ 1]) + body[1:]
        elif hashlib.sha256(body).hexdigest() != oid:
            self.send(400, {"error": "not that content"})
            return
        self.hub.blobs[oid] = body
        self.send(200, {}, {"ETag": f'"{oid}"'})

    def batch(self, said: dict[str, Any]) -> None:
        objects = []
        for one in said["objects"]:
            actions = (
                {}
                if one["oid"] in self.hub.blobs
                else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}}
            )
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self.send(200, {"transfer": "basic", "objects": objects})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.repositories[name])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        self.hub.repositories[name] = files
        self.hub.commits.append({"name": name, "operations": [line["value"].get("path") for line in lines[1:]]})
        oid = f"{len(self.hub.commits):040x}"
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def send(self, code: int, body: object, words: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.to.send_response(code)
        for key, value in {"Content-Length": str(len(raw)), **(words or {})}.items():
            self.to.send_header(key, value)
        self.to.end_headers()
        if self.to.command != "HEAD":
            self.to.wfile.write(raw)
