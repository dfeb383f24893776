"""Checkpoints whose config.json says that the weights are quantized: by which method, and whether they really are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from convert.errors import Problem
from convert.json_types import JsonDict, JsonObject
from convert.source.untrusted import shown

KEY = "quantization_config"
FLOATS = ("F64", "F32", "F16", "BF16")
WANTED = "weights of 16 or 32 bits"
NOT_READ = "such weights are not read here"
UNPACK = (
    "or unpack it with transformers: load it with `{loader}`, then `model.dequantize()` and `model.save_pretrained(…)`"
)
METHODS: Mapping[str, tuple[str, str]] = {  # quant_method -> its name, and what else than taking the original helps
    "bitsandbytes": ("bitsandbytes", UNPACK.format(loader="from_pretrained(…)")),
    "hqq": ("HQQ", ""),
    "torchao": ("torchao", ""),
    "eetq": ("EETQ", ""),
    "aqlm": ("AQLM", ""),
    "spqr": ("SpQR", ""),
    "vptq": ("VPTQ", ""),
    "quip": ("QuIP#", ""),
    "quip#": ("QuIP#", ""),
    "quanto": ("Quanto", ""),
    "quark": ("AMD Quark", ""),
    "higgs": ("HIGGS", UNPACK.format(loader="from_pretrained(…)")),
    "fp8": (
        "FP8",
        UNPACK.format(loader="from_pretrained(…, quantization_config=FineGrainedFP8Config(dequantize=True))"),
    ),
    "fbgemm_fp8": ("FBGEMM FP8", ""),
    "mxfp4": ("MXFP4", UNPACK.format(loader="from_pretrained(…, quantization_config=Mxfp4Config(dequantize=True))")),
    "compressed-tensors": ("compressed-tensors", ""),
    "modelopt": ("NVIDIA ModelOpt", ""),
    "gptq": ("GPTQ", ""),
    "awq": ("AWQ", ""),
    "auto-round": ("AutoRound", ""),
    "bitnet": ("BitNet", ""),
    "fp_quant": ("FP-Quant", ""),
    "sinq": ("SINQ", ""),
    "exl2": ("ExLlamaV2", ""),
    "exl3": ("ExLlamaV3", ""),
}
CARRIED = ("mxfp4",)  # blocks that a family here takes as they are
ONLINE = ("bitnet",)  # whose weights are 16 bits on disk and are quantized each time they are loaded

_COMPANIONS = re.compile(  # of a packed matrix
    r"\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|nested_\w+|quant_state\.\S+|codes|codebooks|W_q|meta|"
    r"\w*_packed|\w*_blocks|weight_scale\w*|\w+_scale_inv|weight_zero_point|weight_shape|trellis|centroids|indices)$"
)


def is_packed(types: Mapping[str, str]) -> bool:
    """Whether tensors, by name -> dtype, hold packed weights: a matrix that is no floats, or what goes with one."""
    return any(
        _COMPANIONS.search(name) or (name.endswith("weight") and dtype not in FLOATS) for name, dtype in types.items()
    )


def is_stale(config: JsonObject, types: Mapping[str, str]) -> bool:
    """Whether config.json speaks of quantized weights where the tensors, by name -> dtype, are plain floats."""
    words = config.get(KEY)
    if words is None or not types or method(words) in ONLINE:
        return False
    return not is_packed(types)


STALE = (
    "config.json says that the weights are quantized ({name}), but they are plain {types}: the weights decide, "
    "the model is converted as it is"
)


def stale_note(config: JsonObject, types: Mapping[str, str]) -> str:
    """What to say of such a config."""
    return STALE.format(name=title(config.get(KEY)), types=" and ".join(sorted(set(types.values()) & set(FLOATS))))


def without(config: JsonObject) -> JsonDict:
    """The config without its word on quantization."""
    return {key: value for key, value in config.items() if key != KEY}


def method(words: object) -> str:
    """quant_method, or what the older words of a bitsandbytes config come to; empty where it is not said."""
    if not isinstance(words, Mapping):
        return ""
    found = words.get("quant_method")
    if found is None and ("load_in_4bit" in words or "load_in_8bit" in words):
        return "bitsandbytes"
    return found.lower() if isinstance(found, str) else ""


def title(words: object) -> str:
    """The method as people call it."""
    name = method(words)
    return METHODS[name][0] if name in METHODS else f"quant_method {shown(name, 40)}" if name else "no quant_method"


def problem(words: object, where: str = "config.json", base: Iterable[str] = (), reason: str = "") -> Problem:
    """That such weights cannot be read, and how to get at the model; `base` are ids of what it was made from."""
    known = METHODS.get(method(words), ("", ""))
    made_from = ", ".join(base)
    source = (
        f"the model it was made from ({made_from})"
        if made_from
        else "the model it was made from (base_model of its card)"
    )
    remedy = f"convert {source}" + (f", {known[1]}" if known[1] else "")
    said = reason or NOT_READ
    return Problem(where, f"quantization_config says {title(words)}{_bits(words)}: {said}", WANTED, remedy)


def description(words: object) -> str:
    """The method and what config.json says of it: `FP8 in blocks of 128 x 128`, `GPTQ (4 bits, groups of 128)`."""
    if not isinstance(words, Mapping):
        return ""
    block, group, form = words.get("weight_block_size"), words.get("group_size"), words.get("format")
    if isinstance(block, list) and len(block) == 2:
        return f"{title(words)} in blocks of {shown(block[0], 10)} x {shown(block[1], 10)}"
    if isinstance(form, str):
        return f"{title(words)} ({shown(form, 40)})"
    bits = _bits(words)
    if bits and isinstance(group, int) and group > 0:
        bits = f"{bits[:-1]}, groups of {group})"
    return f"{title(words)}{bits}"


def _bits(words: object) -> str:
    if not isinstance(words, Mapping):
        return ""
    if words.get("load_in_4bit") is True:
        kind = words.get("bnb_4bit_quant_type")
        return f" (4 bits, {kind})" if kind in ("nf4", "fp4") else " (4 bits)"
    if words.get("load_in_8bit") is True:
        return " (8 bits)"
    bits = next((words[key] for key in ("bits", "w_bit", "nbits", "weight_bits") if key in words), None)
    return f" ({bits} bits)" if isinstance(bits, int) and not isinstance(bits, bool) and 0 < bits <= 32 else ""
