"""transformers.js: ONNX graphs in the hub's layout, by its own tokenizer, model classes and caches, in node on the CPU.

What it says of a folder is what a browser says: names of files, inputs and axes, positions, the cache it makes itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from validate import transformers_js
from validate.errors import Unsupported
from validate.runtimes._elsewhere import ElsewhereRuntime, ElsewhereSession, Environment
from validate.runtimes.base import Ability

WORKER = Path(__file__).parent / "_workers" / "transformers_js.mjs"


class TransformersJsSession(ElsewhereSession):
    """A folder that transformers.js opened.

    Where a model takes images, transformers.js 4.3 gives the tokens it writes behind a text without one wrong positions
    (_get_text_only_rope_index adds the text's length to the delta that it should be subtracted from): what it reads at
    once is right, and what it writes says nothing of the graph.
    """

    def __init__(self, runtime: ElsewhereRuntime, environment: Environment, model: Path, threads: int | None) -> None:
        self._writes = not model.name.startswith("decoder_model_merged")
        super().__init__(runtime, environment, model, 0, threads)

    def can(self, ability: Ability) -> bool:
        return self._writes and super().can(ability)


class TransformersJs(ElsewhereRuntime):
    """transformers.js, of the folder that npm filled."""

    NAME = "transformers.js"
    ALSO_RUNS = ("onnx",)
    NOT_ASKED: ClassVar[Mapping[Ability, str]] = {
        Ability.IMAGES: "transformers.js is asked for text; ONNX Runtime is shown the images, with the same graphs",
        **dict.fromkeys(
            (Ability.GENERATE, Ability.DECODE),
            "what it writes behind a text alone, of a model that takes images, has wrong positions",
        ),
    }

    def __init__(self, environment: Environment | None = None) -> None:
        self._lack = ""
        if environment is None:
            try:
                package = transformers_js.find()
                environment = Environment(transformers_js.node(), WORKER, json.dumps({"folder": str(package.folder)}))
            except Unsupported as error:
                self._lack = str(error)
        super().__init__(environment)

    def available(self) -> str | None:
        """Why it cannot run, or None."""
        return self._lack or super().available()

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> TransformersJsSession:
        """A session on the graph that gives logits, text only; the others of its dtype are found by their names."""
        assert self.environment is not None, "open_session asks available() first"
        return TransformersJsSession(self, self.environment, model, threads)


RUNTIME = TransformersJs()
