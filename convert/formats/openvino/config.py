"""openvino_config.json: what optimum-intel reads of how the weights are stored."""

from __future__ import annotations

import json

from convert.formats.openvino.scheme import Scheme
from convert.json_types import JsonDict

NAME = "openvino_config.json"


def text(scheme: Scheme) -> str:
    """The file of a folder in `scheme`."""
    words: JsonDict = {"dtype": scheme.precision, "input_info": None, "save_onnx_model": False}
    if scheme.precision in ("int8", "int4"):
        words["quantization_config"] = _quantization(scheme)
    return json.dumps(words, indent=2, sort_keys=True) + "\n"


def _quantization(scheme: Scheme) -> JsonDict:
    four = scheme.precision == "int4"
    return {
        "bits": 4 if four else 8,
        "sym": scheme.symmetric or not four,
        "group_size": scheme.group_size if four else -1,
        "dtype": scheme.precision,
        "quant_method": "default",
        "weight_format": scheme.precision,
    }
