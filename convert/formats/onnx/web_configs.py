"""What transformers.js wants in a folder's JSON files beside what a checkpoint has there: it fills in no defaults.

    config.json               transformers.js_config; the sizes of the text model where transformers knows them itself
    tokenizer_config.json     the chat template, which it looks for in no other file of a tokenizer
    preprocessor_config.json  do_normalize, resample and the like; it reads no processor_config.json

Facts: its src/models/session.js, src/utils/dtypes.js, src/configs.js, src/image_processors_utils.js,
src/tokenization_utils.js, and the config.json of models under onnx-community.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.json_types import JsonDict, JsonObject
from convert.source.companions import read_companions
from convert.source.untrusted import read_object

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG, TOKENIZER, IMAGES, PROCESSOR = (
    *("config.json", "tokenizer_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)
KEY, EXTERNAL, CACHE = "transformers.js_config", "use_external_data_format", "kv_cache_dtype"
DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int4": "q4", "q4f16": "q4f16", "bnb4": "bnb4"}
HALF_CACHE = ("fp16", "q4f16")  # dtypes whose cache is float16
UNASKED = {"fp32", "q8"}  # what it takes where no dtype is named: on a CPU, in WASM
ORDER = ("q8", "q4", "q4f16", "fp16", "fp32", "bnb4")  # what is taken where those are not there
ON_A_GPU = ("q4f16", "q4", "fp16", "fp32")  # int8 activations are slow and, in decoders, often wrong there
NOT_THE_MODELS = (  # words of any config object of transformers
    *("_name_or_path", "chunk_size_feed_forward", "dtype", "id2label", "label2id", "output_attentions"),
    *("output_hidden_states", "return_dict", "transformers_version"),
)
SIZES = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("vocab_size", "layer_types"),
)


def texts(
    source: Bundle, config: PretrainedConfig, pieces: Mapping[str, int], precisions: Sequence[str]
) -> dict[str, str]:
    """The files that are not as the checkpoint has them, by name.

    `pieces` says of each graph's file in how many files its weights are.
    """
    paths = {
        artifact.path.name: artifact.path
        for role, artifact in source.artifacts()
        if artifact.path.suffix == ".json" and role is not Role.SENTENCES  # which has config.json files of its own
    }
    made = {
        CONFIG: _with_sizes(read_object(paths[CONFIG]), config) | {KEY: settings(pieces, precisions)},
        TOKENIZER: _with_template(paths.get(TOKENIZER), source),
        IMAGES: _with_defaults(paths),
    }
    return {name: json.dumps(said, indent=2, ensure_ascii=False) + "\n" for name, said in made.items() if said}


def settings(pieces: Mapping[str, int], precisions: Sequence[str]) -> JsonDict:
    """What transformers.js is told of the graphs."""
    dtypes = [DTYPES[precision] for precision in precisions if precision in DTYPES]
    said: JsonDict = {}
    if not set(dtypes) >= UNASKED and dtypes:
        said["dtype"] = min(dtypes, key=ORDER.index)
    if on_a_gpu := next((dtype for dtype in ON_A_GPU if dtype in dtypes), None):
        said["device_config"] = {"webgpu": {"dtype": on_a_gpu}}
    if half := {dtype: "float16" for dtype in HALF_CACHE if dtype in dtypes}:
        said[CACHE] = half
    return said | {EXTERNAL: {graph: count for graph, count in pieces.items() if count}}


def lacks_image_settings(source: Bundle) -> bool:
    """Whether the image processor's settings are only in a file that transformers.js does not read."""
    names = {artifact.path.name for artifact in source.of(Role.PREPROCESSOR)}
    return PROCESSOR in names and IMAGES not in names


def _with_sizes(said: JsonDict, config: PretrainedConfig) -> JsonDict:
    text = config.get_text_config()
    known = json.loads(text.to_json_string(use_diff=False))
    if text is config:
        return {**_sizes(known), **said}
    inner = said.get("text_config")
    if isinstance(inner, dict):
        return said | {"text_config": {**_sizes(known), **inner}}
    whole = {name: value for name, value in known.items() if value is not None and name not in NOT_THE_MODELS}
    return said | {"text_config": whole}


def _sizes(known: JsonObject) -> JsonDict:
    return {name: known[name] for name in SIZES if known.get(name) is not None}


def _with_template(path: Path | None, source: Bundle) -> JsonDict:
    """The tokenizer's config with the chat template, where that lies in a file beside it."""
    said = {} if path is None else read_object(path)
    templates = read_companions(source).chat_templates
    if not said or said.get("chat_template") or not templates:
        return {}
    if set(templates) == {"default"}:
        return said | {"chat_template": templates["default"]}
    return said | {"chat_template": [{"name": name, "template": text} for name, text in templates.items()]}


def _with_defaults(paths: Mapping[str, Path]) -> JsonDict:
    """The image processor's settings, those that transformers has in its class among them."""
    whole = read_object(paths[PROCESSOR]) if PROCESSOR in paths else {}
    inner = whole.get("image_processor")
    said = read_object(paths[IMAGES]) if IMAGES in paths else inner if isinstance(inner, dict) else {}
    if "image_processor_type" not in said:
        return {}
    home = (paths.get(IMAGES) or paths[PROCESSOR]).parent
    named = {"processor_class": whole["processor_class"]} if "processor_class" in whole else {}
    return {**_defaults(home), **named, **said}


def _defaults(home: Path) -> JsonDict:
    """What transformers' image processor says of itself; nothing where it does not load, which validation tells."""
    from transformers import AutoImageProcessor

    from convert.formats.onnx.hollow import quiet

    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(
                home, backend="pil", local_files_only=True, trust_remote_code=False
            )
        known: JsonDict = json.loads(processor.to_json_string())
    except Exception:  # a stranger's folder: transformers raises anything from OSError to KeyError
        return {}
    return {name: value for name, value in known.items() if value is not None}
