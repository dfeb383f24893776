"""What an MLX folder will hold, from headers alone: its tensors, which of them are quantized and how, its files.

What is quantized is what mlx-lm quantizes: matrices of modules that can be (linear layers, embeddings, the experts of
a layer as one) whose columns fill whole groups. Its own predicate gives some of them 8 bits in groups of 64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

from convert import architectures
from convert.errors import InputError
from convert.formats.mlx.models import MODELS
from convert.formats.mlx.rules import Model, Piece, Placed, placed
from convert.json_types import JsonDict, JsonObject
from convert.source.checkpoint import SAFETENSORS, Checkpoint, shapes_of
from convert.source.safetensors import BITS
from convert.source.untrusted import shown
from quantize.mlx_layout import AFFINE, TYPES, Layout

SHARD_BYTES = 5 << 30  # mlx_lm.utils.MAX_FILE_SIZE_GB
EIGHT = Layout(AFFINE, 8, 64)
WORDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
MIXES: Mapping[str, tuple[int, int]] = {
    **{"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)},
    **{"mixed_3_5": (3, 5), "mixed_3_8": (3, 8), "mixed_4_8": (4, 8)},
}
"""Recipes of mlx-lm, and the last three of mlx-vlm: the bits of most matrices, and of those that matter more."""
MORE_BITS = ("v_proj", "v_a_proj", "v_b_proj", "down_proj")  # in every third layer, and in the first and last eighth
ITS_OWN = "one that mlx-lm has a file for, declared in convert/formats/mlx/models.py"


@dataclass(frozen=True)
class Scheme:
    """What is asked for. `overrides`: a pattern of module names -> the layout, None for as it is; the first counts."""

    layout: Layout = field(default_factory=Layout)
    mixed: str = ""
    overrides: tuple[tuple[str, Layout | None], ...] = ()
    dtype: str = ""  # of what is not quantized, and of scales; empty: as mlx_lm.convert has it
    fitted: str = ""  # the size that layouts are chosen for, as names say it
    chosen: Mapping[str, Layout | None] = field(default_factory=dict, hash=False)  # module -> layout, once they are

    @property
    def type(self) -> str:
        """As in artifact kinds and names of folders: 4bit, 4bit-g32, mxfp4, mixed_3_6, 4.5bit, 4.2GB."""
        if self.fitted:
            return self.fitted
        group = "" if self.layout.group_size == Layout().group_size else f"-g{self.layout.group_size}"
        if self.mixed:
            return f"{self.mixed}{group}"
        return self.layout.mode if self.layout.mode != AFFINE else f"{self.layout.bits}bit{group}"


@dataclass(frozen=True)
class ModelTensor:
    """A tensor of the model: `layout` where it is quantized. `dtype` is that of its floats, of scales and biases."""

    placed: Placed
    dtype: str
    layout: Layout | None

    @property
    def name(self) -> str:
        return self.placed.name

    @property
    def module(self) -> str:
        """The name of what holds it."""
        return self.name.rpartition(".")[0]

    @property
    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The file's tensors of it: name -> dtype and shape."""
        if self.layout is None:
            return {self.name: (self.dtype, self.placed.shape)}
        shape = self.placed.shape
        return {f"{self.module}.{part}": self.layout.spec(part, shape, self.dtype) for part in self.layout.parts}

    @property
    def nbytes(self) -> int:
        return sum(prod(shape) * BITS[dtype] // 8 for dtype, shape in self.stored.values())


def model_of(config: JsonObject) -> Model:
    """The model that mlx-lm makes of a config. Raises InputError for one that is not declared."""
    said = config.get("model_type")
    model = MODELS.get(said) if isinstance(said, str) else None
    if model is None:
        got = f"there is no MLX model of the type {shown(said, 60)} here"
        raise InputError("mlx", got, ITS_OWN, "the gguf stage knows many more")
    for word, why in model.refuses.items():
        if config.get(word):
            raise InputError("mlx", f"config.json says {word}: {why}", "a model without", "leave it to another format")
    return model


@dataclass(frozen=True)
class Folder:
    """All that will be written."""

    checkpoint: Checkpoint
    scheme: Scheme

    def with_layouts(self, chosen: Mapping[str, Layout | None]) -> Folder:
        """The same with these modules' layouts."""
        return Folder(self.checkpoint, replace(self.scheme, chosen=chosen))

    @cached_property
    def model(self) -> Model:
        return model_of(self.checkpoint.config)

    @property
    def sees(self) -> bool:
        """Whether the folder has a vision tower."""
        return self.model.library == "mlx-vlm"

    @cached_property
    def text(self) -> JsonObject:
        """The text model's config."""
        inner = self.checkpoint.config.get("text_config")
        return {**self.checkpoint.config, **inner} if isinstance(inner, dict) else self.checkpoint.config

    @cached_property
    def tensors(self) -> tuple[ModelTensor, ...]:
        """Every tensor, in the checkpoint's order."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[ModelTensor]:
        for one in self._placed():
            dtype = self._dtype(one)
            yield ModelTensor(one, dtype, self._layout(one, dtype))

    def _placed(self) -> Iterator[Placed]:
        found = placed(self.model, shapes_of(self.checkpoint.tensors), self.text)
        yield from (one for one in found if not (self.tied and one.name == self.model.head))
        if self.model.copies_head and not any(one.name == self.model.head for one in found):
            (table,) = (one for one in found if one.name.endswith("embed_tokens.weight"))
            yield Placed(self.model.head, table.shape, table.pieces)

    @cached_property
    def tied(self) -> bool:
        """Whether the embedding is the head: as the config says, else whether the checkpoint has no head."""
        if self.model.copies_head:
            return False
        said = self.text.get("tie_word_embeddings")
        has_head = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in self.checkpoint.tensors)
        return said if isinstance(said, bool) else not has_head

    def _dtype(self, one: Placed) -> str:
        stored = {self.checkpoint.tensors[piece.source].dtype for piece in one.pieces}
        own = stored.pop() if len(stored) == 1 else "F32"
        asked = self.scheme.dtype or self._said
        kept = any(word in one.name for word in self.model.uncast)
        return asked if asked and own in TYPES and not kept else own

    @cached_property
    def _said(self) -> str:
        """The type that mlx_lm.convert casts to: `torch_dtype`, or `dtype` of the text model; else none."""
        inner = self.checkpoint.config.get("text_config")
        said = self.checkpoint.config.get("torch_dtype") or (inner.get("dtype") if isinstance(inner, dict) else None)
        return WORDS.get(said, "") if isinstance(said, str) else ""

    # ---- what is quantized

    def _layout(self, one: Placed, dtype: str) -> Layout | None:
        module, _, word = one.name.rpartition(".")
        default = self.scheme.layout
        if word != "weight" or len(one.shape) < 2 or dtype not in TYPES or one.shape[-1] % default.group_size:
            return None
        if _ends(module, self.model.raw) or any(tower in module for tower in self.model.towers):
            return None
        found = self._chosen(module)
        return found if found is not None and one.shape[-1] % found.group_size == 0 else None

    def _chosen(self, module: str) -> Layout | None:
        for pattern, layout in self.scheme.overrides:
            if re.search(pattern, module):
                return layout
        if module in self.scheme.chosen:
            return self.scheme.chosen[module]
        if self.scheme.mixed:
            return self._mixed(module)
        if _ends(module, self.model.whole):
            return None
        return EIGHT if _ends(module, self.model.eight) else self.scheme.layout

    def ruled(self, module: str) -> bool:
        """Whether `overrides` say what becomes of a module."""
        return any(re.search(pattern, module) for pattern, _ in self.scheme.overrides)

    def _mixed(self, module: str) -> Layout:
        few, many = MIXES[self.scheme.mixed]
        heads = ("lm_head", "embed_tokens") if self.model.library == "mlx-vlm" else ("lm_head",)
        more = (self._matters(module) and any(word in module for word in MORE_BITS)) or any(
            word in module for word in heads
        )
        return Layout(AFFINE, many if more else few, self.scheme.layout.group_size)

    def _matters(self, module: str) -> bool:
        """Whether the layer is one of those that get more bits: what is in none counts as in the first."""
        layers, parts = self.layers, module.split(".")
        place = self._place_of_numbers
        number = int(parts[place]) if len(parts) > place and parts[place].isdigit() else 0
        return number < layers // 8 or number >= 7 * layers // 8 or (number - layers // 8) % 3 == 2

    @cached_property
    def layers(self) -> int:
        """How many the text model has."""
        found = next((self.text[w] for w in ("num_hidden_layers", "n_layer", "n_layers") if w in self.text), None)
        if not isinstance(found, int):
            raise InputError("config.json", "has no num_hidden_layers", "a number", "download it again")
        return found

    @cached_property
    def _place_of_numbers(self) -> int:
        """Where in a module's name its layer's number stands: in that of the first down_proj."""
        names = (one.name for one in placed(self.model, shapes_of(self.checkpoint.tensors), self.text))
        found = next((name.split(".") for name in names if "down_proj" in name), None)
        place = next((i for i, part in enumerate(found or []) if part.isdigit()), None)
        if place is None:
            got = f"{self.scheme.mixed} goes by matrices called down_proj, and there is none"
            raise InputError("mlx", got, "", "name bits in `overrides:`")
        return place

    # ---- what is written

    @cached_property
    def shards(self) -> dict[str, list[ModelTensor]]:
        """File name -> its tensors, a matrix with its scales."""
        shards: list[list[ModelTensor]] = [[]]
        size = 0
        for tensor in self.tensors:
            if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(tensor)
            size += tensor.nbytes
        return dict(zip(SAFETENSORS.names(len(shards)), shards, strict=True))

    @property
    def index(self) -> JsonDict:
        """model.safetensors.index.json, which mlx-lm writes of a single file too."""
        weight_map = {name: file for file, parts in self.shards.items() for part in parts for name in part.stored}
        size = sum(tensor.nbytes for tensor in self.tensors)
        parameters = sum(prod(tensor.placed.shape) for tensor in self.tensors)
        metadata = {"total_size": size, "total_parameters": parameters}
        return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}

    @property
    def quantization(self) -> JsonDict:
        """config.json's `quantization`: the layout, and by module those of another one."""
        others: JsonDict = {
            tensor.module: words_of(tensor.layout)
            for tensor in self.tensors
            if tensor.layout is not None and (self.scheme.mixed or tensor.layout != self.scheme.layout)
        }
        return {**words_of(self.scheme.layout), **others}

    def config(self, ends: object) -> JsonDict:
        """config.json, sorted as mlx-lm writes it; `ends` is what generation_config.json says of eos_token_id."""
        made: JsonDict = dict(self.checkpoint.config)
        made.pop("_name_or_path", None)
        if not self.sees:  # mlx-lm leaves the tower out
            made.pop("vision_config", None)
        if ends:
            made["eos_token_id"] = ends
        inner = made.get("text_config")
        words = older_words(self.text, self.model.words)
        if self.text.get("tie_word_embeddings") is not self.tied:  # mlx-lm's own defaults are not transformers'
            words["tie_word_embeddings"] = self.tied
        if isinstance(inner, dict):
            made["text_config"] = {**inner, **words}
        else:
            made |= words
        made["quantization"] = made["quantization_config"] = self.quantization
        return dict(sorted(made.items()))

    def check(self) -> None:
        """Raise ConvertError for a model that is not declared, and for what cannot be quantized so."""
        family = architectures.find(self.checkpoint.config)
        if (gives := family.given_by(self.checkpoint.config)) != architectures.TEXT:
            got = f"{family.title} gives {gives}, and mlx-lm runs models that write text"
            raise InputError("mlx", got, "a decoder of text", "the gguf stage knows this family")
        for pattern, _ in self.scheme.overrides:
            if not any(re.search(pattern, tensor.module) for tensor in self.tensors):
                shown = ", ".join(tensor.module for tensor in self.tensors[:3])
                raise InputError(f"overrides: {pattern}", "matches no module", f"one such as {shown}")
        if not any(tensor.layout for tensor in self.tensors):
            size = self.scheme.layout.group_size
            raise InputError("mlx", f"no matrix has columns in groups of {size}", "", "a smaller group_size")

    def pieces(self) -> Iterator[tuple[ModelTensor, Piece]]:
        """Every piece of what is quantized."""
        for tensor in self.tensors:
            if tensor.layout is not None:
                yield from ((tensor, piece) for piece in tensor.placed.pieces)


def older_words(config: JsonObject, wanted: Mapping[str, object]) -> JsonDict:
    """What a config of transformers 5 says in `rope_parameters`, in the words that mlx-lm reads.

    Of many models it knows the older words alone, and takes its own base of rotary positions where they are missing:
    the folder loads, and writes nonsense. `wanted` are words that a model asks for beside.
    """
    found: JsonDict = {word: value for word, value in wanted.items() if word not in config}
    said = config.get("rope_parameters")
    if not isinstance(said, dict):
        return found
    full, window = said.get("full_attention", said), said.get("sliding_attention")
    if isinstance(window, dict) and "rope_theta" in window:
        found["rope_local_base_freq"] = window["rope_theta"]
    if isinstance(full, dict):
        if "rope_theta" in full:
            found["rope_theta"] = full["rope_theta"]
        if full.get("rope_type", "default") != "default":
            found["rope_scaling"] = {word: value for word, value in full.items() if word != "rope_theta"}
    return {word: value for word, value in found.items() if config.get(word) is None}


def words_of(layout: Layout) -> JsonDict:
    """As config.json says it."""
    return {"group_size": layout.group_size, "bits": layout.bits, "mode": layout.mode}


def _ends(module: str, ends: tuple[str, ...]) -> bool:
    return module.endswith(ends)
