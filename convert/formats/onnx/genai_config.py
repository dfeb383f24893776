"""genai_config.json, and the processor of images, in the words of onnxruntime-genai.

Source: onnxruntime-genai, src/config.cpp (what is read), src/models/model_type.h (types),
src/models/position_inputs.cpp (positions of images), test/models/qwen2-5-vl (a whole folder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.errors import InputError, StageError
from convert.formats.onnx.genai_search import search_settings
from convert.json_types import JsonDict
from convert.progress import Progress
from convert.source.companions import Companions

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG = "genai_config.json"
FEATURES = "image_features"
IMAGE_TYPE = "qwen2_5_vl"
TYPES = (
    *("chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "gpt2", "gptoss", "granite", "internlm2", "llama"),
    *("mistral", "nemotron", "olmo", "phi", "phi3", "phimoe", "qwen2", "qwen3", "smollm3"),
)
OTHER = "decoder"  # what a text model of any other type is called
SEARCH: Mapping[str, bool | int | float] = {  # the runtime's own, where generation_config.json says nothing
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": True,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "past_present_share_buffer": True,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}


@dataclass(frozen=True)
class Facts:
    """Numbers of a text model."""

    type: str
    context: int
    hidden: int
    heads: int
    shared_heads: int
    head_size: int
    windows: tuple[int, ...]  # of each layer: tokens it sees, 0 for all
    chunked: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig) -> Facts:
        """Those of transformers' config object. Raises InputError where a number is missing."""
        text = config.get_text_config().to_dict()
        try:
            heads, hidden, layers = (
                int(text[name]) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
            )
            context = int(text["max_position_embeddings"])
        except (KeyError, TypeError) as error:
            raise InputError("config.json", f"does not say {error}", "the sizes of the model") from None
        kinds = text.get("layer_types") or []
        window = int(text.get("sliding_window") or 0)
        if not kinds:
            kinds = ["sliding_attention" if window else "full_attention"] * layers
        return cls(
            config.model_type,
            context,
            hidden,
            heads,
            int(text.get("num_key_value_heads") or heads),
            int(text.get("head_dim") or hidden // heads),
            tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
            "chunked_attention" in kinds,
        )


def document(companions: Companions, facts: Facts, inputs: Sequence[str], sees: bool, progress: Progress) -> JsonDict:
    """genai_config.json of a decoder with these inputs, and of the embedding and vision graphs where it sees."""
    vocab = companions.text_config.get("vocab_size")
    if not isinstance(vocab, int):
        raise StageError("onnx", f"config.json has vocab_size {vocab}", "a number")
    ends = list(companions.end_ids)
    model: JsonDict = {
        "bos_token_id": _id(companions, "bos"),
        "context_length": facts.context,
        "decoder": _decoder(facts, inputs),
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": _id(companions, "pad"),
        "type": IMAGE_TYPE if sees else facts.type if facts.type in TYPES else OTHER,
        "vocab_size": vocab,
    }
    if model["pad_token_id"] is None and ends:
        model["pad_token_id"] = ends[0]
    if sees:
        model |= _images(companions)
        model["pad_token_id"] = _pad(companions, vocab, model["pad_token_id"], progress)
    model = {name: value for name, value in model.items() if value is not None and value != []}
    search = {**SEARCH, "max_length": facts.context, **search_settings(companions.generation, facts.context)}
    return {"model": model, "search": dict(sorted(search.items()))}


def _id(companions: Companions, name: str) -> int | None:
    """A special token: by generation_config.json, else config.json, else the tokenizer."""
    for said in (companions.generation, companions.text_config):
        value = said.get(f"{name}_token_id")
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return companions.special_ids.get(name)


def _decoder(facts: Facts, inputs: Sequence[str]) -> JsonDict:
    plain = {name: name for name in inputs if not name.startswith("past_key_values.")}
    past = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    present = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    return {
        "session_options": _session(),
        "filename": "model.onnx",
        "head_size": facts.head_size,
        "hidden_size": facts.hidden,
        "inputs": {**plain, **past},
        "outputs": {"logits": "logits", **present},
        "num_attention_heads": facts.heads,
        "num_hidden_layers": len(facts.windows),
        "num_key_value_heads": facts.shared_heads,
    }


def _session() -> JsonDict:
    return {"log_id": "onnxruntime-genai", "provider_options": []}


def _images(companions: Companions) -> JsonDict:
    """The embedding and vision graphs, and the tokens that tell images in a prompt."""
    config, vision = companions.config, companions.config.get("vision_config")
    if not isinstance(vision, dict):
        raise StageError("onnx", "config.json has no vision_config", "the sizes of the vision tower")
    names = ("image_token_id", "video_token_id", "vision_start_token_id")
    tokens = {name: config.get(name, companions.text_config.get(name)) for name in names}
    return {
        **{name: value for name, value in tokens.items() if isinstance(value, int)},
        "embedding": {
            "filename": "embedding.onnx",
            "inputs": {"input_ids": "input_ids", FEATURES: FEATURES},
            "outputs": {"inputs_embeds": "inputs_embeds"},
            "session_options": _session(),
        },
        "vision": {
            "filename": "vision.onnx",
            "config_filename": "genai_processor.json",
            "spatial_merge_size": vision.get("spatial_merge_size", 2),
            "tokens_per_second": float(vision.get("tokens_per_second", 2)),
            "patch_size": vision.get("patch_size", 14),
            "window_size": vision.get("window_size", 112),
            "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
            "outputs": {FEATURES: FEATURES},
            "session_options": _session(),
        },
    }


def _pad(companions: Companions, vocab: int, own: int | None, progress: Progress) -> int | None:
    """What to pad a model that sees with: of those onnxruntime-genai masks every pad token of a prompt.

    The model's own is often its end of text, which texts hold: logits after it would be another model's.
    """
    pad = harmless_pad(companions, vocab)
    if pad is None:
        progress.warn(f"{CONFIG}: onnxruntime-genai will not read token {own} where it stands in a prompt: it pads")
        return own
    if pad != own:
        why = "it is masked wherever it stands, so it must be in no text"
        progress.note(f"{CONFIG}: pad_token_id {pad} instead of {own}: {why}")
    return pad


def harmless_pad(companions: Companions, vocab: int) -> int | None:
    """A token id that no text has: the last without a token, else the unknown token's; None where there is neither."""
    used = set(companions.token_ids.values())
    if used:
        for number in range(vocab - 1, -1, -1):
            if number not in used:
                return number
    unknown = companions.special_ids.get("unk")
    return None if unknown in companions.end_ids else unknown


def processor(companions: Companions) -> JsonDict:
    """What decodes, resizes, normalizes and cuts an image, by the numbers of preprocessor_config.json."""
    said = companions.preprocessor
    sizes = {"patch_size": said.get("patch_size", 14), "merge_size": said.get("merge_size", 2)}
    edges = said.get("size")
    edges = edges if isinstance(edges, dict) else {}
    limits = {
        "min_pixels": said.get("min_pixels", edges.get("shortest_edge", 3136)),
        "max_pixels": said.get("max_pixels", edges.get("longest_edge", 12845056)),
    }
    colours = {
        "mean": said.get("image_mean", [0.48145466, 0.4578275, 0.40821073]),
        "std": said.get("image_std", [0.26862954, 0.26130258, 0.27577711]),
    }
    steps: list[tuple[str, str, JsonDict]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        ("resize", "Resize", {"width": 540, "height": 360, "smart_resize": 1, **limits, **sizes}),
        ("rescale", "Rescale", {"rescale_factor": said.get("rescale_factor", 1 / 255)}),
        ("normalize", "Normalize", {**colours, "qwen2_5_vl": 1}),
        ("patch_image", "PatchImage", {**sizes, "temporal_patch_size": said.get("temporal_patch_size", 2)}),
    ]
    operations = [
        {"operation": {"name": name, "type": kind, **({"attrs": words} if words else {})}}
        for name, kind, words in steps
    ]
    return {"processor": {"name": "qwen2_5_image_processor", "transforms": operations}}
