from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import tiny
from tests.fixtures_gguf import LLAMA3_ROPE, edit_weights
from tests.parity.build import published, renamed, sharpened
from tests.parity.families import Case
from tests.parity.sentences import pooled

YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
BIASES = {"attention_bias": True, "mlp_bias": True, "head_dim": 32}


def llama(**words: Any) -> Callable[[Path], Path]:
    return lambda folder: sharpened(tiny.tiny_llama(folder, **words))


def called(name: str, **words: Any) -> Callable[[Path], Path]:
    """A config that names another class of the same layers."""

    def make(folder: Path) -> Path:
        made = llama(**words)(folder)
        config = json.loads((made / "config.json").read_text())
        pieces = PIECES.get(name, ())
        return published(made, config | {"architectures": [name]}, renamed(*pieces))

    return make


# of names, that other classes have otherwise
PIECES = {"VLlama3ForCausalLM": (("model.", "model.text_model."),)}


def embedder(folder: Path) -> Path:
    """The base model alone, whose embedding is that of the last token."""
    made = called("LlamaModel")(folder)
    edit_weights(made, lambda found: {name.removeprefix("model."): values for name, values in found.items()})
    return pooled(made, "last")


POOLING = {"llama.pooling_type": "upstream asks sentence-transformers' folder for other families only"}
IQUEST = {"model_type": "iquestcoder", "tied": False, "head_dim": 32}
CASES = {
    "": Case(llama()),
    "biases, untied, heads of their own size": Case(llama(tied=False, **BIASES)),
    "llama3 scaling": Case(llama(rope_scaling=LLAMA3_ROPE)),
    "linear scaling": Case(llama(rope_scaling={"type": "linear", "factor": 4.0})),
    "yarn": Case(llama(rope_scaling=YARN)),
    "yarn with its own attention factor": Case(llama(rope_scaling={**YARN, "attention_factor": 0.7})),
    "mistral": Case(llama(**MISTRAL)),
    "as its first converter called it": Case(called("LLaMAForCausalLM")),
    "IQuest Coder": Case(called("IQuestCoderForCausalLM", **IQUEST)),
    "a base model": Case(embedder, writes=False, allowed=POOLING),
    "the text of SmolVLM": Case(called("VLlama3ForCausalLM"), equal=llama()),
}
