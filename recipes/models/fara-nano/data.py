"""Screenshots with something to click: a drawn page, its elements, and the words that name each of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from prose import tool_call

SIDE = 224  # pixels; 8 x 8 merged tokens of 28, 2 x 2 attention windows
BAR = 18  # the title bar's height
RAIL = 10  # the scroll bar's width, at the right edge

Box = tuple[int, int, int, int]  # x0, y0, x1, y1; the last two are outside

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (37, 99, 235),
    "yellow": (250, 204, 21),
    "orange": (249, 115, 22),
    "purple": (126, 34, 206),
    "pink": (244, 114, 182),
    "black": (24, 24, 27),
}
PAGES = ((255, 255, 255), (248, 250, 252), (241, 245, 249), (255, 251, 235), (240, 253, 244), (245, 243, 255))
BARS = ((203, 213, 225), (214, 211, 209), (191, 219, 254), (187, 247, 208), (221, 214, 254))

Painter = Callable[[ImageDraw.ImageDraw, Box, tuple[int, int, int]], None]


@dataclass(frozen=True)
class Element:
    """Something to click: what it is called and where it is."""

    colour: str
    kind: str
    box: Box

    @property
    def centre(self) -> tuple[int, int]:
        """The pixel in the middle."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) // 2, (y0 + y1) // 2


@dataclass(frozen=True)
class Page:
    """A screenshot and everything on it that can be named."""

    image: Image.Image
    elements: tuple[Element, ...]


def _button(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=9, fill=fill)
    middle = (y0 + y1) // 2
    draw.rectangle((x0 + 14, middle - 2, x1 - 15, middle + 1), fill=(255, 255, 255))  # where a label would be


def _box(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=(255, 255, 255), outline=fill, width=7)


def _circle(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    draw.ellipse((x0, y0, x1 - 1, y1 - 1), fill=fill)


def _triangle(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    draw.polygon([((x0 + x1) // 2, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], fill=fill)


def _cross(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    third = (x1 - x0) // 3
    draw.rectangle((x0 + third, y0, x1 - 1 - third, y1 - 1), fill=fill)
    draw.rectangle((x0, y0 + third, x1 - 1, y1 - 1 - third), fill=fill)


# kind -> painter, widths, height of width (0: square)
KINDS: dict[str, tuple[Painter, range, range]] = {
    "button": (_button, range(52, 85), range(28, 41)),
    "box": (_box, range(34, 57), range(0)),
    "circle": (_circle, range(32, 49), range(0)),
    "triangle": (_triangle, range(34, 51), range(0)),
    "cross": (_cross, range(33, 49), range(0)),
}


def _place(rng: Random, kind: str, taken: list[Box]) -> Box | None:
    """A box clear of all the others, or None where forty tries found no room."""
    _, widths, heights = KINDS[kind]
    width = rng.choice(widths)
    height = rng.choice(heights) if heights else width
    for _ in range(40):
        x0, y0 = rng.randint(4, SIDE - RAIL - 4 - width), rng.randint(BAR + 4, SIDE - 4 - height)
        if all(x0 + width + 6 <= t[0] or t[2] + 6 <= x0 or y0 + height + 6 <= t[1] or t[3] + 6 <= y0 for t in taken):
            return x0, y0, x0 + width, y0 + height
    return None


def _furniture(draw: ImageDraw.ImageDraw, rng: Random, taken: list[Box]) -> None:
    """A title bar with three dots, a scroll bar, and grey lines where text would be."""
    bar = rng.choice(BARS)
    draw.rectangle((0, 0, SIDE - 1, BAR - 1), fill=bar)
    for x in (6, 18, 30):
        draw.ellipse((x, 5, x + 7, 12), fill=(120, 113, 108))
    draw.rectangle((48, 4, 200, 13), fill=(255, 255, 255))
    draw.rectangle((SIDE - RAIL, BAR, SIDE - 1, SIDE - 1), fill=(226, 232, 240))
    thumb = rng.randint(BAR + 2, SIDE - 62)
    draw.rectangle((SIDE - RAIL + 2, thumb, SIDE - 3, thumb + 60), fill=(148, 163, 184))
    for _ in range(rng.randint(0, 6)):
        x0, y0 = rng.randint(4, 140), rng.randint(BAR + 4, SIDE - 10)
        x1, y1 = x0 + rng.randint(20, 60), y0 + 4
        if all(x1 + 3 <= t[0] or t[2] + 3 <= x0 or y1 + 3 <= t[1] or t[3] + 3 <= y0 for t in taken):
            draw.rectangle((x0, y0, x1, y1), fill=(190, 195, 203))


def page(rng: Random, most: int = 5) -> Page:
    """A page of up to `most` elements, no two of the same colour and kind."""
    image = Image.new("RGB", (SIDE, SIDE), rng.choice(PAGES))
    draw = ImageDraw.Draw(image)
    elements: list[Element] = []
    for _ in range(rng.randint(min(2, most), most)):
        colour, kind = rng.choice(tuple(COLOURS)), rng.choice(tuple(KINDS))
        if any((colour, kind) == (e.colour, e.kind) for e in elements):
            continue
        if box := _place(rng, kind, [e.box for e in elements]):
            elements.append(Element(colour, kind, box))
    _furniture(draw, rng, [e.box for e in elements])
    for element in elements:
        KINDS[element.kind][0](draw, element.box, COLOURS[element.colour])
    return Page(image, tuple(elements))


def instruction(rng: Random, element: Element) -> str:
    """Words that ask for this element."""
    verb = rng.choice(("Click", "Press", "Select", "Tap", "Click on", "Please click", "Choose"))
    noun = f"{element.kind} icon" if element.kind not in ("button", "box") and rng.random() < 0.3 else element.kind
    return f"{verb} the {element.colour} {noun}."


def answer(element: Element) -> str:
    """The tool call that clicks the middle of this element."""
    return tool_call(action="left_click", coordinate=list(element.centre))


def clicked(reply: str) -> tuple[int, int] | None:
    """The coordinate a reply clicks, or None where it is not a well-formed click."""
    try:
        call = json.loads(reply.split("<tool_call>")[1].split("</tool_call>", maxsplit=1)[0])
        x, y = call["arguments"]["coordinate"]
        return (int(x), int(y)) if call["arguments"]["action"] == "left_click" else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def inside(point: tuple[int, int] | None, box: Box) -> bool:
    """Whether the click hits the box."""
    return point is not None and box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]
