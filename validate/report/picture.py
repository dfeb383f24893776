"""Size against drift as one SVG file, for a model card: it brings its own style, for a light page and a dark one."""

from __future__ import annotations

from collections.abc import Collection

from markupsafe import Markup

from validate.report.html.axes import colours, colours_dark
from validate.report.html.scatter import points, scatters
from validate.report.schema import Report

FEWEST = 3  # points that a picture says more of than a table
LIGHT = (
    "--card:#fff;--ink:#14191f;--soft:#57616d;--line:#dde2e8;--grid:#e9ecf0;--tint:#f1f3f6;"
    "--bad:#b0231a;--warn:#7d5200;"
)
DARK = (
    "--card:#15191e;--ink:#e9ecf0;--soft:#a3adb9;--line:#2a3139;--grid:#242b32;--tint:#1b2128;"
    "--bad:#ff9c92;--warn:#efc063;"
)
RULES = """\
text{fill:var(--ink);font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
.paper{fill:var(--card)}.tick,.axis{fill:var(--soft)}.best{font-weight:650}
.name{font-size:12px;paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
.grid{stroke:var(--grid)}.base{stroke:var(--line);stroke-width:1.5}.leader{stroke:var(--soft);stroke-width:.75;opacity:.7}
.stair{fill:none;stroke:var(--warn);stroke-width:1.5;stroke-dasharray:5 4}.beyond{fill:var(--tint);opacity:.6}
.ring{fill:none;stroke:var(--bad);stroke-width:1.75}.m{stroke-width:1.5}.hollow{fill:var(--card)!important}
.whisker{stroke-width:1.5;opacity:.55}.noise{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:2 3}
.noisy{fill:var(--soft);font-size:.85em;paint-order:stroke;stroke:var(--card);stroke-width:3px}"""


def size_against_drift(report: Report, labels: Collection[str]) -> str:
    """The picture of the outputs called so; empty where there are too few of them."""
    outputs = [output for output in report["outputs"] if output["label"] in labels]
    part: Report = {**report, "outputs": outputs}
    if len(points(part)) < FEWEST:
        return ""
    wide = str(scatters(part)[0])
    head, end, body = wide.partition(">")
    box = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    style = Markup("<style>:root{{{}}}\n{}\n@media(prefers-color-scheme:dark){{:root{{{}{}}}}}\n{}</style>").format(
        Markup(LIGHT), colours(part), Markup(DARK), colours_dark(part), Markup(RULES)
    )
    size = f' xmlns="http://www.w3.org/2000/svg" width="{box[0]}" height="{box[1]}"'
    paper = f'<rect class="paper" width="{box[0]}" height="{box[1]}"/>'
    title, close, rest = body.partition("</desc>")  # first in a picture, for those who do not see it
    return f"{head}{size}{end}{title}{close}{style}{paper}{rest}\n"
