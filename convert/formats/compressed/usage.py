"""How quantized checkpoints are run, for their card."""

from __future__ import annotations

from convert.formats.base import Usage

LOAD = """\
from transformers import {loader}, AutoTokenizer

folder = "."  # or the repository's id
model = {loader}.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer("Hello", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=32)[0]))
"""

USAGE = (
    Usage("vLLM, from the hub", "vllm serve {repository}", hub=True),
    Usage("vLLM, from a folder", "vllm serve ."),
    Usage("SGLang", "python -m sglang.launch_server --model-path ."),
    Usage("transformers", LOAD, "python"),
)
