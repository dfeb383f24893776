"""Files beside the weights that are no files: each kind under each name that is read."""

from __future__ import annotations

from collections.abc import Callable

from tests.robust.cases.base import KINDS, Case, Place

NAMES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("chat_template.jinja", "README.md", "LICENSE", "model.safetensors.index.json", "added_tokens.json"),
)
UNUSUAL = ("preprocessor_config.json", "processor_config.json", "vocab.json", "merges.txt", "tokenizer.model")


def _special(name: str, kind: str) -> Callable[[Place], object]:
    return lambda place: place.special(name, kind)


def _to_the_secret(name: str) -> Callable[[Place], object]:
    """A link that came with an archive, to a file of the user's."""

    def make(place: Place) -> None:
        from tests.hostile import unpacked

        link = place.model / name
        link.unlink(missing_ok=True)
        link.symlink_to(place.secret)
        unpacked(link)

    return make


CASES = [
    *(
        Case("companion", f"{name} is a {kind}", _special(name, kind), harmless=kind in ("folder", "dangling"))
        for name in NAMES
        for kind in KINDS
    ),
    *(Case("companion", f"{name} is a pipe", _special(name, "pipe"), harmless=True) for name in UNUSUAL),
    *(Case("companion", f"{name} is a terabyte", _special(name, "terabyte")) for name in NAMES),
    *(Case("companion", f"{name} leads to a secret", _to_the_secret(name)) for name in (*NAMES, *UNUSUAL)),
]
