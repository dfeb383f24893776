"""Measurements -> report.json (for machines), report.md and report.html (for who decides on a release).

rows = [output(measurement, ...) for ...]
report = {...: Report}
to_json(report), to_markdown(report), to_html(report)
"""

from validate.marks import FormatLook, Mark
from validate.report.build import Subject, output, to_json, verdict
from validate.report.html import to_html
from validate.report.markdown import to_markdown
from validate.report.marks import format_entries
from validate.report.schema import SCHEMA_VERSION, Output, Report
from validate.report.standing import with_standing

__all__ = [
    "SCHEMA_VERSION",
    "FormatLook",
    "Mark",
    "Output",
    "Report",
    "Subject",
    "format_entries",
    "output",
    "to_html",
    "to_json",
    "to_markdown",
    "verdict",
    "with_standing",
]
