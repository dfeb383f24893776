"""A llamafile: llama.cpp's executable with the model in it, as a zip behind it; `.args` says how it is started.

    executable                       a Cosmopolitan binary, which is a zip archive too
    .args                            one argument a line; `...` stands for what the user adds
    model.gguf                       stored, not compressed, its first byte on a page: it is mapped from there
    central directory

Sources: llamafile's llamafile/zipalign.c and README.md, "Creating llamafiles".
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from convert.errors import InputError
from convert.release.repository import Place

ALIGNMENT = 65536  # Windows maps from there
FIXED_HEADER = 30  # bytes of a local header, without the name
ZIP64_FIELD = 20  # what Python puts behind the name of a file of more than 2 GB
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first day: equal files give equal bytes
ARGS = ".args"


def arguments(place: Place, *, embedded: bool) -> str:
    """`.args`; of an embedded model the names are those within the archive."""
    prefix = "/zip/" if embedded else ""
    lines = ["-m", prefix + place.weights]
    if place.projector:
        lines += ["--mmproj", prefix + place.projector]
    return "\n".join([*lines, "..."]) + "\n"


def build(binary: Path, out: Path, args: str, files: Sequence[Path]) -> None:
    """The executable at `out`. Raises InputError for a binary that is no llamafile."""
    if not zipfile.is_zipfile(binary):
        raise InputError(str(binary), "is no llamafile: no zip archive is in it", "llamafile's executable")
    shutil.copyfile(binary, out)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(ARGS), args)
        for path in files:
            _add(archive, path)
    out.chmod(0o755)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    return entry


def _add(archive: zipfile.ZipFile, path: Path) -> None:
    """The file as an entry whose bytes begin on a page: what is before it is nobody's."""
    entry = _entry(path.name)
    entry.file_size = path.stat().st_size
    assert archive.fp is not None
    large = entry.file_size * 1.05 > zipfile.ZIP64_LIMIT  # Python's own rule
    start = archive.start_dir + FIXED_HEADER + len(path.name.encode()) + ZIP64_FIELD * large
    archive.fp.seek(archive.start_dir)
    archive.fp.write(bytes(-start % ALIGNMENT))
    archive.start_dir = archive.fp.tell()
    with archive.open(entry, "w", force_zip64=large) as target, open(path, "rb") as source:
        shutil.copyfileobj(source, target, 8 << 20)
