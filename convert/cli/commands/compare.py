"""convert compare"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import reports_errors
from convert.cli.junit import junit_option, write_junit


@click.command(
    "compare",
    epilog="Exit codes: 0 nothing got worse, 2 a report cannot be read, the texts differ or no output is in both, "
    "3 an output got worse.",
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option("--markdown", is_flag=True, help="As Markdown, for a pull request.")
@junit_option
@reports_errors
def command(before: Path, after: Path, as_json: bool, markdown: bool, junit: Path | None) -> int:
    """Say what changed between two reports (report.json, or its folder) beyond noise."""
    from convert.errors import PlanError, Problem
    from convert.validation.read_report import read_report
    from validate.report.changes import compare
    from validate.report.changes_words import to_json, to_markdown, to_text
    from validate.report.junit_cases import changes_suite
    from validate.report.same_texts import OtherTexts

    if as_json and markdown:
        raise click.UsageError("--json or --markdown, not both")
    try:
        changes = compare(read_report(before), read_report(after))
    except OtherTexts as error:
        problem = Problem(f"{before} and {after}", error.difference, "reports of the same text", error.remedy)
        raise PlanError(problem) from error
    write = to_json if as_json else to_markdown if markdown else to_text
    click.echo(write(changes))
    write_junit(junit, changes_suite(changes))
    return 3 if changes.worse else 0 if changes.outputs else 2
