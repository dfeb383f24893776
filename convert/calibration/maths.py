"""Problems with their worked answers: every number in them is computed."""

from __future__ import annotations

from fractions import Fraction
from math import comb, gcd, isqrt, sqrt

from convert.calibration.draw import Draw

NAMES = ("Amara", "Bjorn", "Chiara", "Dmitri", "Esi", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lotte", "Mei")
THINGS = ("apples", "tiles", "stamps", "tickets", "bricks", "postcards", "marbles", "seedlings", "bolts", "eggs")
UNITS = ("cm", "m", "km", "mm", "ft")


def problem(draw: Draw) -> str:
    """One problem, worked."""
    return draw.deal("problem", MAKERS)(draw)


def _shopping(draw: Draw) -> str:
    who, thing, other = draw.deal("name", NAMES), draw.deal("thing", THINGS), draw.deal("thing", THINGS)
    n, m, cents, dear, paid = (draw.number(*r) for r in ((3, 18), (2, 9), (15, 240), (120, 990), (50, 400)))
    first, second = n * cents, m * dear
    left = paid * 100 - first - second
    end = f"leaves {left / 100:.2f}" if left >= 0 else f"is {-left / 100:.2f} too much, so one {other[:-1]} goes back"
    return (
        f"{who} has {paid} to spend, buys {n} {thing} at {cents / 100:.2f} each and {m} {other} at {dear / 100:.2f}. "
        f"What remains?\n{n} × {cents / 100:.2f} = {first / 100:.2f}; {m} × {dear / 100:.2f} = {second / 100:.2f}; "
        f"together {(first + second) / 100:.2f}, which {end}."
    )


def _quadratic(draw: Draw) -> str:
    a, b, factor = draw.number(-12, 12), draw.number(-12, 12), draw.number(1, 5)
    p, q = -factor * (a + b), factor * a * b
    poly = f"{factor if factor > 1 else ''}x^2 {p:+d}x {q:+d} = 0"
    opening = draw.deal("quadratic", ("Solve", "Find all real roots of", "For which $x$ is", "Factor"))
    root = (a + b) ** 2 - 4 * a * b
    return (
        f"{opening} ${poly}$.\n\nDivide by {factor}: $x^2 {-(a + b):+d}x {a * b:+d} = 0$. The discriminant is "
        f"$\\Delta = {(a + b) ** 2} - 4\\cdot({a * b}) = {root}$, $\\sqrt{{\\Delta}} = {isqrt(root)}$, hence "
        f"$x_{{1,2}} = \\frac{{{a + b} \\pm {isqrt(root)}}}{{2}}$, that is ${a}$ and ${b}$."
    )


def _derivative(draw: Draw) -> str:
    a, n, b, k, x = (draw.number(*r) for r in ((2, 9), (3, 7), (2, 19), (2, 8), (1, 4)))
    f = draw.deal("function", ("f", "g", "h", "p", "u"))
    slope = a * n * x ** (n - 1) - b
    return (
        f"Let ${f}(x) = {a}x^{{{n}}} - {b}x + {k}$. Then ${f}'(x) = {a * n}x^{{{n - 1}}} - {b}$, "
        f"so the tangent at $x_0 = {x}$ has slope ${slope}$; with ${f}({x}) = {a * x**n - b * x + k}$ it is "
        f"$y = {slope}(x - {x}) {a * x**n - b * x + k:+d}$, and $\\int_0^{{{x}}} {f}(t)\\,dt = "
        f"{Fraction(a * x ** (n + 1), n + 1) - Fraction(b * x * x, 2) + k * x}$."
    )


def _system(draw: Draw) -> str:
    x, y = draw.number(-9, 15), draw.number(-9, 15)
    a, b, c, d = draw.number(1, 9), draw.number(2, 9), draw.number(2, 9), draw.number(1, 7)
    det = a * -d - b * c
    return (
        f"\\begin{{cases}} {a}x + {b}y = {a * x + b * y} \\\\ {c}x - {d}y = {c * x - d * y} \\end{{cases}}\n"
        f"Multiply the first line by {d}, the second by {b}, and add: {a * d + b * c}x = "
        f"{d * (a * x + b * y) + b * (c * x - d * y)}, so x = {x}. Put it back: "
        f"{b}y = {a * x + b * y} - {a * x} = {b * y} and y = {y}. "
        f"(The determinant is {det}, not zero: no other solution.)"
    )


def _euclid(draw: Draw) -> str:
    a, b = draw.number(200, 4000), draw.number(30, 900)
    lines, m, n = [], a, b
    while n:
        lines.append(f"{m} = {m // n} · {n} + {m % n}")
        m, n = n, m % n
    return f"gcd({a}, {b}):\n" + "\n".join(lines) + f"\nso gcd = {m}, and lcm = {a} · {b} / {m} = {a * b // gcd(a, b)}."


def _chance(draw: Draw) -> str:
    red, blue, taken = draw.number(3, 12), draw.number(2, 11), draw.number(2, 4)
    good, every = comb(red, taken) if red >= taken else 0, comb(red + blue, taken)
    share = Fraction(good, every)
    return (
        f"An urn holds {red} red and {blue} blue balls; {taken} are drawn without putting any back. "
        f"P(all red) = C({red},{taken}) / C({red + blue},{taken}) = {good}/{every} = {share} ≈ {float(share):.4f}. "
        f"At least one is blue with probability {1 - share} ≈ {100 * float(1 - share):.1f} %."
    )


def _triangle(draw: Draw) -> str:
    m = draw.number(2, 9)
    n, scale, unit = draw.number(1, m - 1), draw.number(1, 6), draw.deal("unit", UNITS)
    a, b, c = (scale * side for side in (m * m - n * n, 2 * m * n, m * m + n * n))
    return (
        f"A right triangle has legs {a} {unit} and {b} {unit}. Hypotenuse: √({a}² + {b}²) = √{c * c} = {c} {unit}. "
        f"Area: ½ · {a} · {b} = {a * b / 2:g} {unit}²; height on the hypotenuse: {a * b / c:.3f} {unit}; "
        f"inradius: ({a} + {b} − {c})/2 = {(a + b - c) / 2:g}."
    )


def _interest(draw: Draw) -> str:
    who, capital, rate = draw.deal("name", NAMES), draw.number(5, 90) * 100, draw.number(8, 65)
    years = draw.number(2, 5)
    lines, value = [], float(capital)
    for year in range(1, years + 1):
        value *= 1 + rate / 1000
        lines.append(f"  year {year}: {value:,.2f}")
    return f"{who} invests {capital:,} at {rate / 10} % a year, compounded:\n" + "\n".join(lines)


def _series(draw: Draw) -> str:
    a, d, n = draw.number(-9, 30), draw.number(2, 14), draw.number(8, 60)
    last = a + (n - 1) * d
    shown = ", ".join(str(a + i * d) for i in range(4))
    return (
        f"The sequence {shown}, … is arithmetic with difference {d}. Term {n} of it is {a} + {n - 1}·{d} = {last}, and "
        f"$S_{{{n}}} = \\frac{{{n}}}{{2}}({a} + {last}) = {n * (a + last) // 2}$."
    )


def _long_sum(draw: Draw) -> str:
    a, b = draw.number(120, 9800), draw.number(12, 980)
    return (
        f"{a} + {b} = {a + b}\n{a} - {b} = {a - b}\n{a} × {b} = {a * b:,}\n{a} ÷ {b} = {a // b} remainder {a % b}\n"
        f"{a} in binary is {a:b}, in hexadecimal {a:#x}; {b}² = {b * b}, √{a} ≈ {sqrt(a):.4f}"
    )


MAKERS = (
    _shopping,
    _quadratic,
    _derivative,
    _system,
    _euclid,
    _chance,
    _triangle,
    _interest,
    _series,
    _long_sum,
)
