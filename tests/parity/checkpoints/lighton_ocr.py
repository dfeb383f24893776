from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, TINY_SHARP, build, same
from tests.parity.checkpoints.llava import PIXTRAL, PIXTRAL_PROCESSOR
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, VISION_SHARP, with_processor

TEXT = {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "sliding_window": None,
    "vocab_size": QWEN.vocab,
}
SCALES = {"linear_1.weight": 4, "merging_layer.weight": 4, **VISION_SHARP, **TINY_SHARP}


def lighton_ocr(folder: Path, name: str = "LightOnOCR", edge: int = 280, **words: Any) -> Path:
    config = {
        "architectures": ["LightOnOcrForConditionalGeneration"],
        "image_token_id": QWEN_MARKS["image_token_id"],
        "model_type": "lighton_ocr",
        "spatial_merge_size": 2,
        "text_config": TEXT,
        "tie_word_embeddings": False,
        "vision_config": PIXTRAL,
        **words,
    }
    build(folder, QWEN, config, hub=same, scales=SCALES)
    path = folder / "config.json"
    path.write_text(path.read_text().replace("LightOnOcrFor", f"{name}For"))  # as its publishers spell it
    return with_processor(folder, {**PIXTRAL_PROCESSOR, "patch_size": 28, "size": {"longest_edge": edge}})


OTHER_EDGE = {"clip.vision.preproc_image_size": "the processor's longest edge is not the tower's"}
NO_CLASS = "upstream's converter knows the class by its publishers' spelling only, not by transformers'"
CASES = {
    "": Case(lighton_ocr, image=(112, 280)),
    "another edge": Case(lambda folder: lighton_ocr(folder, edge=140), image=(112, 140), allowed=OTHER_EDGE),
    "transformers' name": Case(lambda folder: lighton_ocr(folder, "LightOnOcr"), no_parity=NO_CLASS),
}
