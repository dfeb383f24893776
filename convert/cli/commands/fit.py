"""convert fit"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.common import json_option, reports_errors, say_json

if TYPE_CHECKING:
    from validate.kv_cache import CacheTypes

UNQUANTIZED = ("f32", "f16", "bf16")


class Amount(click.ParamType):
    """An amount with a unit, as `parse` understands it."""

    def __init__(self, name: str, parse: str) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from convert.estimate import amounts

        parsers: dict[str, Callable[[str], int]] = {
            "bytes": amounts.bytes_of,
            "tokens": amounts.tokens_of,
            "bandwidth": amounts.bandwidth_of,
        }
        try:
            return parsers[self._parse](str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE, TOKENS, SPEED = Amount("size", "bytes"), Amount("tokens", "tokens"), Amount("size/s", "bandwidth")


@click.command("fit")
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--gpu", "--vram", type=SIZE, help="Memory of the GPU: 8GB, 24GiB.")
@click.option(
    "--ram", type=SIZE, help="Memory of the host: what a CPU runs in, or beside --gpu what does not fit there."
)
@click.option("--reserve", type=SIZE, help="Memory to leave free: for a driver, a desktop.")
@click.option("--context", type=TOKENS, default="4096", show_default=True, help="Tokens: 16k is 16,384.")
@click.option("--kv", metavar="TYPE", default="f16", show_default=True, help="Type of the cache: q8_0, or q8_0/q4_0.")
@click.option("--no-flash-attention", is_flag=True, help="As -fa off: scores are kept, V cannot be quantized.")
@click.option("--parallel", type=click.IntRange(1, 256), default=1, show_default=True, help="Texts at once (-np).")
@click.option("--ubatch", type=click.IntRange(1, 65536), default=512, show_default=True, help="Tokens at once (-ub).")
@click.option("--images", type=click.IntRange(0), default=0, help="Images: with one or more the projector is loaded.")
@click.option("--mmproj", type=click.Path(path_type=Path), help="The projector's file, where MODEL is a GGUF file.")
@click.option("--all-logits", is_flag=True, help="Of every token, as llama-perplexity and llama-cpp-python keep them.")
@click.option("--swa-full", is_flag=True, help="Sliding windows keep the whole context (--swa-full).")
@click.option("--bandwidth", type=SPEED, help="Of the memory, for the tokens a second it allows: 400GB/s.")
@click.option("--ram-bandwidth", type=SPEED, help="Of the host's memory, where only a part fits the GPU.")
@json_option
@reports_errors
def command(
    model: Path,
    gpu: int | None,
    ram: int | None,
    reserve: int | None,
    context: int,
    kv: str,
    no_flash_attention: bool,
    parallel: int,
    ubatch: int,
    images: int,
    mmproj: Path | None,
    all_logits: bool,
    swa_full: bool,
    bandwidth: int | None,
    ram_bandwidth: int | None,
    as_json: bool,
) -> int:
    """Say which GGUF files of a model fit into a memory, before anything is downloaded.

    MODEL is a checkpoint's folder, a hub model (org/name[@revision]), a GGUF file or a recipe. Sizes of files are
    exact; weights, cache and buffers are those that llama.cpp would take. Of a hub model configs and headers are
    fetched.
    """
    from convert.estimate.setting import Setting
    from convert.estimate.speed import Bandwidth
    from convert.inspection.fit import Budget, fit
    from convert.inspection.fit_model import read_model
    from convert.progress import Silent

    if gpu is None and ram is None:
        raise click.UsageError("name a memory: --gpu 8GB, --ram 16GB or both")
    outputs = None if all_logits else parallel
    setting = Setting(
        context,
        _cache(kv, not no_flash_attention),
        parallel,
        micro_batch=ubatch,
        outputs=outputs,
        full_window=swa_full,
        images=images > 0,
    )
    found = read_model(model, mmproj=mmproj, images=images > 0, progress=Silent())
    fitted = fit(found, setting, Budget(gpu, ram, reserve or 0), Bandwidth(bandwidth, ram_bandwidth))
    if as_json:
        say_json(fitted.to_json())
        return 0
    for line in fitted.lines():
        click.echo(line)
    return 0


def _cache(word: str, flash_attention: bool) -> CacheTypes:
    """The types of the cache. Raises UsageError for what llama.cpp has not."""
    from validate.kv_cache import CacheTypes

    try:
        types = CacheTypes.parse(word)
    except ValueError as error:
        raise click.UsageError(f"--kv {error}") from None
    if not flash_attention and types.v not in UNQUANTIZED:
        raise click.UsageError(f"--kv {word}: llama.cpp quantizes V only with flash attention")
    return replace(types, flash_attention=flash_attention)
