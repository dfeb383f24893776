"""What the hub has of an owner, the latest change first: as much of its listing as a watch needs.

GET /api/models?author=ORG&sort=lastModified&direction=-1&limit=100&full=true      a page; `Link` names the next
GET /api/models/ORG/NAME/revision/REVISION                                          one model
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source import hub
from convert.source.remote import fetch, fetch_page
from convert.source.untrusted import parse_object, shown

PAGE = 100
PAGE_BYTES = 64 << 20
MOST_PAGES = 1000


@dataclass(frozen=True)
class Listed:
    """One model as a listing has it. What the listing does not say is empty."""

    name: str  # org/name
    revision: str  # the commit
    modified: str  # 2026-11-29T12:00:00.000Z: sorts as time does
    tags: tuple[str, ...] = ()
    pipeline: str = ""
    library: str = ""
    downloads: int = 0
    likes: int = 0
    gated: bool = False


def models_of(owner: str) -> Iterator[Listed]:
    """The owner's models, the one that changed last first. Raises InputError where the hub does not answer."""
    server, token = _server()
    url = f"{server}/api/models?author={quote(owner)}&sort=lastModified&direction=-1&limit={PAGE}&full=true"
    for _ in range(MOST_PAGES):
        raw, following = fetch_page(url, token, PAGE_BYTES)
        yield from _listed(url, raw)
        if not following:
            return
        url = urljoin(url, following)
        if urlsplit(url)[:2] != urlsplit(server)[:2]:  # the token is for that server alone
            raise InputError(server, f"names {shown(url)} as the next page of models", "one of its own")


def model_at(name: str, revision: str) -> Listed:
    """A model as it is at a branch or tag now. Raises InputError."""
    server, token = _server()
    url = f"{server}/api/models/{name}/revision/{quote(revision, safe='')}"
    found = _model(parse_object(url, fetch(url, token, PAGE_BYTES)), name)
    if found is None:
        raise InputError(url, "names no commit", "what the hub says of a model")
    return found


def _server() -> tuple[str, str]:
    from huggingface_hub import constants, get_token

    return constants.ENDPOINT, get_token() or ""


def _listed(url: str, raw: bytes) -> Iterator[Listed]:
    try:
        page = json.loads(raw)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, list):
        raise InputError(url, "is no list of models", "what the hub lists")
    for words in page:
        if isinstance(words, dict) and (found := _model(words, str(words.get("id", "")))) is not None:
            yield found


def _model(words: JsonObject, name: str) -> Listed | None:
    """The model that the hub's words describe; None for one without a commit, or with a name that is none."""
    revision = str(words.get("sha") or "")
    owner, mark, own = name.partition("/")
    if not hub.COMMIT.fullmatch(revision) or not (owner and mark and own) or "/" in own or words.get("disabled"):
        return None
    tags = words.get("tags")
    return Listed(
        name,
        revision,
        str(words.get("lastModified") or ""),
        tuple(map(str, tags)) if isinstance(tags, list) else (),
        str(words.get("pipeline_tag") or ""),
        str(words.get("library_name") or ""),
        _count(words.get("downloads")),
        _count(words.get("likes")),
        bool(words.get("gated")),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
