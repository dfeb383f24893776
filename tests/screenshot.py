"""By hand: the picture of a report that README shows.

python -m tests.screenshot out/demo/report.html docs/report.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT, SCALE = 1280, 1480, 1.5


def main(report: Path, picture: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.validate.test_html import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
        page.goto(report.resolve().as_uri())
        shot = page.screenshot()
        browser.close()
    picture.parent.mkdir(exist_ok=True)
    small = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
