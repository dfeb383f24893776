"""What commands share: their common options, exit codes, and how problems and JSON are printed."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.junit import junit_file, write_junit
from convert.json_types import JsonDict

if TYPE_CHECKING:
    from convert.recipe import Recipe
    from convert.run import Result

EPILOG = "Exit codes: 0 good, 1 a stage failed, 2 the recipe or usage is wrong, 3 a validation limit was passed."
INTERRUPTED = 130
MOST_PROBLEMS, LONGEST_PROBLEM = 100, 1400  # lines that are shown, and characters of each: a file says what it likes

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
out_option = click.option(
    "--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder for OUT/<recipe name>/."
)
force_option = click.option("--force", multiple=True, metavar="STAGE", help="Run this stage even if it is up to date.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")


class Jobs(click.ParamType):
    """A number of steps, or `auto`."""

    name = "n|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in ("auto", None):
            return None
        if isinstance(value, str) and value.isdigit() and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is not a number of steps, wanted 1, 2, … or auto", param, ctx)


jobs_option = click.option(
    "-j",
    "--jobs",
    type=Jobs(),
    envvar="CONVERT_JOBS",
    show_envvar=True,
    default="auto",
    show_default=True,
    help="Steps that run at a time; auto: as many as fit into the free memory and the cores.",
)
executor_option = click.option(
    "--executor", metavar="NAME", default="local", show_default=True, help="Where steps run."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Also print what the stages note: types, tensors left out, details."
)


def reports_errors(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what a command raises into one clear message and the documented exit code."""

    @wraps(command)
    def wrapped(**options: object) -> None:
        from convert.cli.console import ReaderGone
        from convert.errors import ENDS, ConvertError, Problem

        junit, name = options.get("junit"), f"convert {click.get_current_context().info_name}"
        try:
            with junit_file(junit if isinstance(junit, Path) else None, name):
                code = command(**options)
        except ConvertError as error:
            say_problems(error.problems, bool(options.get("as_json")), error.exit_code)
            code = error.exit_code
        except KeyboardInterrupt:
            click.echo("stopped; finished stages are kept, the next run continues after them", err=True)
            code = INTERRUPTED
        except (BrokenPipeError, ReaderGone):
            raise BrokenPipeError(errno.EPIPE, "the reader went away") from None  # click ends quietly, with 1
        except OSError as error:
            where = str(error.filename or "the operating system")
            problem = Problem(where, error.strerror or str(error))
            say_problems([problem], bool(options.get("as_json")), ConvertError.exit_code)
            code = ConvertError.exit_code
        except MemoryError:
            problem = Problem("this machine", "out of memory", "", "run it on a machine with more")
            say_problems([problem], bool(options.get("as_json")), ConvertError.exit_code)
            code = ConvertError.exit_code
        except BaseException as error:
            if isinstance(error, (Exception, *ENDS)):
                raise
            problem = Problem(type(error).__name__, str(error), "", "a library failed on a file that it was given")
            say_problems([problem], bool(options.get("as_json")), ConvertError.exit_code)  # a panic in Rust
            code = ConvertError.exit_code
        sys.exit(code)

    return wrapped


def carry_out(
    recipe: Recipe,
    out: Path,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    force: tuple[str, ...] = (),
    builds: bool = True,
    jobs: int | None = 1,
    executor: str = "local",
    junit: Path | None = None,
    verify: bool = False,
) -> int:
    """Plan and run, shown as it goes on; the exit code."""
    from convert.cli.console import event_printer
    from convert.events import StepProgress
    from convert.plan import plan, plan_again, plan_verified
    from convert.run import run

    _check_junit(recipe, junit)
    with event_printer(as_json=as_json, quiet=quiet, verbose=verbose) as on_event:
        with StepProgress("plan", on_event) as progress:
            if builds:
                make = plan_verified if verify else plan
                planned = make(recipe, out, force=force, progress=progress)
            else:
                planned = plan_again(recipe, out, progress=progress)
        result = run(planned, on_event, jobs=jobs, executor=executor)
    if as_json:
        say_json(_result_json(result))
    elif not quiet:
        from convert.cli.console import show_result

        show_result(result)
    _write_junit(result, junit)
    return result.exit_code


def _check_junit(recipe: Recipe, junit: Path | None) -> None:
    from convert.errors import PlanError, Problem
    from convert.registry import VALIDATE

    if junit is not None and VALIDATE not in recipe.stages:
        remedy = "add `validate: {}` to the recipe, or leave --junit out"
        raise PlanError(Problem(str(recipe.path), "--junit, and nothing is validated", "verdicts to write", remedy))


def _write_junit(result: Result, junit: Path | None) -> None:
    if junit is not None and result.report is not None:
        from convert.validation.read_report import read_report
        from validate.report.junit_cases import report_suite

        write_junit(junit, report_suite(read_report(result.folder)))


def say_json(value: object) -> None:
    """One line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def say_problems(problems: Iterable[object], as_json: bool, exit_code: int) -> None:
    """Every problem on a line of its own, on stderr; as an event too where events are read."""
    lines = [str(problem) for problem in problems]
    if as_json:
        say_json({"event": "error", "exit_code": exit_code, "problems": lines})
    for line in lines[:MOST_PROBLEMS]:
        short = line if len(line) <= LONGEST_PROBLEM else f"{line[:LONGEST_PROBLEM]}…"
        click.echo(f"error: {short}", err=True)
    if len(lines) > MOST_PROBLEMS:
        click.echo(f"and {len(lines) - MOST_PROBLEMS} more", err=True)


def _result_json(result: Result) -> JsonDict:
    outputs = None if result.report is None else result.report["outputs"]
    return {
        "event": "finished",
        "exit_code": result.exit_code,
        "folder": str(result.folder),
        "ran": list(result.ran),
        "outputs": outputs,
    }
