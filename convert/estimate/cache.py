"""Keys, values and recurrent states: what a model keeps of the text, by layer.

A cell holds one token. A cache has a cell for every token of the context, that of a layer with a sliding window for
those in the window of each text and one batch more (llama_kv_cache_iswa); both are rounded up to 256 cells.
A recurrent state is float32 and as large for one token as for a million, one for each text.
"""

from __future__ import annotations

from dataclasses import dataclass

from convert.errors import InputError
from convert.estimate.hyper import Hyper, Layer
from convert.estimate.setting import Setting, padded
from quantize.blocks import TYPES

FLOAT32 = 4


@dataclass(frozen=True)
class LayerCache:
    """Bytes that one layer keeps."""

    layer: int
    cells: int  # 0 where there are no keys
    keys: int
    values: int
    state: int

    @property
    def nbytes(self) -> int:
        return self.keys + self.values + self.state


def layer_caches(hyper: Hyper, setting: Setting) -> tuple[LayerCache, ...]:
    """What each layer keeps. Raises InputError for a type that no row of keys or values can be cut into."""
    widest = max((layer.kv_heads * layer.value for layer in hyper.layers), default=0)
    return tuple(_layer_cache(hyper, layer, setting, widest) for layer in hyper.layers)


def cells_of(layer: Layer, setting: Setting) -> int:
    """Cells of the layer's cache."""
    if not layer.window or setting.full_window:
        return setting.cells
    return padded(min(setting.cells, layer.window * setting.texts + setting.tokens))


def _layer_cache(hyper: Hyper, layer: Layer, setting: Setting, widest: int) -> LayerCache:
    state = layer.state * FLOAT32 * max(1, setting.texts)
    if not layer.has_cache:
        return LayerCache(layer.number, 0, 0, 0, state)
    cells, types = cells_of(layer, setting), setting.cache
    # without flash attention values lie across, and all layers' are as wide as the widest
    width = layer.kv_heads * layer.value if types.flash_attention else widest
    keys = cells * (_row(types.k, layer.kv_heads * layer.key) + (_row(types.k, layer.indexer) if layer.indexer else 0))
    return LayerCache(layer.number, cells, keys, 0 if hyper.only_keys else cells * _row(types.v, width), state)


def _row(kind: str, values: int) -> int:
    try:
        return TYPES[kind.upper()].row_bytes(values)
    except ValueError as error:
        raise InputError("the cache", f"{error}", "", "use f16") from None
