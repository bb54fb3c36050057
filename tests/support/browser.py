"""A real Chromium that reaches nothing but this machine, and a page of the service in it."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # which a container has no rights for
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WAIT_MS = 60_000
"""For what takes a moment on a quiet machine."""

DROP = """([data, type, name]) => {
    const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"])
        document.body.dispatchEvent(
            new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
}"""
REMEMBER = """() => {
    window.said = [];
    const look = () => {
        for (const status of document.querySelectorAll(".run .status, #announcer"))
            if (status.textContent && window.said.at(-1) !== status.textContent)
                window.said.push(status.textContent);
        if (document.querySelector(".run .preview")) window.previewed = true;
    };
    new MutationObserver(look).observe(
        document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine, without a window."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise RuntimeError(f"none of {', '.join(NAMES)} is installed: see CONTRIBUTING.md")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """The page of a service as somebody uses it; what it asked for and complained of."""

    page: Page
    url: str
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path: str = "/", *, ready: bool = True) -> Page:
        """Go there, and wait until pictures can be made."""
        self.page.goto(self.url + path)
        if ready:
            self.page.wait_for_selector("#go:enabled")
            self.page.evaluate(REMEMBER)
        return self.page

    def drop(self, file: bytes, name: str = "photo.png", media_type: str = "image/png") -> None:
        """Drop a file onto the page."""
        self.page.evaluate(DROP, [base64.b64encode(file).decode(), media_type, name])

    def slide(self, name: str, value: float) -> None:
        """Set a slider."""
        self.page.locator(f"#{name}").fill(str(value))

    def seed(self, seed: int) -> None:
        """Take this seed, so that every run makes the same pictures."""
        more = self.page.locator("summary")
        more.click()
        self.page.get_by_label("Seed").fill(str(seed))
        more.click()

    def finish(self, state: str = "done") -> None:
        """Wait until the newest request has ended in this state."""
        self.page.wait_for_selector(f".run:first-of-type[data-state={state}]")

    def said(self) -> list[str]:
        """All that the states of requests and the live region have said, in order."""
        said: list[str] = self.page.evaluate("window.said")
        return said

    def assert_accessible(self) -> None:
        """axe finds nothing serious in the page as it is now."""
        found = Axe().run(self.page).response["violations"]
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], [(one["id"], [node["html"] for node in one["nodes"]]) for one in bad]


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A visit with a memory of its own; at its end nothing may have been asked of another host."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        visit = Visit(page, url)
        page.on("request", lambda request: visit.asked.append(_address(request)))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                visit.errors.append(message.text) if "Security Policy" in message.text else None
            ),
        )
        yield visit
        assert visit.asked
        assert [one for one in visit.asked if not one.startswith((url, "blob:", "data:"))] == []
        assert visit.errors == []


def _address(request: Request) -> str:
    return request.url[:200]
