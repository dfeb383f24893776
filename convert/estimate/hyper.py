"""A model's layers, as llama.cpp reads them out of a GGUF file's metadata (load_arch_hparams of src/models/*.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convert.errors import InputError
from convert.estimate.model_file import ModelFile


@dataclass(frozen=True)
class Layer:
    """One layer: what it keeps of the tokens that it saw."""

    number: int
    heads: int = 0
    kv_heads: int = 0
    key: int = 0  # values of a head
    value: int = 0
    has_cache: bool = False  # keys and values, one of each a token
    window: int = 0  # tokens it looks back at; 0: all
    indexer: int = 0  # values of the key that chooses tokens
    state: int = 0  # float32 values of a recurrent state, however long the text is


@dataclass(frozen=True)
class Hyper:
    """The numbers that memory depends on."""

    layers: Sequence[Layer]
    width: int
    vocabulary: int  # rows of the output
    context: int  # tokens that the model was made for
    experts: int
    experts_used: int
    only_keys: bool  # latent attention: the values are read out of the keys


# architecture -> (every how many layers one sees all, whether it is the first of them), where a file does not say;
# (0, …) where the file says it for every layer. Other architectures look at no window, whatever a file says.
WINDOWS: dict[str, tuple[int, bool]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gemma4": (0, False),
    "gpt-oss": (2, False),
    "granite_swa": (0, False),
    "laguna": (4, True),
    "lfm2": (0, False),
    "llama4": (4, False),
    "maple": (0, False),
    "mellum": (4, False),
    "mimo2": (0, False),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
    "spark2_5": (0, False),
    "step35": (0, False),
}
WINDOW_TOKENS = {"exaone-moe": 128, "exaone4": 4096, "gemma2": 4096}  # where a file does not say
FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}  # of those that have one, whatever the file says
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
BY_KV_HEADS = frozenset(  # layers without key heads are recurrent
    {
        "bailingmoe3",
        "granitehybrid",
        "jamba",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
BY_INTERVAL = frozenset({"minimax-01", "qwen35", "qwen35moe", "qwen3next"})  # all but every fourth
CACHELESS = frozenset(  # they read a text at once and keep nothing
    {
        "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
        "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "t5encoder",
    }
)  # fmt: skip
INDEXED = frozenset({"deepseek32", "glm-dsa"})
UNKNOWN = frozenset(
    {"deepseek4", "dots3note", "glm5-next", "hy_v4", "kimi-k3", "minimax-m3", "qwen4exp", "wavtokenizer-dec"}
)
"""What they keep is of a kind of its own."""


MAX_LAYERS = 512  # llama-hparams.h, LLAMA_MAX_LAYERS


def read_hyper(model: ModelFile) -> Hyper:
    """The model's numbers. Raises InputError for a file that does not say them, or of an architecture not known."""
    arch, count = model.architecture, model.number("block_count")
    if count * model.number("num_loops", 1) > MAX_LAYERS or count < 0:
        raise InputError("the model", f"says {count} layers", f"at most {MAX_LAYERS}, as llama.cpp has it")
    if arch in UNKNOWN or not count or not model.number("embedding_length"):
        got = f"is of the architecture {arch!r}, whose memory is not known" if arch in UNKNOWN else "says no layers"
        raise InputError(
            "the model", got, "a language model that llama.cpp runs", "its file sizes are in `convert inspect`"
        )
    trunk = count - model.number("nextn_predict_layers")
    recurrent, windows = _recurrent(model, count, trunk), _windows(model, count, trunk)
    loops = model.number("num_loops", 1) if arch == "nanbeige" else 1  # its layers are gone through several times
    return Hyper(
        tuple(_layer(model, i, recurrent[i], windows[i]) for i in range(trunk)) * loops,
        model.number("embedding_length"),
        (model.shape("output.weight") or model.shape("token_embd.weight") or (0,))[0],
        model.number("context_length"),
        model.number("expert_count"),
        model.number("expert_used_count"),
        model.get("attention.key_length_mla") is not None,
    )


def _layer(model: ModelFile, number: int, is_recurrent: bool, window: int) -> Layer:
    count, arch = model.number("block_count"), model.architecture
    heads = model.per_layer("attention.head_count", count)
    kv_heads = (
        heads if model.get("attention.head_count_kv") is None else model.per_layer("attention.head_count_kv", count)
    )
    usual = model.number("embedding_length") // heads[0] if heads[0] else 0
    key, value = model.number("attention.key_length", usual), model.number("attention.value_length", usual)
    if window:
        key, value = model.number("attention.key_length_swa", key), model.number("attention.value_length_swa", value)
    has_state = is_recurrent or arch == "falcon-h1"
    has_cache = arch not in CACHELESS and not is_recurrent and number < _own_caches(model, count)
    if arch.startswith("nemotron_h") and model.per_layer("feed_forward_length", count)[number]:
        has_state = has_cache = False  # a layer is one of three here
    return Layer(
        number,
        heads[number],
        kv_heads[number],
        key,
        value,
        has_cache,
        window,
        model.number("attention.indexer.key_length") if arch in INDEXED else 0,
        _state(model, heads[0]) if has_state else 0,
    )


def _own_caches(model: ModelFile, count: int) -> int:
    """How many layers have a cache; those behind them read that of another."""
    if model.architecture == "gemma3n":
        return 20
    return count - model.number("attention.shared_kv_layers") if model.architecture == "gemma4" else count


def _recurrent(model: ModelFile, count: int, trunk: int) -> Sequence[bool]:
    arch = model.architecture
    if arch in RECURRENT:
        return (True,) * count
    if arch in BY_KV_HEADS:
        return tuple(not heads for heads in model.per_layer("attention.head_count_kv", count))
    if arch in BY_INTERVAL:
        said = model.get("attention.recurrent_layers")
        if isinstance(said, tuple):
            return tuple(map(bool, said))
        every = model.number("full_attention_interval", 8 if arch == "minimax-01" else 4)
        return tuple(i < trunk and bool((i + 1) % every) for i in range(count))
    return (False,) * count


def _windows(model: ModelFile, count: int, trunk: int) -> Sequence[int]:
    """How far each layer looks back; 0 for those that see all."""
    arch = model.architecture
    tokens = model.number("attention.sliding_window", WINDOW_TOKENS.get(arch, 0))
    if arch == "llama4" and model.get("attention.sliding_window") is None:
        tokens = FIXED_WINDOWS[arch]
    if arch not in WINDOWS or not tokens or (arch == "exaone4" and count != 64):
        return (0,) * count
    tokens = FIXED_WINDOWS.get(arch, tokens)
    if arch == "lfm2":
        return tuple(0 if recurrent else tokens for recurrent in _recurrent(model, count, trunk))
    said, (every, first) = model.get("attention.sliding_window_pattern"), WINDOWS[arch]
    if isinstance(said, tuple):
        return tuple(tokens if flag else 0 for flag in said)
    every = said if isinstance(said, int) and not isinstance(said, bool) else every
    seeing = 0 if first else every - 1
    return tuple(tokens if i < trunk and (not every or i % every != seeing) else 0 for i in range(count))


def _state(model: ModelFile, heads: int) -> int:
    """Values of a layer's recurrent state, of what it convolves and what it sums up (n_embd_r, n_embd_s)."""
    width = model.number("embedding_length")
    if head := model.number("wkv.head_size"):
        return width * (model.number("token_shift_count", 2) + head)
    if kernel := model.number("shortconv.l_cache"):
        return width * (kernel - 1)
    kernel = model.number("ssm.conv_kernel")
    if head := model.number("kda.head_dim"):
        return 3 * (kernel - 1 if kernel else 3) * heads * head + head * head * heads
    inner, size = model.number("ssm.inner_size"), model.number("ssm.state_size")
    summed = size * inner
    if model.architecture == "minimax-01":
        summed = model.number("attention.key_length") ** 2 * heads
    return max(0, kernel - 1) * (inner + 2 * model.number("ssm.group_count") * size) + summed
