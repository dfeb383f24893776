"""The command line; the only module that prints.

Exit codes: 0 good, 1 a stage failed, 2 the recipe or the usage is wrong (nothing was started), 3 a validation limit
was passed or an output could not be validated, 130 stopped by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from convert.candidates import Judged
    from convert.plan import Plan
    from convert.recipe import Recipe
    from convert.run import Event, Result

EPILOG = "Exit codes: 0 good, 1 a stage failed, 2 the recipe or usage is wrong, 3 a validation limit was passed."
VERSION_HELP = "Tell the version and that of every runtime found, and exit."
INTERRUPTED = 130

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
out_option = click.option(
    "--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder for OUT/<recipe name>/."
)
force_option = click.option("--force", multiple=True, metavar="STAGE", help="Run this stage even if it is up to date.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Everything the stages have to say.")


def reports_errors(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what a command raises into one clear message and the documented exit code."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from convert.console import ReaderGone
        from convert.errors import ConvertError, Problem

        try:
            code = command(**options)
        except ConvertError as error:
            _say_problems(error.problems, bool(options.get("as_json")), error.exit_code)
            code = error.exit_code
        except KeyboardInterrupt:
            click.echo("stopped; finished stages are kept, the next run continues after them", err=True)
            code = INTERRUPTED
        except (BrokenPipeError, ReaderGone):
            raise BrokenPipeError(errno.EPIPE, "the reader went away") from None  # click ends quietly, with 1
        except OSError as error:
            where = str(error.filename or "the operating system")
            problem = Problem(where, error.strerror or str(error))
            _say_problems([problem], bool(options.get("as_json")), ConvertError.exit_code)
            code = ConvertError.exit_code
        sys.exit(code)

    return wrapped


def _say_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print the version and those of the runtimes, and end."""
    if asked and not context.resilient_parsing:
        from convert.distribution import version_lines

        for line in version_lines():
            click.echo(line)
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help=VERSION_HELP)
def main() -> None:
    """Turn a model into every format people run, and prove that each output still is that model."""
    for name in ("SIGTERM", "SIGHUP"):  # end as by Ctrl-C: nothing half-built stays, no process goes on alone
        if (which := getattr(signal, name, None)) and signal.getsignal(which) != signal.SIG_IGN:  # nohup
            signal.signal(which, signal.default_int_handler)


@main.command(epilog=EPILOG)
@recipe_argument
@out_option
@force_option
@json_option
@quiet_option
@verbose_option
@reports_errors
def run(recipe: Path, out: Path, force: tuple[str, ...], as_json: bool, quiet: bool, verbose: bool) -> int:
    """Build what is out of date, validate every output, write the report."""
    from convert.recipe import load_recipe

    return _carry_out(load_recipe(recipe), out, force=force, as_json=as_json, quiet=quiet, verbose=verbose)


def _carry_out(
    recipe: Recipe,
    out: Path,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    force: tuple[str, ...] = (),
    builds: bool = True,
) -> int:
    """Plan and run, told as it goes on; the exit code."""
    from convert.console import listener
    from convert.plan import plan, plan_again
    from convert.run import StepProgress, run

    with listener(as_json=as_json, quiet=quiet, verbose=verbose) as listen:
        with StepProgress("plan", listen) as progress:
            if builds:
                planned = plan(recipe, out, force=force, progress=progress)
            else:
                planned = plan_again(recipe, out, progress=progress)
        result = run(planned, listen)
    if as_json:
        _say_json(_result_json(result))
    elif not quiet:
        _say_result(result)
    return result.exit_code


@main.command(epilog=EPILOG)
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file or folder somebody else made, to judge instead of a recipe's outputs; as many as you like.",
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
    help="Text or chats (.jsonl) to measure on; our own when left out.",
)
@click.option("--clicks", metavar="FILE", type=click.Path(path_type=Path), help="Clicks (.jsonl) to compare on.")
@click.option("--tokens", type=int, help="How many tokens of the texts to use in all.")
@click.option("--preset", metavar="NAME", help="What to expect: near-lossless, good or usable.")
@click.option("--limit", "limits", multiple=True, metavar="METRIC=N", help="A limit of your own: kl_mean=0.01.")
@click.option("--name", default="", help="Name of the folder below OUT; the first candidate's when left out.")
@out_option
@json_option
@quiet_option
@verbose_option
@reports_errors
def validate(recipe: Path | None, out: Path, as_json: bool, quiet: bool, verbose: bool, **asked: Any) -> int:
    """Measure again what RECIPE has built, and build nothing; or judge files that somebody else made."""
    from convert.candidates import recipe_for
    from convert.recipe import load_recipe, with_validation

    if recipe is not None and asked["candidates"]:
        raise click.UsageError("a recipe or --candidate, not both")
    if recipe is not None and (given := [word for word, value in asked.items() if value]):
        word = {"texts": "text", "limits": "limit"}.get(given[0], given[0])
        raise click.UsageError(f"--{word} goes with --candidate; a recipe says it itself")
    if recipe is not None:
        again = with_validation(load_recipe(recipe))
        return _carry_out(again, out, as_json=as_json, quiet=quiet, verbose=verbose, builds=False)
    if not asked["candidates"] or asked["reference"] is None:
        raise click.UsageError("give a recipe, or --candidate FILE and --reference DIR")
    return _carry_out(recipe_for(_judged(asked)), out, as_json=as_json, quiet=quiet, verbose=verbose)


def _judged(asked: dict[str, Any]) -> Judged:
    from convert.candidates import Judged

    limits: dict[str, float] = {}
    for word in asked.pop("limits"):
        name, _, number = word.partition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{word!r}, wanted METRIC=NUMBER, as kl_mean=0.01", param_hint="--limit") from None
    return Judged(**asked, limits=limits)


@main.command(
    epilog="Exit codes: 0 nothing got worse, 2 a report cannot be read or no output is in both, 3 an output got worse."
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option("--markdown", is_flag=True, help="As Markdown, for a pull request.")
@reports_errors
def compare(before: Path, after: Path, as_json: bool, markdown: bool) -> int:
    """Say what changed between two reports (report.json, or its folder) beyond noise."""
    from convert.reports import read_report
    from validate.report.changes import compare
    from validate.report.changes_words import to_json, to_markdown, to_text

    if as_json and markdown:
        raise click.UsageError("--json or --markdown, not both")
    changes = compare(read_report(before), read_report(after))
    write = to_json if as_json else to_markdown if markdown else to_text
    click.echo(write(changes))
    return 3 if changes.worse else 0 if changes.outputs else 2


@main.command(epilog=EPILOG)
@recipe_argument
@out_option
@force_option
@json_option
@verbose_option
@click.option("--explain-types", is_flag=True, help="Show the type of every tensor and the rule that picked it.")
@reports_errors
def plan(recipe: Path, out: Path, force: tuple[str, ...], as_json: bool, verbose: bool, explain_types: bool) -> int:
    """Say what a run would do, why, and what would stop it. Starts nothing."""
    from convert.plan import plan
    from convert.recipe import load_recipe

    planned = plan(load_recipe(recipe), out, force=force)
    if as_json:
        _say_json(_plan_json(planned, explain_types))
    else:
        from convert.console import show_plan

        show_plan(planned, verbose, explain_types)
        _say_problems(planned.problems, False, 2)
    return 2 if planned.problems else 0


@main.command()
@reports_errors
def stages() -> int:
    """List what a recipe can say in `use:`, with the options of each."""
    from convert.console import show_stages

    show_stages()
    return 0


@main.command()
@click.argument("what", type=click.Choice(["recipe", "report"]), default="recipe")
@reports_errors
def schema(what: str) -> int:
    """Print the JSON Schema of a recipe, for editors, or of report.json."""
    if what == "report":
        from convert.reports import json_schema
    else:
        from convert.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return 0


@main.command()
@click.argument("what", metavar="FILE|CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The checkpoint a GGUF file was made from: shows how far each tensor is from it.",
)
@click.option("--quick", is_flag=True, help="Of a checkpoint: do not ask stages that import torch to answer (ONNX).")
@json_option
@verbose_option
@reports_errors
def inspect(what: Path, against: Path | None, quick: bool, as_json: bool, verbose: bool) -> int:
    """Show what a safetensors, GGUF or ONNX file holds, from its header alone unless --against is given.

    Of a checkpoint (a folder, or a model in the hub's cache: org/name[@revision]) what it is, and what each stage
    would make of it, with the sizes.
    """
    from convert.inspect import inspect_file

    if against is None and not (what.is_file() and what.name != "config.json"):
        from convert.located import is_checkpoint

        if is_checkpoint(what):
            return _inspect_checkpoint(what, quick, as_json, verbose)
    inspection = inspect_file(what)
    if against is not None:
        _say_errors(what, against, as_json)
    elif as_json:
        import dataclasses

        _say_json(dataclasses.asdict(inspection))
    else:
        from convert.console import show_inspection

        show_inspection(inspection, verbose)
    return 0


def _inspect_checkpoint(what: Path, quick: bool, as_json: bool, verbose: bool) -> int:
    """Lines as they are known: what has to be imported last is told last. A checkpoint that no plan takes is a 1."""
    from convert.console import show_inspection, show_outlook
    from convert.inspect_checkpoint import inspect_checkpoint
    from convert.located import options_for
    from convert.outlook import outlook, outlook_json

    about, bundle = inspect_checkpoint(options_for(what))
    told = outlook(about, bundle, every=verbose, quick=quick)
    if as_json:
        _say_json(outlook_json(about, told))
    else:
        show_inspection(about, verbose)
        show_outlook(told, verbose)
        _say_problems(about.problems, False, 1)
    return 1 if about.problems else 0


def _say_errors(file: Path, folder: Path, as_json: bool) -> None:
    from convert.gguf.against import error_lines, tensor_errors

    errors = tensor_errors(file, folder)
    for line in (json.dumps(e.to_json()) for e in errors) if as_json else error_lines(errors):
        click.echo(line)


def _say_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def _say_problems(problems: Iterable[Any], as_json: bool, exit_code: int) -> None:
    lines = [str(problem) for problem in problems]
    if as_json:
        _say_json({"event": "error", "exit_code": exit_code, "problems": lines})
    for line in lines:
        click.echo(f"error: {line}", err=True)


def _say_result(result: Result) -> None:
    from convert.console import show_result

    show_result(result)


def _result_json(result: Result) -> dict[str, Any]:
    outputs = None if result.report is None else result.report["outputs"]
    return {
        "event": "finished",
        "exit_code": result.exit_code,
        "folder": str(result.folder),
        "ran": list(result.ran),
        "outputs": outputs,
    }


def _plan_json(planned: Plan, types: bool = False) -> dict[str, Any]:
    from convert.console import tensor_types
    from convert.run import step_json

    keys = ("file", "tensor", "type", "rule")
    steps = planned.steps if types else ()
    chosen = [dict(zip(keys, row, strict=True)) for step in steps for row in tensor_types(planned, step)]
    return {
        "recipe": planned.recipe.name,
        "folder": str(planned.folder),
        "steps": [step_json(step) for step in planned.steps],
        "write_bytes": planned.write_bytes,
        "free_bytes": planned.free_bytes,
        "notes": list(planned.notes),
        **({"types": chosen} if types else {}),
        "problems": [str(problem) for problem in planned.problems],
    }


def event_line(event: Event) -> str:
    """The event as one line of JSON."""
    return json.dumps({"event": event.kind, "step": event.step, **event.data}, ensure_ascii=False)
