"""What a graph says of where it comes from, in its metadata."""

from __future__ import annotations

import hashlib

from convert.bundle import Bundle, Role


def origin(source: Bundle, precision: str, key: str) -> dict[str, str]:
    """Metadata of a graph in `precision`; nothing that changes from run to run. `key` is the step's."""
    digests = sorted(artifact.sha256 for artifact in source.of(Role.WEIGHTS))
    said = {
        "convert.precision": precision,
        "convert.key": key,
        "convert.model": source.model.name,
        "convert.source": source.model.hub,
        "convert.revision": source.model.revision,
        "convert.weights_sha256": hashlib.sha256("\n".join(digests).encode()).hexdigest()
        if digests and all(digests)
        else "",
    }
    return {name: value for name, value in said.items() if value}
