"""Files on a web server, read in ranges: retried, resumed, and refused when they change.

A server may cut a connection, send less than was asked, or say that it is busy: reading goes on where it stopped. What
it may not do is send another file under the same name: its ETag and its size are those that were seen first.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from pathlib import Path
from time import sleep
from typing import IO
from urllib.parse import urlsplit

import numpy as np

from convert.errors import InputError
from convert.source.safetensors import Entry
from convert.source.untrusted import read_object, shown

LIST = ".streamed.json"
FOLDER = "convert-streamed"
SECONDS = 30.0  # without a byte
TRIES = 8  # without a byte in between
LONGEST_WAIT = 60.0
PIECE = 1 << 20
NEXT = re.compile(r'<([^<>]{1,4000})>;\s*rel="next"')
BUSY = (408, 425, 429, 500, 502, 503, 504)
REMEDIES = {
    401: "log in with `hf auth login`",
    403: "accept the model's licence on the hub, then `hf auth login`",
    404: "check name and revision",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server as it was seen first; `token` is for that server alone."""

    url: str
    etag: str
    size: int
    token: str = ""

    def read(self, start: int, stop: int) -> bytearray:
        """The bytes of a range. Raises InputError where the server does not give them, or the file has changed."""
        found = bytearray()
        failed, reason = 0, ""
        while start + len(found) < stop:
            before = len(found)
            try:
                self._read_on(start + len(found), stop, found)
                continue
            except _BusyError as error:
                reason, wait = str(error), error.wait
            except (OSError, http.client.HTTPException) as error:
                reason, wait = f"{type(error).__name__}: {error}".rstrip(": "), 0.0
            failed = 1 if len(found) > before else failed + 1
            if failed >= TRIES:
                got = f"gave {len(found)} of {stop - start} bytes, then nothing in {TRIES} tries ({shown(reason, 100)})"
                raise InputError(self.url, got, "a server within reach", "run again: what is done stays")
            sleep(min(LONGEST_WAIT, max(wait, 0.5 * 2 ** (failed - 1))))
        return found

    def _read_on(self, start: int, stop: int, found: bytearray) -> None:
        with ask(self.url, self.token, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
            self._check(answer, start)
            while start < stop and (piece := answer.read(min(PIECE, stop - start))):
                found += piece
                start += len(piece)
        if start < stop:
            raise http.client.IncompleteRead(b"", stop - start)

    def _check(self, answer: http.client.HTTPResponse, start: int) -> None:
        if answer.status != 206:
            raise InputError(
                self.url, f"answers {answer.status} where a range was asked for", "206, a part of the file"
            )
        etag = answer.headers.get("ETag", "")
        span, _, size = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if etag != self.etag or size != str(self.size):
            got = f"is another file now: ETag {shown(etag, 60)} of {shown(size, 20)} bytes"
            wanted = f"{shown(self.etag, 60)} of {self.size} bytes, as it was at first"
            raise InputError(self.url, got, wanted, "pin a commit as `revision`, and run again")
        if span.partition("-")[0] != str(start):
            raise InputError(self.url, f"sends the range {shown(span, 40)}", f"one from byte {start} on")


class _BusyError(Exception):
    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows to other servers without the token, which is none of theirs."""

    def redirect_request(  # noqa: PLR0913, PLR0917 - urllib's own
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if new is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


def ask(url: str, token: str = "", headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    """The server's answer. Raises _BusyError for one that may be another soon, InputError for one that will not be."""
    words = {"User-Agent": "convert", "Accept-Encoding": "identity", **(headers or {})}
    if token:
        words["Authorization"] = f"Bearer {token}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(shown(url), "is no address of a web server", "https://…")
    request = urllib.request.Request(url, headers=words)
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener(_Redirect).open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in BUSY:
                raise _BusyError(f"{error.code} {error.reason}", _seconds(error.headers.get("Retry-After"))) from None
            raise InputError(url, f"{error.code} {error.reason}", "200", REMEDIES.get(error.code, "")) from None
    return answer


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0.0


def fetch(url: str, token: str, most: int) -> bytes:
    """A small file, whole. Raises InputError."""
    return fetch_page(url, token, most)[0]


def fetch_page(url: str, token: str, most: int) -> tuple[bytes, str]:
    """A small file, and where the next one is, as its `Link` header says; empty for the last. Raises InputError."""
    for tried in range(TRIES):
        try:
            with ask(url, token) as answer:
                raw = answer.read(most + 1)
                wanted = answer.headers.get("Content-Length")
                link = NEXT.search(answer.headers.get("Link", ""))
            if len(raw) > most:
                raise InputError(url, f"is larger than {most} bytes", "a small file")
            if wanted is None or len(raw) == int(wanted):
                return raw, link[1] if link else ""
        except _BusyError as error:
            sleep(min(LONGEST_WAIT, max(error.wait, 0.5 * 2**tried)))
        except (OSError, http.client.HTTPException):
            sleep(min(LONGEST_WAIT, 0.5 * 2**tried))
    raise InputError(url, f"was not given in {TRIES} tries", "a server within reach", "run again later")


def seen(url: str, token: str) -> RemoteFile:
    """The file as it is now: its first byte tells ETag and size. Raises InputError."""
    for tried in range(TRIES):
        try:
            with ask(url, token, {"Range": "bytes=0-0"}) as answer:
                size = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if answer.status != 206 or not size.isdigit():
                    raise InputError(url, "gives no ranges", "a server that does (206)", "leave `stream: true` out")
                etag = answer.headers.get("ETag", "")
                if not etag:
                    raise InputError(url, "says no ETag, so that a change would not be seen", "an ETag")
                return RemoteFile(url, etag, int(size), token)
        except _BusyError as error:
            sleep(min(LONGEST_WAIT, max(error.wait, 0.5 * 2**tried)))
        except (OSError, http.client.HTTPException):
            sleep(min(LONGEST_WAIT, 0.5 * 2**tried))
    raise InputError(url, f"was not given in {TRIES} tries", "a server within reach", "run again later")


# ---- a folder of files whose bytes are elsewhere


def remote_of(path: Path) -> RemoteFile | None:
    """Where the bytes of a file are, of which only the header is here; None for one that is whole.

    Such lists are read where we write them: a stranger's would have us ask servers of his choice.
    """
    listed = path.parent / LIST
    return _listed(listed).get(path.name) if listed.is_file() and _is_ours(path.parent) else None


def home() -> Path:
    """The folder, beside the hub's cache, of all models whose bytes stay elsewhere."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).parent / FOLDER


def _is_ours(folder: Path) -> bool:
    return folder.resolve().is_relative_to(home().resolve())


@lru_cache(maxsize=8)
def _listed(path: Path) -> dict[str, RemoteFile]:
    found = {}
    for name, said in read_object(path).items():
        if isinstance(said, dict):
            found[name] = RemoteFile(str(said["url"]), str(said["etag"]), int(said["size"]), _token(str(said["url"])))
    return found


def write_list(folder: Path, files: dict[str, RemoteFile]) -> None:
    """Say in `folder` where the bytes of its files are; tokens are not written."""
    said = {name: {"url": one.url, "etag": one.etag, "size": one.size} for name, one in files.items()}
    (folder / LIST).write_text(json.dumps(said, indent=2), encoding="utf-8")
    _listed.cache_clear()


def _token(url: str) -> str:
    from huggingface_hub import constants, get_token

    return (get_token() or "") if url.startswith(f"{constants.ENDPOINT}/") else ""


class RemoteBytes:
    """The tensors of a file elsewhere: one is kept until it is released, rows are read when they are asked for."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._kept: dict[str, np.ndarray] = {}

    def view(self, entry: Entry, dtype: np.dtype) -> np.ndarray:
        """All values."""
        if entry.name not in self._kept:
            raw = self._file.read(entry.start, entry.stop)
            self._kept[entry.name] = np.frombuffer(bytes(raw), dtype).reshape(entry.shape)
        return self._kept[entry.name]

    def rows(self, entry: Entry, dtype: np.dtype, start: int, stop: int) -> np.ndarray:
        """Some of them, along the first axis."""
        if entry.name in self._kept:
            return self._kept[entry.name][start:stop]
        each = (entry.stop - entry.start) // max(1, entry.shape[0])
        raw = self._file.read(entry.start + start * each, entry.start + stop * each)
        return np.frombuffer(bytes(raw), dtype).reshape(stop - start, *entry.shape[1:])

    def release(self, entry: Entry) -> None:
        """Let go of it."""
        self._kept.pop(entry.name, None)
