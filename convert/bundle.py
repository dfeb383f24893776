"""What travels between stages: Artifact, Bundle, Manifest. A leaf: imports nothing of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from convert.json_types import JsonDict, JsonObject

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
NOWHERE = Path(os.devnull)  # the folder of a file whose name alone is known: nothing can be in it


class Role(StrEnum):
    """What a file is to the model. A stage replaces the roles it makes; all others travel on untouched."""

    WEIGHTS = "weights"
    PROJECTOR = "projector"
    CONFIG = "config"
    TOKENIZER = "tokenizer"
    CHAT_TEMPLATE = "chat_template"
    PREPROCESSOR = "preprocessor"
    GENERATION = "generation_config"
    SENTENCES = "sentences"  # how an encoder's vectors of tokens become one of a text: sentence-transformers' files
    CARD = "card"
    ADAPTER = "adapter"  # what llama.cpp adds to a model while it runs
    IMATRIX = "imatrix"  # how much each column of a matrix matters, by the tensors of its GGUF file
    STATISTICS = "statistics"  # what goes into a checkpoint's matrices: a file a layer
    GRADIENTS = "gradients"  # what errors in a checkpoint's matrices cost, to choose types by
    FIT = "fit"  # how the types of a file were chosen for its size: what a report shows of it
    REPORT = "report"


MEASURED = (Role.IMATRIX, Role.STATISTICS, Role.GRADIENTS, Role.FIT)  # of a model: no part of it


@dataclass(frozen=True)
class Artifact:
    """One file. `kind` is `format` or `format/TYPE`: `safetensors`, `gguf/Q8_0`, `json`.

    In a forecast (before it exists) `size` is the predicted number of bytes and `sha256` is empty.
    """

    kind: str
    path: Path
    size: int
    sha256: str = ""

    @property
    def format(self) -> str:
        return self.kind.partition("/")[0]

    @property
    def type(self) -> str:
        return self.kind.partition("/")[2]

    @property
    def elsewhere(self) -> bool:
        """Whether its bytes are on a server, and its hash stands for what that says of it."""
        return self.kind == "streamed"


@dataclass(frozen=True)
class Model:
    """Who the model is, for file names and provenance. `revision` is a hub commit, empty for a local checkpoint."""

    name: str  # as in file names: Fara-7B
    hub: str = ""  # microsoft/Fara-7B
    revision: str = ""
    taken_as: str = ""  # by whose class it is read, where no family serves its own: in words


@dataclass(frozen=True, eq=False)
class Pending:
    """What will be in weights that a step is yet to write: enough to plan what is made of them."""

    config: JsonObject  # config.json, as it will be
    tensors: Mapping[str, object]  # convert.source.checkpoint's LazyTensor by name


@dataclass(frozen=True)
class Bundle:
    """A model on disk: files by role. A role may hold several files (shards, or one GGUF a type)."""

    model: Model
    roles: Mapping[Role, tuple[Artifact, ...]] = field(default_factory=dict)
    not_built: str = ""  # why, for one whose files nobody may open: they are not there, or of another recipe's state
    remarks: tuple[str, ...] = ()  # what a report on it says beside its numbers; of this run, in no manifest
    pending: Pending | None = None  # of a forecast alone

    def with_(self, **roles: Artifact | tuple[Artifact, ...]) -> Bundle:
        """This bundle with some roles replaced: `source.with_(weights=new)`. An empty tuple drops a role."""
        merged = dict(self.roles)
        for name, value in roles.items():
            merged[Role(name)] = (value,) if isinstance(value, Artifact) else value
        return replace(self, roles={role: files for role, files in merged.items() if files})

    def of(self, role: Role) -> tuple[Artifact, ...]:
        return self.roles.get(role, ())

    def artifacts(self) -> Iterator[tuple[Role, Artifact]]:
        for role, files in self.roles.items():
            for artifact in files:
                yield role, artifact

    def moved(self, old: Path, new: Path) -> Bundle:
        """The same bundle after the folder `old` was renamed to `new`."""

        def move(artifact: Artifact) -> Artifact:
            if not artifact.path.is_relative_to(old):
                return artifact
            return replace(artifact, path=new / artifact.path.relative_to(old))

        return replace(self, roles={role: tuple(map(move, files)) for role, files in self.roles.items()})


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` of a finished stage says. Holds no times: equal inputs give equal bytes."""

    stage: str  # the name in the recipe
    use: str
    key: str
    key_inputs: JsonObject  # what the key was made from: version, options, tools, inputs
    recipe_sha256: str
    bundle: Bundle

    def to_json(self, folder: Path) -> str:
        """JSON text; files inside `folder` are written relative to it, of others the name alone.

        Where others lie is this machine's affair and no part of what was made: who reads the manifest finds them among
        the files at hand, by name and content.
        """
        model = self.bundle.model
        return (
            json.dumps(
                {
                    "schema_version": SCHEMA_VERSION,
                    "stage": self.stage,
                    "use": self.use,
                    "key": self.key,
                    "ingredients": self.key_inputs,
                    "recipe_sha256": self.recipe_sha256,
                    "model": {
                        "name": model.name,
                        "hub": model.hub,
                        "revision": model.revision,
                        **({"taken_as": model.taken_as} if model.taken_as else {}),
                    },
                    "artifacts": [_artifact_json(role, a, folder) for role, a in self.bundle.artifacts()],
                },
                indent=2,
                ensure_ascii=False,
            )
            + "\n"
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`.

        Raises FileNotFoundError where there is none, ValueError where it is not one of ours.
        """
        try:
            raw = json.loads(_text(folder / MANIFEST_NAME))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {raw['schema_version']}, wanted {SCHEMA_VERSION}")
            if not isinstance(raw["ingredients"], dict):
                raise TypeError("ingredients, what the key was made from, are not an object")
            roles: dict[Role, tuple[Artifact, ...]] = {}
            for entry in raw["artifacts"]:
                home = NOWHERE if entry.get("outside") else folder
                artifact = Artifact(entry["kind"], home / entry["path"], entry["size"], entry["sha256"])
                role = Role(entry["role"])
                roles[role] = (*roles.get(role, ()), artifact)
            bundle = Bundle(Model(**raw["model"]), roles)
            return cls(raw["stage"], raw["use"], raw["key"], raw["ingredients"], raw["recipe_sha256"], bundle)
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{folder / MANIFEST_NAME} is not a manifest: {error!r}") from error


def _text(path: Path) -> str:
    """What is written there. Raises FileNotFoundError, and ValueError for what is no file."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    return path.read_text(encoding="utf-8")


def _artifact_json(role: Role, artifact: Artifact, folder: Path) -> JsonDict:
    inside = artifact.path.is_relative_to(folder)
    path = artifact.path.relative_to(folder).as_posix() if inside else artifact.path.name
    words = {"role": role, "kind": artifact.kind, "path": path, "size": artifact.size, "sha256": artifact.sha256}
    return words if inside else {**words, "outside": True}
