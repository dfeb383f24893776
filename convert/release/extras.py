"""Files that one runtime wants beside a model: Ollama's Modelfile, LM Studio's model.yaml, a llamafile's .args."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convert.bundle import Artifact
from convert.release.repository import Repository
from convert.release.rows import Made

if TYPE_CHECKING:
    from convert.release_options import ReleaseOptions


@dataclass(frozen=True)
class Extras:
    """What is added to a repository: texts to write, and files of the run that lie in it once more."""

    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Artifact] = field(default_factory=dict)


def extras(made: Made, repository: Repository, options: ReleaseOptions, organization: str) -> Extras:
    """All that the options ask for, of this repository."""
    del made, repository, options, organization
    return Extras()
