from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, build
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

MARKS = {  # what mtmd looks for in the vocabulary, in the place of Qwen's
    "<|object_ref_start|>": "<fake_token_around_image>",
    "<|object_ref_end|>": "<global-img>",
    "<|box_start|>": "\n\n",
}


def _marked(text: str) -> str:
    for old, new in MARKS.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return text


WORDS = replace(
    QWEN,
    tokenizer=lambda: _marked(QWEN.tokenizer()),
    tokenizer_config=json.loads(_marked(json.dumps(QWEN.tokenizer_config))),
)
PROCESSOR = {
    **SIGLIP_PIXELS,
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_pad": True,
    "image_processor_type": "Idefics3ImageProcessor",
    "max_image_size": {"longest_edge": 64},
    "processor_class": "Idefics3Processor",
    "resample": 1,
    "size": {"longest_edge": 128},
}
TEXT = {
    "architectures": ["VLlama3ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "vocab_size": WORDS.vocab,
}
VISION = {
    "hidden_size": 48,
    "image_size": 64,
    "intermediate_size": 100,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
}


def idefics3(folder: Path, kind: str = "idefics3", name: str = "Idefics3", **words: Any) -> Path:
    config = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "image_token_id": 492,
        "model_type": kind,
        "scale_factor": 4,
        "text_config": TEXT,
        "tie_word_embeddings": False,
        "vision_config": {**VISION, "model_type": f"{kind}_vision" if name == "SmolVLM" else kind},
        **words,
    }
    build(folder, WORDS, config, scales={"modality_projection.proj.weight": 4, **VISION_SHARP, **SHARP})
    return with_processor(folder, {**PROCESSOR, "image_processor_type": f"{name}ImageProcessor"})


def smolvlm(folder: Path) -> Path:
    return idefics3(folder, "smolvlm", "SmolVLM", scale_factor=2)


CASES = {"": Case(idefics3, image=(64, 128)), "SmolVLM": Case(smolvlm, image=(64, 128))}
