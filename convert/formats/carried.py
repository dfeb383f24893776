"""What travels in the folder of a checkpoint in fewer bits: copies of the source's own files."""

from __future__ import annotations

import shutil
from pathlib import Path

from convert.bundle import Artifact, Bundle, Role


def copied(artifact: Artifact, source: Bundle, folder: Path) -> Artifact:
    """The artifact's copy in `folder`, as deep as it lies beside the source's config."""
    home = next(iter(source.of(Role.CONFIG))).path.parent
    inside = artifact.path.relative_to(home) if artifact.path.is_relative_to(home) else Path(artifact.path.name)
    path = folder / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact.path, path)
    return Artifact(artifact.kind, path, path.stat().st_size, artifact.sha256)
