"""A model's card: the YAML header of README.md, and what it says the model was made from. A leaf of the source.

It is prose with a header by whoever: what is wrong in it is left out and told, and never an error.
"""

from __future__ import annotations

from pathlib import Path

from convert.files import open_regular
from convert.json_types import JsonDict, JsonObject

CARD_HEADER_BYTES = 256 << 10


def read_card(path: Path | None) -> tuple[JsonDict, list[str]]:
    """The YAML between the first two `---` lines of README.md; {} and a note where it cannot be read."""
    if path is None:
        return {}, []
    from ruamel.yaml import YAML

    with open_regular(path) as file:
        head = file.read(CARD_HEADER_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    if not head or head[0].rstrip() != "---":
        return {}, []
    end = next((number for number, line in enumerate(head[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, [f"{path}: the header that starts with --- has no end; ignored"]
    try:
        header = YAML(typ="safe", pure=True).load("\n".join(head[1:end]))
    except Exception as error:  # whatever a YAML reader says to what a stranger wrote: a card is not worth a failure
        return {}, [f"{path}: the header is not YAML ({type(error).__name__}); ignored"]
    if not isinstance(header, dict):
        return {}, [f"{path}: the header is not a mapping; ignored"]
    return {name: value for name, value in header.items() if isinstance(name, str)}, []


def base_models(card: JsonObject) -> tuple[str, ...]:
    """What the model's card says it was made from, as far as those are texts."""
    said = card.get("base_model")
    return tuple(name for name in (said if isinstance(said, list) else [said]) if isinstance(name, str))[:4]
