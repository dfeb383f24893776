"""The images of a recipe: files, and those in folders; which calibrate, and which are measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.errors import InputError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm"})
HELD_OUT = 4  # one in so many is measured with


def image_files(named: Sequence[Path]) -> list[Path]:
    """The images among files and folders, in order. Raises InputError for a name that is nothing."""
    found: list[Path] = []
    for path in named:
        if path.is_dir():
            found += sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(str(path), "does not exist", "an image, or a folder of images", "check the path")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Images:
    """Those that calibrate, and those that are measured with."""

    calibrate: Sequence[Path]
    measure: Sequence[Path]


def split(named: Sequence[Path]) -> Images:
    """The images of the recipe, every fourth of them to measure with. Raises InputError."""
    found = image_files(named)
    held = found[HELD_OUT - 1 :: HELD_OUT]
    return Images([path for path in found if path not in set(held)], held)
