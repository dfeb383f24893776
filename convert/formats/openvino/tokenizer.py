"""The tokenizer and the detokenizer as OpenVINO models, with the special tokens and the template that GenAI reads."""

from __future__ import annotations

from pathlib import Path

from convert.errors import StageError
from convert.source.companions import Companions

TOKENIZER, DETOKENIZER = "openvino_tokenizer", "openvino_detokenizer"
WORDS = 300  # characters of an error worth quoting


def write(folder: Path, companions: Companions, out: Path) -> list[Path]:
    """Both models of the tokenizer in `folder`, in `out`. Raises StageError for one that there are no rules for."""
    from validate.runtimes._telemetry import refuse_telemetry

    refuse_telemetry()
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        models = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # it raises what it likes for a tokenizer that it has no rules for
        words = " ".join(str(error).split())[:WORDS]
        got = f"openvino-tokenizers cannot convert the tokenizer ({type(error).__name__}: {words})"
        raise StageError(
            "openvino", got, "a tokenizer it knows", "set tokenizer: false, and use transformers'"
        ) from error
    template = companions.chat_templates.get("default")
    if template is not None and not models[0].has_rt_info("chat_template"):
        models[0].set_rt_info(template, "chat_template")
    made = []
    for name, model in zip((TOKENIZER, DETOKENIZER), models, strict=True):
        ov.save_model(model, out / f"{name}.xml", compress_to_fp16=False)
        made += [out / f"{name}.xml", out / f"{name}.bin"]
    return made
