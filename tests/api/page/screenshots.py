"""Makes the pictures of the page in ``docs/pictures``: ``python -m tests.api.page.screenshots``.

The real service with the built-in model, in a real browser: on a desktop and on a phone, in light
and in dark.
"""

import io
import re
import signal
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.support.browser import Visit, chromium, visit
from tests.support.processes import service_process

FOLDER = Path(__file__).parents[3] / "docs" / "pictures"
DESKTOP = {"viewport": {"width": 1160, "height": 820}}
PHONE = {
    "viewport": {"width": 360, "height": 760},
    "device_scale_factor": 1.5,
    "is_mobile": True,
    "has_touch": True,
}
COLOURS = 256


def main() -> None:
    """Make all of them again."""
    with (
        service_process(model="demo", device="cpu", previews="on") as service,
        chromium() as browser,
    ):
        service.wait_for("ready:")
        take_all(browser, service.url)
        service.signal(signal.SIGINT)
        service.assert_clean_end()


def take_all(browser: Browser, url: str) -> None:
    """Every picture, of a service at this address."""
    for name, options in (
        ("desktop-light", DESKTOP),
        ("desktop-dark", DESKTOP),
        ("phone-light", PHONE),
        ("phone-dark", PHONE),
    ):
        colours = {"color_scheme": name.partition("-")[2], "reduced_motion": "reduce"}
        with visit(browser, url, **options, **colours) as visitor:
            visitor.open()
            if options is PHONE:
                take(visitor, f"page-{name}-start")
            make_some(visitor)
            take(visitor, f"page-{name}")
            if name == "desktop-dark":
                visitor.page.locator(".open").nth(1).click()
                take(visitor, "page-compare")


def make_some(visitor: Visit) -> None:
    """Variations of a drawing, and others on their way."""
    page = visitor.page
    visitor.seed(0)
    page.get_by_role("button", name="three lime hearts").click()
    page.locator("#go").click()
    visitor.finish()
    visitor.slide("num_inference_steps", 100)
    page.get_by_role("button", name="two cyan stars").click()
    page.locator("#go").click()
    expect(page.locator(".status").first).to_contain_text(re.compile(r"Step [6-9]\d of"))


def take(visitor: Visit, name: str) -> None:
    """One picture of what is to be seen, in as few colours as it needs to be small."""
    page = visitor.page
    page.mouse.move(0, 0)
    if page.locator(".run").count():
        page.locator(".run").first.scroll_into_view_if_needed()
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    colours = shot.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=2)
    small = shot.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
