"""convert validate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convert.cli.common import EPILOG, carry_out, json_option, out_option, quiet_option, reports_errors, verbose_option
from convert.cli.junit import junit_option

if TYPE_CHECKING:
    from convert.candidates import CandidateRequest


class Tokens(click.ParamType):
    """A number of tokens, or `auto`."""

    name = "n|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        if isinstance(value, str) and value.isdigit():
            return int(value)
        self.fail(f"{value!r} is not a number of tokens, wanted one, or auto", param, ctx)


@click.command("validate", epilog=EPILOG)
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A finished file or folder to validate in place of a recipe's outputs; repeatable.",
)
@click.option(
    "--reference", metavar="DIR", type=click.Path(path_type=Path), help="The checkpoint the candidates stand for."
)
@click.option("--projector", metavar="FILE", type=click.Path(path_type=Path), help="The mmproj of GGUF candidates.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Text or chats (.jsonl) to measure on; a built-in set when left out.",
)
@click.option(
    "--clicks",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Click tasks (.jsonl): image, instruction and target a line.",
)
@click.option("--tokens", type=Tokens(), help="Tokens to use of the texts in all; auto: until every limit is decided.")
@click.option("--preset", metavar="NAME", help="Limits that outputs are held to: near-lossless, good or usable.")
@click.option(
    "--limit", "limits", multiple=True, metavar="METRIC=N", help="A limit on one metric, as kl_mean=0.01; repeatable."
)
@click.option("--name", default="", help="Name of the folder below OUT; the first candidate's when left out.")
@out_option
@junit_option
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(recipe: Path | None, out: Path, **asked: Any) -> int:
    """Measure again what RECIPE has built, and build nothing; or validate files that somebody else made."""
    from convert.candidates import recipe_for
    from convert.recipe import load_recipe, with_validation

    how = {word: asked.pop(word) for word in ("as_json", "quiet", "verbose", "junit")}
    if recipe is not None and asked["candidates"]:
        raise click.UsageError("got a recipe and --candidate, wanted one of them")
    if recipe is not None and (given := [word for word, value in asked.items() if value]):
        word = {"texts": "text", "limits": "limit"}.get(given[0], given[0])
        raise click.UsageError(f"--{word} is for --candidate; with a recipe, write it there")
    if recipe is not None:
        again = with_validation(load_recipe(recipe))
        return carry_out(again, out, builds=False, **how)
    if not asked["candidates"] or asked["reference"] is None:
        raise click.UsageError("give a recipe, or --candidate FILE and --reference DIR")
    return carry_out(recipe_for(_request(asked)), out, **how)


def _request(asked: dict[str, Any]) -> CandidateRequest:
    from convert.candidates import CandidateRequest

    limits: dict[str, float] = {}
    for word in asked.pop("limits"):
        name, _, number = word.partition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{word!r}, wanted METRIC=NUMBER, as kl_mean=0.01", param_hint="--limit") from None
    return CandidateRequest(**asked, limits=limits)
