"""The page as people meet it: a real browser, the real service, the built-in model."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.support.browser import Visit, visit
from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import eventually, value

PHOTO = Path(__file__).parents[3] / "docs" / "pictures" / "coffee.jpg"
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    with service_process(model="demo", device="cpu", previews="on", max_rows="16") as service:
        service.wait_for("ready:")
        yield service
        service.signal(signal.SIGINT)
        service.assert_clean_end()


@pytest.fixture
def visitor(browser: Browser, running: ServiceProcess) -> Iterator[Visit]:
    with visit(browser, running.url) as visitor:
        visitor.open()
        visitor.slide("n", 2)
        visitor.slide("num_inference_steps", 30)
        visitor.seed(7)  # of whose pictures none is stopped
        yield visitor


def test_a_dropped_photo_is_varied_before_ones_eyes_and_once_more(
    visitor: Visit, tmp_path: Path
) -> None:
    page = visitor.page
    visitor.drop(PHOTO.read_bytes(), "coffee.jpg", "image/jpeg")
    page.locator("#go").click()
    visitor.finish()
    said = " | ".join(visitor.said())
    for words in ("Next in the queue, starts in", "Step ", " of 30, ready in", "2 of 2 pictures"):
        assert words in said
    assert page.evaluate("window.previewed")
    assert page.locator("#strength").input_value() == "1"  # from noise alone
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with Image.open(file) as image:
        assert (image.format, image.size) == ("PNG", (96, 96))
    page.get_by_role("button", name="Vary this one again").first.click()
    expect(page.locator(".run")).to_have_count(2)
    visitor.finish()
    first, second = page.locator(".run").all()
    expect(first.locator("h3")).to_contain_text(f"of variation {file.stem.split('-')[1]}")
    assert first.locator(".picture").count() == second.locator(".picture").count() == 2


def test_two_pictures_are_mixed_where_the_service_mixes(
    visitor: Visit, running: ServiceProcess
) -> None:
    page = visitor.page
    page.get_by_role("button", name="two cyan stars").click()
    if "image" not in httpx.get(running.url).json()["limits"]:
        expect(page.get_by_role("button", name="Add to a mix")).to_have_count(0)
        return
    page.get_by_role("button", name="Add to a mix").click()
    page.get_by_role("button", name="an orange ring").click()
    page.get_by_role("button", name="Add to a mix").click()
    page.get_by_role("button", name="Mix", exact=True).click()
    visitor.finish()
    expect(page.locator("h3").last).to_contain_text("two cyan stars with an orange ring")
    expect(page.locator(".picture")).to_have_count(2)


def test_a_cancelled_request_ends_in_the_worker(visitor: Visit, running: ServiceProcess) -> None:
    page = visitor.page
    visitor.slide("n", 8)
    visitor.slide("num_inference_steps", 100)
    page.locator(".sample").first.click()
    with httpx.Client(base_url=running.url) as client:
        cancelled = {"outcome": "cancelled"}
        before = value(client, "variations_pictures_total", cancelled)
        page.locator("#go").click()
        expect(page.locator(".status")).to_contain_text("Step ")
        page.get_by_role("button", name="Cancel").click()
        visitor.finish("cancelled")
        eventually(lambda: value(client, "variations_pictures_total", cancelled) == before + 8)


def test_a_file_that_is_no_picture_gets_the_services_own_words(visitor: Visit) -> None:
    page = visitor.page
    visitor.drop(b"a letter", "letter.txt", "text/plain")
    page.locator("#go").click()
    visitor.finish("failed")
    expect(page.locator(".status")).to_have_text("Not a readable picture")
    expect(page.locator(".problem")).to_contain_text("send PNG, JPEG, WebP")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


@pytest.mark.slow
def test_with_a_key_the_built_in_model_makes_its_pictures(browser: Browser) -> None:
    with service_process(model="demo", device="cpu", api_keys=KEY) as service:
        service.wait_for("ready:")
        with visit(browser, service.url, color_scheme="dark") as visitor:
            page = visitor.open()
            page.get_by_label("API key").fill(KEY)
            page.locator(".sample").first.click()
            page.locator("#go").click()
            visitor.finish()
            expect(page.locator(".picture")).to_have_count(4)
            visitor.assert_accessible()
