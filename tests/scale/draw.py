"""Pictures of the simulation, as SVG that reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 260, 70, 40, 30
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
    'font-size="12" fill="#777">'
)


def rates(title: str, series: Sequence[tuple[str, np.ndarray, str]], seconds: float, lines: dict[str, float]) -> str:
    """Operations a second over hours, and the limits as lines."""
    most = max([*(float(values.max()) for _, values, _ in series), *lines.values()]) * 1.1
    hours = max(len(values) for _, values, _ in series) * seconds / 3600

    def x(hour: float) -> float:
        return LEFT + hour / hours * (WIDTH - LEFT - 20)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - TOP)

    parts = [HEAD, f"<title>{title}</title>", f'<text x="{LEFT}" y="16" fill="#888">{title}</text>']
    for value in np.linspace(0, most / 1.1, 5):
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.0f}" text-anchor="end">{value:,.0f}</text>')
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - 20}" stroke="#8884"/>')
    ticks = np.linspace(0, hours, 6)
    parts += [f'<text x="{x(h):.0f}" y="{HEIGHT - 20}" text-anchor="middle">{h:.1f} h</text>' for h in ticks]
    for name, value in lines.items():
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - 20}" stroke="#d33" stroke-dasharray="6 4"/>')
        parts.append(f'<text x="{WIDTH - 24}" y="{y(value) - 4:.0f}" text-anchor="end" fill="#d33">{name}</text>')
    for number, (name, values, colour) in enumerate(series):
        step = max(1, len(values) // 700)
        means = [values[i : i + step].mean() for i in range(0, len(values), step)]
        points = " ".join(f"{x(i * step * seconds / 3600):.1f},{y(v):.1f}" for i, v in enumerate(means))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{LEFT + 10 + 120 * number}" y="{TOP + 14}" fill="{colour}">{name}</text>')
    return "".join([*parts, "</svg>\n"])


def bars(title: str, rows: dict[str, float]) -> str:
    """A bar a setting: how far it is over the bound, in percent."""
    most, height = max(rows.values()), 22
    whole = TOP + height * len(rows) + 10
    parts = [HEAD.replace(f"0 0 {WIDTH} {HEIGHT}", f"0 0 {WIDTH} {whole}"), f"<title>{title}</title>"]
    parts.append(f'<text x="10" y="16" fill="#888">{title}</text>')
    for number, (name, value) in enumerate(rows.items()):
        y = TOP + height * number
        width = max(1.0, value / most * 380)
        parts.append(f'<text x="250" y="{y + 14}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="258" y="{y + 3}" width="{width:.1f}" height="14" fill="#1668dc"/>')
        parts.append(f'<text x="{264 + width:.0f}" y="{y + 14}">{value:.1%}</text>')
    return "".join([*parts, "</svg>\n"])
