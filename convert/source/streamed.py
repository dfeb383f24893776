"""A model of the hub that is not downloaded: its small files are here, and of its weights the headers.

    <cache>/convert-streamed/org--name/refs/main                        the commit
    <cache>/convert-streamed/org--name/<commit>/config.json, …          whole
    <cache>/convert-streamed/org--name/<commit>/model….safetensors      as long as it is, with nothing behind the header
    <cache>/convert-streamed/org--name/<commit>/.streamed.json          where its bytes are, and what their ETag was

A plan reads headers alone, so it needs no network; a pass over the weights reads ranges of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

from convert.errors import InputError
from convert.progress import Progress
from convert.source import hub
from convert.source.checkpoint import SAFETENSORS
from convert.source.remote import LIST, RemoteFile, fetch, home, seen, write_list
from convert.source.safetensors import MAX_HEADER_BYTES
from convert.source.untrusted import check_bare, parse_object

SMALL = 256 << 20  # of a companion
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*(/[A-Za-z0-9][A-Za-z0-9._ -]*)?")


def _home(name: str) -> Path:
    return home() / name.replace("/", "--")


def prepared(name: str, revision: str) -> Path | None:
    """The folder of a model whose headers are here; None where they are not. Never touches the network."""
    commit = revision
    if not hub.COMMIT.fullmatch(revision):
        try:
            commit = (_home(name) / "refs" / quote(revision, safe="")).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    folder = _home(name) / commit
    return folder if hub.COMMIT.fullmatch(commit) and (folder / LIST).is_file() else None


def prepare(name: str, revision: str, progress: Progress) -> Path:
    """Bring a model's small files and the headers of its weights. Raises InputError."""
    from huggingface_hub import constants, get_token

    if found := prepared(name, revision):
        return found
    token, server = get_token() or "", constants.ENDPOINT
    progress.note(f"asking the hub for {name} at {revision}: its weights stay there")
    address = f"{server}/api/models/{name}/revision/{quote(revision, safe='')}"
    about = parse_object(address, fetch(address, token, SMALL))
    commit, listed = str(about.get("sha")), about.get("siblings")
    if not hub.COMMIT.fullmatch(commit) or not isinstance(listed, list):
        raise InputError(address, "names no commit and files", "what the hub says of a model")
    files = [str(one.get("rfilename")) for one in listed if isinstance(one, dict)]
    wanted = [file for file in hub.wanted(files) if NAME.fullmatch(file)]
    weights = [file for file in wanted if file.endswith(SAFETENSORS.suffix)]
    if not weights:
        raise InputError(f"hub model {name}", "has no safetensors", "weights whose headers tell where tensors are")
    folder = _home(name) / commit
    folder.mkdir(parents=True, exist_ok=True)
    resolve = f"{server}/{name}/resolve/{commit}"
    for file in (file for file in wanted if "/" not in file and file not in weights):
        check_bare(file, folder)
        (folder / file).write_bytes(fetch(f"{resolve}/{quote(file)}", token, SMALL))
    remote = {file: _header(folder / file, f"{resolve}/{quote(file)}", token) for file in weights}
    write_list(folder, remote)
    if revision != commit:
        (_home(name) / "refs").mkdir(exist_ok=True)
        (_home(name) / "refs" / quote(revision, safe="")).write_text(commit, encoding="ascii")
    return folder


def _header(path: Path, url: str, token: str) -> RemoteFile:
    """Write the beginning of a file of weights, and leave the rest of its length empty."""
    file = seen(url, token)
    if file.size < 8:
        raise InputError(url, f"is {file.size} bytes long", "a safetensors file")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        raise InputError(url, f"its header claims {length} bytes of {file.size}", "a safetensors file")
    begin = file.read(0, 8 + length)
    with open(path, "wb") as out:
        out.write(begin)
        out.truncate(file.size)  # a hole, which takes no space on the disk
    return file


def identity(file: RemoteFile) -> str:
    """What stands for the hash of a file whose bytes nobody has read: hexadecimal."""
    import hashlib

    return hashlib.sha256(json.dumps([file.url, file.etag, file.size]).encode()).hexdigest()
