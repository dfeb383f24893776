"""report.json -> report.html: one file that asks for nothing.

page.py fills templates/ with what the other modules here and the shared ones above make of a report.
"""

from validate.report.html.page import to_html

__all__ = ["to_html"]
