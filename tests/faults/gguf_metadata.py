"""Damage to what GGUF files say: hyper-parameters, vocabulary, templates, tensors that are not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.faults.gguf_tensors import damaged, projector
from tests.faults.kinds import SETTINGS, SUITE, Damaged, Honest
from tests.fixtures_validate import rewritten

PREFIX = "qwen2vl."


def field(name: str, key: str, value: Any, **words: Any) -> None:
    """A field with another value; None drops it. The place is its key, unless `words` say another."""
    place = words.pop("place", key)
    SUITE.add(name, lambda h, out: damaged(h, out, "f16", {}, **{key: value}), place, **words)


def of_projector(name: str, place: str, by: str = "", **fields: Any) -> None:
    """Fields of the projector, below clip.vision, with other values."""
    full = {f"clip.vision.{key.replace('__', '.')}": value for key, value in fields.items()}
    SUITE.add(name, lambda h, out: projector(h, out, {}, **full), place, by=by)


def changed(name: str, key: str, change: Any, *, place: str = "", by: str = "", fast: bool = False) -> None:
    """A field made of the honest one."""

    def make(h: Honest, out: Path) -> Damaged:
        from gguf import GGUFReader

        return damaged(h, out, "f16", {}, **{key: change(GGUFReader(h.outputs["f16"]).fields[key].contents())})

    SUITE.add(name, make, place or key, by=by, fast=fast)


def swapped(values: list[Any], one: int, two: int) -> list[Any]:
    values[one], values[two] = values[two], values[one]
    return values


def without(name: str) -> Any:
    def make(h: Honest, out: Path) -> Damaged:
        import gguf

        original = gguf.GGUFReader(h.outputs["f16"])
        original.tensors = [t for t in original.tensors if t.name != name]
        reader, gguf.GGUFReader = gguf.GGUFReader, lambda path: original  # type: ignore[misc]
        try:
            return Damaged(rewritten(h.outputs["f16"], out / "damaged.gguf", {}), h.projector)
        finally:
            gguf.GGUFReader = reader  # type: ignore[misc]

    return make


def truncated(h: Honest, out: Path) -> Damaged:
    file = out / "damaged.gguf"
    shutil.copyfile(h.outputs["f16"], file)
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    return Damaged(file, h.projector)


MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
OTHER_TEMPLATE = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
TEMPLATE, TOKENIZER = "tokenizer.chat_template", "tokenizer.ggml."

field("RMS epsilon wrong", f"{PREFIX}attention.layer_norm_rms_epsilon", 1e-2)
field("head count wrong", f"{PREFIX}attention.head_count", 8)
field("key-value heads wrong", f"{PREFIX}attention.head_count_kv", 1)
field("a layer left out", f"{PREFIX}block_count", 3)
field("feed-forward length wrong", f"{PREFIX}feed_forward_length", 512)
field("rope theta wrong", f"{PREFIX}rope.freq_base", 10000.0, place="rope_theta", by=SETTINGS)
field("rope sections wrong", f"{PREFIX}rope.dimension_sections", [12, 12, 8, 0])
field("context length wrong", f"{PREFIX}context_length", 64, place="max_position_embeddings", by=SETTINGS)
field("wrong end of text", f"{TOKENIZER}eos_token_id", 5, place="EOS")
field("wrong BOS flag", f"{TOKENIZER}add_bos_token", True, place="BOS")
field("pre-tokenizer of another family", f"{TOKENIZER}pre", "gpt-2", place="token ids")
field("template lost", TEMPLATE, None, place="template")
field("template of another model", TEMPLATE, OTHER_TEMPLATE, place="template", fast=True)
changed("template truncated", TEMPLATE, lambda t: t[: len(t) // 2], place="template")
changed("tool part of the template lost", TEMPLATE, lambda t: t.replace("tools", "tolls"), place="template")
changed("two tokens exchanged", f"{TOKENIZER}tokens", lambda t: swapped(t, 300, 301), place="token 300", fast=True)
changed("merges in another order", f"{TOKENIZER}merges", lambda m: m[::-1], place="token ids")
changed("special tokens made plain", f"{TOKENIZER}token_type", lambda t: [1] * len(t), place="token ids")
field("temperature lost", "general.sampling.temp", None, place="temperature", by=SETTINGS)
SUITE.add("bias dropped", without("blk.1.attn_q.bias"), "blk.1.attn_q.bias")
SUITE.add("head dropped", without("output.weight"), "output.weight")
SUITE.add("truncated file", truncated, "cut short", fast=True)
of_projector("image mean and std exchanged", "image_mean is", SETTINGS, image_mean=STD, image_std=MEAN)
of_projector("pixel limits lost", "pixel limits is not in the file", image_min_pixels=None, image_max_pixels=None)
of_projector("pixel limits wrong", "min_pixels is 1", SETTINGS, image_min_pixels=1, image_max_pixels=3136)
of_projector("tower's head count wrong", "clip.vision.attention.head_count", attention__head_count=8)
of_projector("merge size wrong", "merge_size", spatial_merge_size=4)
of_projector("window pattern wrong", "clip.vision.n_wa_pattern", n_wa_pattern=4)
of_projector("tower's epsilon wrong", "clip.vision.attention.layer_norm_epsilon", attention__layer_norm_epsilon=0.1)
