"""Stores that tests share: S3 by moto, with faults between it and who asks."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Faulty:
    """A WSGI application that now and then fails in place of another, and notes what was asked of it.

    before     503, and nothing was done
    after      it was done, and the answer is 503
    """

    rate: float = 0.0
    seed: int = 0
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, status: of what was done
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def around(self, application: Any) -> Any:
        def answer(environment: dict[str, Any], start: Any) -> Any:
            with self.lock:
                fails = self._random.random() < self.rate
                after = self._random.random() < 0.5
            method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
            if fails and not after:
                return self._refuse(method, path, start)
            status: list[int] = []

            def begin(line: str, headers: Any, info: Any = None) -> Any:
                status.append(int(line.split(maxsplit=1)[0]))
                return start(line, headers, info) if not fails else lambda data: None

            body = list(application(environment, begin))
            with self.lock:  # PUT+: only where there is none
                how = "PUT+" if "HTTP_IF_NONE_MATCH" in environment else method
                self.asked.append((how, path, status[0]))
            return self._refuse(method, path, start) if fails else body

        return answer

    def _refuse(self, method: str, path: str, start: Any) -> list[bytes]:
        with self.lock:
            self.asked.append((method, path, 503))
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def s3_server(faulty: Faulty | None = None, port: int = 0) -> Iterator[str]:
    """An S3 server on this machine; its URL."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application: Any = DomainDispatcherApplication(create_backend_app)
    if faulty is not None:
        application = faulty.around(application)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)


def environment(url: str) -> dict[str, str]:
    """What a process needs to reach it; nothing of it is true elsewhere."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIATEST1234",
        "AWS_SECRET_ACCESS_KEY": "verysecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": url,
    }


def bucket(url: str) -> str:
    """A new, empty bucket; its URL."""
    import fsspec

    words = {"endpoint_url": url, "key": "AKIATEST1234", "secret": "verysecret"}
    name = f"bucket-{uuid.uuid4().hex}"  # moto keeps its buckets for as long as the process lives
    fsspec.filesystem("s3", **words, skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/store"
