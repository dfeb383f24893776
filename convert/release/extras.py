"""Files that one runtime wants beside a model: Ollama's Modelfile, LM Studio's model.yaml, a llamafile's .args."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact
from convert.files import STATE_FOLDER
from convert.keys import sha256
from convert.progress import Silent
from convert.release import llamafile, lmstudio, modelfile
from convert.release.advice import first
from convert.release.repository import Place, Repository
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
    texts: dict[str, str] = dict(repository.texts)
    files: dict[str, Artifact] = {}
    if repository.library == "gguf":
        best = first(repository.places)
        if options.ollama and (text := modelfile.modelfile(best, made.source)):
            texts[modelfile.NAME] = text
        if options.lmstudio and organization:
            texts[lmstudio.NAME] = lmstudio.model_yaml(repository, organization, made.source)
        if options.llamafile is True:
            texts[llamafile.ARGS] = llamafile.arguments(best, embedded=False)
        elif options.llamafile:
            built = _llamafile(made, repository, best, options.llamafile)
            files[built.path.name] = built
    return Extras(texts, files)


def _llamafile(made: Made, repository: Repository, best: Place, binary: Path) -> Artifact:
    """The executable with the model in it, made once for these bytes."""
    names = [best.weights, *([best.projector] if best.projector else [])]
    parts = [repository.files[name] for name in names]
    binary_sha256 = made.planned.hashes.of([binary], Silent())[binary]
    key = sha256([binary_sha256, *(part.sha256 for part in parts)])
    home = made.planned.folder / STATE_FOLDER / "llamafile" / key[:32]
    out = home / f"{Path(best.weights).stem}.llamafile"
    if not out.is_file():
        home.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        llamafile.build(binary, partial, llamafile.arguments(best, embedded=True), [part.path for part in parts])
        partial.replace(out)
    return Artifact("llamafile", out, out.stat().st_size, made.planned.hashes.of([out], Silent())[out])
