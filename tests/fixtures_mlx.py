"""What the MLX tests share: folders of tiny checkpoints, and what mlx-lm itself makes of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.bundle import Bundle, Role
from convert.formats.mlx.stage import STAGE
from convert.progress import Silent
from tests.fixtures_gptq import source_bundle

WORDS: dict[str, dict[str, Any]] = {
    "glm4_moe": {"rope_scaling": None},
    "lfm2": {"block_dim": 64},
    "minimax_m2": {"shared_intermediate_size": 0},
}
"""What mlx-lm's models ask for and transformers 5 does not write: checkpoints on the hub have it."""


def made(source: Path, out: Path, **words: Any) -> tuple[Bundle, Path]:
    """The stage's bundle of a checkpoint, and its folder."""
    out.mkdir(parents=True, exist_ok=True)
    bundle = STAGE.run(STAGE.Options(**words), {"source": source_bundle(source)}, out, Silent())
    return bundle, bundle.of(Role.WEIGHTS)[0].path.parent


def stored(folder: Path) -> dict[str, Any]:
    """Name -> torch tensor of a folder's weights."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def of_mlx_lm(source: Path, group: int, bits: int, recipe: str = "", **words: Any) -> tuple[dict[str, Any], Any]:
    """What mlx_lm.convert writes of a checkpoint: name -> its array, and config.json's quantization.

    The steps are its own; the tokenizer, which it only copies, is left out. `words` are laid over the config.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map_with_path
    from mlx_lm import utils
    from mlx_lm.convert import MODEL_CONVERSION_DTYPES, mixed_quant_predicate_builder

    model, config = utils.load_model(source, lazy=True, model_config=words)
    said = config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    predicate = mixed_quant_predicate_builder(recipe, model, group) if recipe else None
    if said in MODEL_CONVERSION_DTYPES:
        casts = getattr(model, "cast_predicate", lambda _: True)

        def cast(name: str, value: Any) -> Any:
            wanted = casts(name) and mx.issubdtype(value.dtype, mx.floating)
            return value.astype(getattr(mx, said)) if wanted else value

        model.update(tree_map_with_path(cast, model.parameters()))
    model, config = utils.quantize_model(model, config, group, bits, quant_predicate=predicate)
    return dict(tree_flatten(model.parameters())), config["quantization"]


def own(folder: Path) -> tuple[dict[str, Any], Any]:
    """The same of a folder of ours."""
    import mlx.core as mx

    tensors = {
        name: value for file in sorted(folder.glob("*.safetensors")) for name, value in mx.load(str(file)).items()
    }
    return tensors, json.loads((folder / "config.json").read_text())["quantization"]


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names that one of them lacks, and tensors of another shape, type or value."""
    import mlx.core as mx

    found = [f"only {'ours' if name in mine else 'theirs'}: {name}" for name in sorted(mine.keys() ^ theirs.keys())]
    for name in sorted(mine.keys() & theirs.keys()):
        one, other = mine[name], theirs[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            found.append(f"{name}: {one.shape} {one.dtype}, theirs {other.shape} {other.dtype}")
        elif not bool(mx.all(one == other)):
            found.append(f"{name}: other values")
    return found
