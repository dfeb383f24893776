"""LM Studio's model.yaml (modelyaml.org): where a model's files are on the hub, what it is, and how to sample."""

from __future__ import annotations

import io
from collections.abc import Mapping

from convert.bundle import Bundle
from convert.json_types import JsonDict
from convert.release.advice import needed_bytes
from convert.release.modelfile import sampling
from convert.release.repository import Repository
from convert.source.companions import read_companions

NAME = "model.yaml"
FIELDS: Mapping[str, tuple[str, bool]] = {  # Ollama's word -> LM Studio's field, and whether it has a switch
    "temperature": ("llm.prediction.temperature", False),
    "top_k": ("llm.prediction.topKSampling", False),
    "top_p": ("llm.prediction.topPSampling", True),
    "min_p": ("llm.prediction.minPSampling", True),
    "repeat_penalty": ("llm.prediction.repeatPenalty", True),
}


def model_yaml(repository: Repository, organization: str, source: Bundle) -> str:
    """model.yaml of a repository on the hub."""
    from ruamel.yaml import YAML

    companions = read_companions(source, tokenizer=False)
    config, text = companions.config, companions.text_config
    overrides: JsonDict = {
        "domain": "llm",
        "architectures": [str(config.get("model_type", "unknown"))],
        "compatibilityTypes": ["gguf"],
        "minMemoryUsageBytes": int(min(map(needed_bytes, repository.places))),
        "vision": isinstance(config.get("vision_config"), dict),
    }
    if isinstance(context := text.get("max_position_embeddings"), int):
        overrides["contextLengths"] = [context]
    content: JsonDict = {
        "model": f"{organization}/{source.model.name}".lower(),
        "base": [
            {
                "key": f"{organization}/{repository.name}".lower(),
                "sources": [{"type": "huggingface", "user": organization, "repo": repository.name}],
            }
        ],
        "metadataOverrides": overrides,
    }
    fields = [_field(word, value) for word, value in sampling(companions.generation)]
    if fields:
        content["config"] = {"operation": {"fields": fields}}
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(content, out)
    return "# https://modelyaml.org\n" + out.getvalue()


def _field(word: str, value: float) -> JsonDict:
    key, switched = FIELDS[word]
    number = int(value) if word == "top_k" else value
    return {"key": key, "value": {"checked": True, "value": number} if switched else number}
