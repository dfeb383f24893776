"""A GGUF file as the checkpoint it could have been made from: safetensors, config.json, tokenizer; Llama, Qwen2, Qwen3.

The family's own table says which tensor a tensor came from and where its rows were; both ways it is the same table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from convert import architectures
from convert.architectures._graph_spec import SourceTensor
from convert.errors import InputError
from convert.formats.gguf.lora import rows_of
from convert.formats.gguf.reader import GGUFHeader, StoredTensor, read_gguf_header
from convert.formats.gguf.requantize import stored_tensor
from convert.formats.gguf.unpack_tokenizer import tokenizer_files
from convert.json_types import JsonDict
from convert.source.checkpoint import LazyTensor

CLASSES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}
"""general.architecture -> the class and the model_type."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
KNOWN = "llama, qwen2 or qwen3"


@dataclass(frozen=True)
class Unpacked:
    """A GGUF file, read as a checkpoint."""

    path: Path

    @cached_property
    def header(self) -> GGUFHeader:
        """What the file says."""
        return read_gguf_header(self.path)

    @cached_property
    def said(self) -> Mapping[str, object]:
        """Its metadata."""
        return {field.key: field.value for field in self.header.fields}

    @cached_property
    def stored(self) -> Mapping[str, StoredTensor]:
        """Its tensors."""
        return {tensor.name: tensor for tensor in self.header.tensors}

    def refuse(self, got: str, wanted: str = "", remedy: str = "") -> InputError:
        """What to raise where something in it has no place in a checkpoint."""
        return InputError(str(self.path), got, wanted, remedy)

    @cached_property
    def architecture(self) -> str:
        """One of CLASSES."""
        found = str(self.said.get("general.architecture"))
        if found not in CLASSES:
            raise self.refuse(f"is of the architecture {found!r:.40}", KNOWN, "the gguf stage writes it in other types")
        return found

    def _number(self, key: str, default: float | None = None) -> float:
        value = self.said.get(f"{self.architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(f"{self.architecture}.{key} is {value!r:.40}", "a number")
        return value if isinstance(value, int) else float(str(np.float32(value)))

    @cached_property
    def config(self) -> JsonDict:
        """config.json. Raises InputError for what these classes do not have."""
        name, kind = CLASSES[self.architecture]
        if self._number("expert_count", 0):
            raise self.refuse("has experts", "a model without")
        if "token_embd.weight" not in self.stored:
            raise self.refuse("has no token_embd.weight", "a language model")
        heads = int(self._number("attention.head_count"))
        hidden = int(self._number("embedding_length"))
        plain = {tensor.type.name for tensor in self.header.tensors if len(tensor.shape) > 1}
        half = (
            {"BF16": "bfloat16", "F16": "float16"}.get(next(iter(plain)), "float32") if len(plain) == 1 else "float32"
        )
        ids = {word: self.said.get(f"tokenizer.ggml.{key}_token_id") for word, key in IDS.items()}
        biased = "blk.0.attn_q.bias" in self.stored
        return {
            "architectures": [name],
            "model_type": kind,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": int(self._number("feed_forward_length")),
            "num_hidden_layers": int(self._number("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self._number("attention.head_count_kv", heads)),
            "head_dim": int(self._number("attention.key_length", hidden // heads)),
            "max_position_embeddings": int(self._number("context_length")),
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._number("rope.freq_base", 10000.0),
            **({"attention_bias": biased} if kind != "qwen2" else {}),
            **({"mlp_bias": "blk.0.ffn_up.bias" in self.stored} if kind == "llama" else {}),
            "vocab_size": self.stored["token_embd.weight"].shape[0],
            "tie_word_embeddings": "output.weight" not in self.stored,
            "torch_dtype": half,
            **{word: value for word, value in ids.items() if value is not None},
            **self._scaling(),
        }

    def _scaling(self) -> JsonDict:
        kind = self.said.get(f"{self.architecture}.rope.scaling.type")
        if "rope_freqs.weight" in self.stored:
            return {"rope_scaling": self._llama3()}
        if kind in (None, "none"):
            return {}
        if kind not in ("linear", "yarn"):
            raise self.refuse(f"{self.architecture}.rope.scaling.type is {kind!r:.40}", "linear or yarn")
        words: JsonDict = {"rope_type": kind, "factor": self._number("rope.scaling.factor")}
        if kind == "yarn":
            words["original_max_position_embeddings"] = int(self._number("rope.scaling.original_context_length"))
        return {"rope_scaling": words}

    def _llama3(self) -> JsonDict:
        """Whose factors these are: those of Llama 3.1, by its constants and the largest of them."""
        factors = stored_tensor(self.path, self.stored["rope_freqs.weight"]).load().astype(np.float64).reshape(-1)
        words: JsonDict = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
        size, theta = 2 * len(factors), self._number("rope.freq_base", 10000.0)
        wavelengths = 2 * np.pi * theta ** (np.arange(0, size, 2) / size)
        context, low, high = (
            float(LLAMA3[key]) for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
        wanted = 1 / ((1 - smooth) / words["factor"] + smooth)
        if not np.allclose(factors, wanted, rtol=1e-5):
            raise self.refuse("its rope_freqs are not those of Llama 3.1's scaling", "a scaling that a config can say")
        return words

    def tensors(self) -> Iterator[LazyTensor]:
        """The checkpoint's tensors, in the order of the file."""
        family = architectures.find(self.config)
        spec = family.text(self.config)
        made = {output.name: tensor for tensor in spec.tensors for output in tensor.outputs}
        generated = {one.name for one in spec.generated}
        for name, stored in self.stored.items():
            if name in generated:
                continue
            if name not in made:
                raise self.refuse(f"has {name}, which {family.title} does not", KNOWN)
            yield self._tensor(made.pop(name), stored)
        if made:
            raise self.refuse(f"has no {next(iter(made))}", "every tensor of the model", "download it again")

    def _tensor(self, tensor: SourceTensor, stored: StoredTensor) -> LazyTensor:
        (output,) = tensor.outputs
        if stored.shape != output.shape:
            raise self.refuse(f"{stored.name} is {list(stored.shape)}", f"{list(output.shape)}, as its metadata says")
        lazy = replace(stored_tensor(self.path, stored), name=tensor.source, shape=tensor.shape)
        if output.view is None:
            return lazy
        places = rows_of(output, tensor.shape if len(tensor.shape) == 2 else (*tensor.shape, 1))
        if places is None:
            raise self.refuse(f"{stored.name} is no other order of the rows of {tensor.source}")
        back = np.argsort(places)
        load = lazy.load
        return replace(lazy, load=lambda: load().reshape(len(back), -1)[back].reshape(tensor.shape), rows=None)

    def files(self) -> dict[str, str]:
        """The texts beside the weights, by name."""
        sampling = {word: self.said.get(f"general.sampling.{key}") for key, word in SAMPLING.items()}
        generation = {word: value for word, value in sampling.items() if isinstance(value, int | float)}
        generation = {w: v if isinstance(v, int) else float(str(np.float32(v))) for w, v in generation.items()}
        if generation.get("temperature") == 0:
            del generation["temperature"]
            generation["do_sample"] = False
        found = {"config.json": self.config, **tokenizer_files(self.path, self.said)}
        if generation:
            found["generation_config.json"] = generation
        return {name: json.dumps(words, indent=2, ensure_ascii=False) + "\n" for name, words in found.items()}


IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
