"""A graph of an encoder: the vectors of a text's tokens, the one vector of the text, or a classifier's scores.

    with onnxruntime.RUNTIME.open(Path("out/demo/onnx/onnx/model.onnx")) as session:
        session.embed(session.tokenize("Hello", add_special=True))

What becomes of vectors of tokens is what sentence-transformers' files beside the graph say, where the graph does not
give `sentence_embedding` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.embeddings import EMBEDDINGS, SCORES
from validate.errors import RuntimeFailure, Unsupported
from validate.runtimes._folder import CheckpointFolder
from validate.runtimes._graph_session import home_of
from validate.runtimes._sentences import pooled, read_sentences, through
from validate.runtimes.base import Ability, Identity

if TYPE_CHECKING:
    from validate.runtimes._graph_session import Graph

VECTORS, WHOLE, LOGITS = "last_hidden_state", "sentence_embedding", "logits"
TEXTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


def is_encoder(graph: Graph) -> bool:
    """Whether a graph reads a text and writes none: it takes no cache, and gives a text's vectors or its scores."""
    reads = set(graph.inputs) <= TEXTS and "input_ids" in graph.inputs
    return reads and (VECTORS in graph.outputs or _gives_scores(graph))


def _gives_scores(graph: Graph) -> bool:
    return LOGITS in graph.outputs and len(graph.outputs[LOGITS].shape) == 2


class GraphEncoder(CheckpointFolder):
    """An encoder's graph; see Session for the methods."""

    def __init__(self, model: Path, graph: Graph, threads: int | None = None) -> None:
        super().__init__(home_of(model))
        self.threads, self._graph, self._name = threads, graph, model.name
        self._sentences = read_sentences(home_of(model))

    def identity(self) -> Identity:
        return replace(super().identity(), gives=SCORES if _gives_scores(self._graph) else EMBEDDINGS)

    def can(self, ability: Ability) -> bool:
        return ability is Ability.EMBED

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        raise Unsupported(f"{self._name} predicts no next token")

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        import torch

        made = self._run(tokens)
        if _gives_scores(self._graph):
            return made[LOGITS][0]  # type: ignore[no-any-return]
        if WHOLE in made:
            return made[WHOLE][0]  # type: ignore[no-any-return]
        vector = pooled(torch.from_numpy(made[VECTORS][0]), self._sentences)
        for dense in self._sentences.dense if self._sentences else ():
            vector = through(vector, dense, self._folder)
        return vector.numpy()  # type: ignore[no-any-return]

    def _run(self, tokens: Sequence[int]) -> dict[str, np.ndarray]:
        """What the graph gives of one text, float32."""
        wrong = [token for token in tokens if not 0 <= token < self._text.vocab_size]
        if wrong or not tokens:
            what = f"token id {wrong[0]} is outside of the vocabulary" if wrong else "no tokens"
            raise RuntimeFailure(f"{self._name}: {what}")
        ids = np.array([list(tokens)])
        given: Mapping[str, Callable[[], np.ndarray]] = {
            "input_ids": lambda: ids,
            "attention_mask": lambda: np.ones_like(ids),
            "token_type_ids": lambda: np.zeros_like(ids),
        }
        feeds = {name: given[name]().astype(port.dtype) for name, port in self._graph.inputs.items()}
        return {name: values.astype(np.float32) for name, values in self._graph.run(feeds).items()}

    def close(self) -> None:
        self._graph.close()
