"""Write every snapshot anew: `python -m tests.messages --write`; without it, print the names of those that changed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.messages.inventory import snapshots

FOLDER = Path(__file__).parent


def texts(scratch: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every snapshot, as it is now."""
    from tests.messages import rendered

    yield from snapshots().items()
    for name, parts in rendered.sections(scratch).items():
        yield name, rendered.text(parts())


def main(write: bool) -> int:
    changed = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CONVERT_CACHE_HOME"] = str(Path(scratch) / "cache")
        for name, text in texts(Path(scratch)):
            file = FOLDER / f"{name}.txt"
            if not file.is_file() or file.read_text("utf-8") != text:
                changed += 1
                print(file)
                if write:
                    file.write_text(text, "utf-8")
    return 0 if write else int(bool(changed))


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
