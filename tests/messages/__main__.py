"""Write every snapshot anew: `python -m tests.messages --write`; without it, print the names of those that changed."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.messages.inventory import snapshots

FOLDER = Path(__file__).parent


def main(write: bool) -> int:
    changed = 0
    for name, text in snapshots().items():
        file = FOLDER / f"{name}.txt"
        if not file.is_file() or file.read_text("utf-8") != text:
            changed += 1
            print(file)
            if write:
                file.write_text(text, "utf-8")
    return 0 if write else int(bool(changed))


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
