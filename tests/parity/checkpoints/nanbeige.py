from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import edit_config, edit_weights
from tests.parity.build import SIZES, Tensors, as_llama, published
from tests.parity.families import Case

LAYERS, LOOPS = 2, 2


def equal(folder: Path) -> Path:
    """A Llama whose layers are there as often as Nanbeige goes through them."""

    def repeat(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".layers." in name]:
            *start, number, rest = name.split(".", 3)
            for loop in range(1, LOOPS):
                tensors[".".join([*start, str(int(number) + loop * LAYERS), rest])] = tensors[name].clone()

    edit_weights(as_llama(folder), repeat)
    edit_config(folder, num_hidden_layers=LAYERS * LOOPS)
    return folder


def with_norms(model: Any) -> None:
    """The last norm, at the end of each loop but the last one."""
    for layer in model.model.layers[LAYERS - 1 : -1 : LAYERS]:
        layer.register_forward_hook(lambda module, arguments, output: model.model.norm(output))


def nanbeige(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["NanbeigeForCausalLM"],
        "model_type": "nanbeige",
        "hidden_act": "silu",
        "num_loops": LOOPS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "skip_loop_final_norm": False,
        "tie_word_embeddings": False,
    }
    return published(as_llama(folder), config | words)


CASES = {
    "": Case(nanbeige, equal=equal, as_source=with_norms),
    "no norms between": Case(lambda folder: nanbeige(folder, skip_loop_final_norm=True), equal=equal),
}
