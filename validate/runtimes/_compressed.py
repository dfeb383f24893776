"""compressed-tensors folders on transformers: what has to be done around its loader for float32 to run.

Weights of 4-bit floats come back in bfloat16, which no float32 input can be multiplied with. And transformers keeps the
experts of a layer in one tensor, for which it has no numbers in fewer bits: such a model's matrices are decoded here,
by compressed-tensors' own compressors, and the model is loaded as if it had never been quantized. The inputs of its
plain matrices are rounded as the scheme says; those of its experts are not.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from validate.errors import RuntimeFailure
from validate.runtimes._optional import optional

if TYPE_CHECKING:
    import torch
    from compressed_tensors.quantization import QuantizationConfig
    from transformers import PreTrainedConfig, PreTrainedModel

    from validate.runtimes.transformers import Loading

METHOD = "compressed-tensors"
_EXPERT = re.compile(r"\.experts\.\d+\.")
_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale")
_OF_INPUTS = ("input_scale", "input_global_scale", "input_zero_point")


def in_float32(model: PreTrainedModel) -> None:
    """Decode what transformers loaded, where it is of this kind, in float32."""
    quantizer = optional(model, "hf_quantizer")
    if quantizer is None or optional(model, "ct_decompress_hook") is None:
        return
    quantizer.compressor.decompress_model(model)
    for module in model.modules():
        if optional(module, "quantization_scheme") is not None:
            module.weight.data = module.weight.data.float()


def quantized_modules(folder: Path) -> list[str]:
    """The modules that have a scale, or GPTQ's and AWQ's words."""
    return [name.rpartition(".")[0] for name in _names(folder) if name.endswith((".weight_scale", ".qweight"))]


def tensors(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Those of a folder's tensors that are named."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys() if name in set(names)}  # noqa: SIM118
    return found


def has_experts(folder: Path) -> bool:
    """Whether a quantized module of the folder is one of an expert."""
    return any(map(_EXPERT.search, (f"{module}." for module in quantized_modules(folder))))


def decoded(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    """Every tensor of the folder, matrices as float32; and module -> what is stored beside it of its inputs."""
    from safetensors import safe_open

    parts: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    inputs: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    plain: dict[str, torch.Tensor] = {}
    config = quantization(folder)
    quantized = set(quantized_modules(folder))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                module, _, suffix = name.rpartition(".")
                if module in quantized and suffix in (*_PARTS, "weight"):
                    parts[module][suffix] = opened.get_tensor(name)
                elif module in quantized and suffix in _OF_INPUTS:
                    inputs[module][suffix] = opened.get_tensor(name)
                else:
                    plain[name] = opened.get_tensor(name)
    for module in list(parts):
        plain[f"{module}.weight"] = _decode(config, parts.pop(module))
    return plain, dict(inputs)


def quantization(folder: Path) -> QuantizationConfig:
    """config.json's quantization_config, as the library reads it."""
    import json

    from compressed_tensors.quantization import QuantizationConfig

    words = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    return QuantizationConfig.model_validate(words)


def load(config: PreTrainedConfig, state: Mapping[str, torch.Tensor]) -> tuple[PreTrainedModel, Loading]:
    """The model of tensors under a checkpoint's names, in float32, and what transformers says of their keys."""
    import torch
    import transformers

    plain = copy.deepcopy(config)
    del plain.quantization_config
    (name,) = plain.architectures
    return optional(transformers, name).from_pretrained(  # type: ignore[no-any-return]
        None, config=plain, state_dict=dict(state), dtype=torch.float32, output_loading_info=True
    )


def round_inputs(model: PreTrainedModel, folder: Path, inputs: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Have the plain matrices round what they are multiplied with, as the folder's config.json says."""
    from compressed_tensors.quantization import apply_quantization_config

    config = quantization(folder)
    for scheme in config.config_groups.values():
        scheme.weights = None
    if not any(scheme.input_activations for scheme in config.config_groups.values()):
        return
    apply_quantization_config(model, config, show_progress=False)
    modules = dict(model.named_modules())
    for name, module in modules.items():
        for suffix in _OF_INPUTS if optional(module, "quantization_scheme") is not None else ():
            place = optional(module, suffix)
            if place is not None:
                place.data.copy_(_stored(inputs, name, suffix))


def _stored(inputs: Mapping[str, Mapping[str, torch.Tensor]], name: str, suffix: str) -> torch.Tensor:
    """What is stored beside a module: where transformers calls it otherwise, what is stored beside all of them."""
    own = inputs.get(name, {}).get(suffix)
    if own is not None:
        return own
    every = {tuple(stored[suffix].flatten().tolist()): stored[suffix] for stored in inputs.values() if suffix in stored}
    if len(every) != 1:
        raise RuntimeFailure(f"{suffix} of {name} is stored under no name that transformers has")
    return next(iter(every.values()))


def _decode(config: QuantizationConfig, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    from compressed_tensors.compressors import BaseCompressor

    (scheme,) = config.config_groups.values()
    scale = parts["weight_scale"]
    wide = {} if scale.element_size() == 1 else {"weight_scale": scale.float()}
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    return compressor.decompress({**parts, **wide}, scheme)["weight"].float()


def _names(folder: Path) -> Iterator[str]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            yield from opened.keys()
