"""The page in a real browser, above an engine that does what it is told."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from app.api.application import create_app
from app.errors import WorkerUnavailable
from app.parameters import NearDuplicate
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.browser import Visit, visit
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.requests import MODEL
from tests.support.serving import serving

KEY = "0123456789abcdef"
PHONE = {"viewport": {"width": 360, "height": 760}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(previews="on", max_upload_bytes=100_000)


@pytest.fixture
def visitor(browser: Browser, url: str, engine: FakeEngine) -> Iterator[Visit]:
    engine.model = replace(MODEL, id="demo")
    with visit(browser, url) as visitor:
        yield visitor
        engine.gate.open()


def test_it_offers_what_the_service_does_with_the_checkpoints_defaults(visitor: Visit) -> None:
    page = visitor.open()
    for name, most, value in (
        ("n", "8", "4"),
        ("guidance_scale", "25", "3"),
        ("num_inference_steps", "100", "4"),
    ):
        slider = page.locator(f"#{name}")
        expect(slider).to_have_attribute("max", most)
        expect(slider).to_have_value(value)
    assert page.locator("#scheduler option").count() == len(MODEL.schedulers)
    assert page.locator("#size option").all_text_contents() == ["64 × 64", "96 × 64"]
    expect(page.locator("#notice")).to_contain_text("built-in model")
    assert page.locator(".sample").count() == 6


def test_of_another_model_it_offers_no_drawings(visitor: Visit, engine: FakeEngine) -> None:
    engine.model = replace(MODEL, id="someone/something")
    page = visitor.open()
    expect(page.locator("#model")).to_have_text("someone/something on cpu")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#samples")).to_be_hidden()


def test_before_the_model_is_there_it_says_what_is_going_on(
    visitor: Visit, engine: FakeEngine
) -> None:
    model, engine.model = engine.model, None
    engine.worker = replace(engine.worker, phase="starting", reason="loading", fraction=0.25)
    page = visitor.open(ready=False)
    expect(page.locator("#model")).to_have_text("Starting: loading (25 %)")
    expect(page.locator("#go")).to_be_disabled()
    engine.worker, engine.model = replace(engine.worker, phase="ready"), model
    expect(page.locator("#go")).to_be_enabled()


def test_the_queue_is_told_and_a_request_can_be_cancelled(
    visitor: Visit, engine: FakeEngine
) -> None:
    engine.gate.held = True
    page = visitor.open()
    page.locator(".sample").first.click()
    page.locator("#go").click()
    expect(page.locator(".status")).to_contain_text("2 requests are before it, starts in")
    page.get_by_role("button", name="Cancel").click()
    visitor.finish("cancelled")
    assert engine.gone.wait(60)
    expect(page.locator(".tile")).to_have_count(0)


def test_a_drawing_that_is_still_on_its_way_is_waited_for(visitor: Visit) -> None:
    page = visitor.open()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/page/samples/*", hold)
    with page.expect_request("**/page/samples/*"):
        page.locator(".sample").first.click()
    page.locator("#go").click()
    held[0].continue_()
    visitor.finish()
    expect(page.locator(".tile .picture")).to_have_count(4)


def test_pictures_that_were_stopped_or_are_near_copies_say_so(
    visitor: Visit, engine: FakeEngine
) -> None:
    engine.flagged = frozenset({1})
    engine.near = {2: NearDuplicate(0.93, 0.9, "00012/034")}
    page = visitor.open()
    page.locator(".sample").first.click()
    page.locator("#go").click()
    visitor.finish()
    expect(page.locator(".tile").nth(1)).to_contain_text("The safety checker stopped")
    expect(page.locator(".tile").nth(2)).to_contain_text("Close to a training picture")
    expect(page.locator(".tile .picture")).to_have_count(3)
    expect(page.locator(".badge")).to_have_count(1)


def test_an_error_is_told_in_the_services_words_and_another_try_may_go_well(
    visitor: Visit, engine: FakeEngine
) -> None:
    engine.error = WorkerUnavailable("the worker went away three times")
    page = visitor.open()
    page.locator(".sample").first.click()
    page.locator("#go").click()
    visitor.finish("failed")
    expect(page.get_by_role("alert")).to_contain_text(["the worker went away three times"])
    visitor.assert_accessible()
    engine.error = None
    page.get_by_role("button", name="Try again").click()
    visitor.finish()


def test_what_would_always_be_refused_is_not_offered_again(
    visitor: Visit, engine: FakeEngine
) -> None:
    engine.predicted = Span(1.0, 1e6)
    page = visitor.open()
    page.locator(".sample").first.click()
    page.locator("#go").click()
    visitor.finish("failed")
    expect(page.get_by_role("alert")).to_contain_text(["ask for fewer pictures or fewer steps"])
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_what_is_too_large_is_not_sent(visitor: Visit) -> None:
    page = visitor.open()
    visitor.drop(bytes(200_000))
    page.locator("#go").click()
    expect(page.locator("#complaint")).to_have_text("That is 0.2 MB; at most 0.1 MB are taken.")
    assert not any(one.endswith("/variations") for one in visitor.asked)


def test_it_works_by_keyboard_alone(visitor: Visit, engine: FakeEngine) -> None:
    page = visitor.open()

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            page.keyboard.press(key)
            if page.evaluate("(one) => document.activeElement.matches(one)", selector):
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to("#file")
    tab_to(".sample")
    page.keyboard.press("Enter")
    expect(page.locator("#announcer")).to_contain_text("Chosen")
    tab_to("#n")
    page.keyboard.press("ArrowLeft")
    tab_to("#go")
    page.keyboard.press("Enter")
    visitor.finish()
    assert engine.parameters[-1].n == 3
    tab_to(".open")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_contain_text("Variation 1")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("Variation 2")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.open')")
    assert "Done: 3 pictures" in visitor.said()


def test_in_the_large_view_the_keyboard_stays_where_it_is(visitor: Visit) -> None:
    page = visitor.open()
    page.locator(".sample").first.click()
    page.locator("#go").click()
    visitor.finish()
    page.locator(".open").first.click()
    forward = page.get_by_role("button", name="Next variation")
    forward.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_contain_text("Variation 2")
    expect(forward).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("Variation 3")
    expect(forward).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, url: str, engine: FakeEngine, scheme: str
) -> None:
    engine.model = replace(MODEL, id="demo")
    engine.flagged = frozenset({1})
    options = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with visit(browser, url, **options) as visitor:
        page = visitor.open()
        page.locator("summary").click()
        visitor.assert_accessible()
        page.locator(".sample").first.click()
        page.locator("#go").click()
        visitor.finish()
        visitor.assert_accessible()
        page.locator(".open").first.click()
        visitor.assert_accessible()


def test_it_fits_a_phone(browser: Browser, url: str) -> None:
    with visit(browser, url, **PHONE) as visitor:
        page = visitor.open()
        expect(page.get_by_text("Take a photo")).to_be_visible()
        visitor.drop(b"no picture", "a-file-with-quite-a-long-name-that-has-no-spaces-at-all.png")
        page.locator("#go").tap()
        visitor.finish("failed")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_page_of_the_document_asks_nothing_of_another_host(visitor: Visit) -> None:
    page = visitor.open("/docs", ready=False)
    page.locator("#operations-variations-create_variations_variations_post button").first.click()
    page.get_by_role("button", name="Try it out").click()
    expect(page.get_by_role("button", name="Execute")).to_be_visible()


def test_a_key_is_asked_for_and_kept_no_longer_than_the_tab(browser: Browser) -> None:
    settings = Settings(api_keys=(KEY,))  # type: ignore[arg-type]
    with (
        serving(create_app(settings, FakeEngine(), FakeDecoders())) as url,
        visit(browser, url) as visitor,
    ):
        page = visitor.open()
        visitor.drop(httpx.get(f"{url}/page/samples/star.png").content)
        page.locator("#go").click()
        expect(page.locator("#complaint")).to_have_text("An API key is needed.")
        page.get_by_label("API key").fill("no-key-has-such-letters-ключ")
        page.locator("#go").click()
        expect(page.locator("#complaint")).to_contain_text("letters, digits and signs of ASCII")
        page.get_by_label("API key").fill("another-key-that-is-wrong")
        page.locator("#go").click()
        visitor.finish("failed")
        expect(page.locator("#complaint")).to_contain_text("not one of those that are accepted")
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill(KEY)
        page.locator("#go").click()
        visitor.finish()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert page.evaluate("Object.values(sessionStorage)") == [KEY]
