from __future__ import annotations

from tests.parity.build import Tensors
from tests.parity.checkpoints.maple import NO_LOGITS, NUMBERS, as_qwen
from tests.parity.families import Case

CONFIG = {
    **NUMBERS,
    "architectures": ["GroveMoeForCausalLM"],
    "model_type": "grove_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "parallel_expert_num": 2,
}


def grove(tensors: Tensors) -> Tensors:
    """Every other expert's first rows once more, as the small expert beside two; and a bias that nobody uses."""
    import torch

    made = dict(tensors)
    for name, values in tensors.items():
        start, _, rest = name.partition(".mlp.experts.")
        number, _, which = rest.partition(".")
        if rest and int(number) % 2:
            small = values[:, :24] if which.startswith("down") else values[:24]
            made[f"{start}.mlp.chunk_experts.{int(number) // 2}.{which}"] = small.clone()
        if name.endswith(".mlp.gate.weight"):
            made[name.replace("gate.weight", "gate.expert_bias")] = torch.ones(len(values))
    return made


BY_MODULE = {**CONFIG, "architectures": ["modeling_grove_moe.GroveMoeForCausalLM"]}
CASES = {
    "": Case(as_qwen(CONFIG, grove), no_logits=NO_LOGITS),
    "its class by module": Case(as_qwen(BY_MODULE, grove), no_logits=NO_LOGITS),
}
