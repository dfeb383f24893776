"""Sliding windows: layers that see only the last tokens."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config

SLIDING, FULL = "sliding_attention", "full_attention"


def window_notes(config: Config, layers: int, context: int) -> tuple[str, ...]:
    """What to note about sliding windows where llama.cpp's graph has none."""
    if not config.has("sliding_window") or not config.flag("use_sliding_window", default=True):
        return ()
    window = config.size("sliding_window", most=MAX_CONTEXT)
    if window >= context or config.values.get("max_window_layers") == layers:
        return ()
    return (
        f"the source attends to the last {window} tokens only, llama.cpp's graph of this architecture to all: "
        f"expect differences in texts longer than {window} tokens",
    )


def sliding_layers(config: Config, layers: int, every: int) -> tuple[bool, ...]:
    """Which layers have a window: what layer_types says, else all but each `every`-th (transformers' usual pattern)."""
    every = config.size("sliding_window_pattern", every, layers + 1) if config.has("sliding_window_pattern") else every
    types = config.words("layer_types", layers, (SLIDING, FULL))
    return tuple(t == SLIDING for t in types) or tuple((layer + 1) % every > 0 for layer in range(layers))


def require_every(config: Config, layers: int, every: int) -> int:
    """The window, where exactly each `every`-th layer is without one, which is all llama.cpp's graph can do."""
    if sliding_layers(config, layers, every) != tuple((layer + 1) % every > 0 for layer in range(layers)):
        key = "layer_types" if config.has("layer_types") else config.key("sliding_window_pattern")
        config.complain(key, config.values.get(key), f"full attention in every {every}. layer and in no other")
    return config.size("sliding_window", most=MAX_CONTEXT)
