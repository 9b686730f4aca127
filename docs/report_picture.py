"""Makes docs/report.png from a report: its similarity histogram, pairs at the threshold, and duplicates side by side.

    curate demo && python docs/report_picture.py demo-run/report-*/index.*.html

Needs Chromium and the development requirements.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, sync_playwright

CHROMIUM = "/usr/bin/chromium"
WIDTH, GAP = 1180, 24
STEP, TWINS = "mismatched", "near_image"
"""The steps of the demo's recipe that are shown: one with a threshold over clip_similarity, one of duplicates."""

# Leaves the first row of each list of pictures.
_TRIM = """section => {
    for (const list of section.querySelectorAll("ul.tiles, ul.twins")) {
        const top = item => item.getBoundingClientRect().top;
        const first = top(list.children[0]);
        [...list.children].filter(item => top(item) > first + 20).forEach(item => item.remove());
    }
}"""


def main(report: str) -> None:
    """Writes the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        # The report's own policy lets nothing change how it looks.
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, bypass_csp=True)
        page.goto(Path(report).resolve().as_uri())
        page.add_style_tag(content="nav { visibility: hidden }")
        histogram = page.locator("#similarity figure").first
        threshold, twins = (page.locator(f"#dropped section:has(> h3:text-is('{name}'))") for name in (STEP, TWINS))
        for section in (threshold, twins):
            section.evaluate(_TRIM)
        # The random sample of a step with a threshold is left out: the pairs on both sides of the threshold show more.
        threshold.locator("ul.tiles").first.evaluate("list => list.remove()")
        pictures = [_shot(element) for element in (histogram, threshold, twins)]
        browser.close()
    height = sum(picture.height + GAP for picture in pictures) + GAP
    sheet = Image.new("RGB", (max(picture.width for picture in pictures) + 2 * GAP, height), "#fefdfb")
    top = GAP
    for picture in pictures:
        sheet.paste(picture, (GAP, top))
        top += picture.height + GAP
    few_colours = sheet.convert("P", palette=Image.Palette.ADAPTIVE, colors=255)
    few_colours.save(Path(__file__).with_name("report.png"), optimize=True)


def _shot(element: Locator) -> Image.Image:
    return Image.open(io.BytesIO(element.screenshot())).convert("RGB")


if __name__ == "__main__":
    main(sys.argv[1])
