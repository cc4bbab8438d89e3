"""A real Chromium, and a record of everything that a page does in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright

from scripts.settings import ROOT
from tests.conftest import LabProcess, skip_unless_ci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Without its own calls home, which would not be the lab's; without the sandbox, which root cannot have.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
TIMEOUT = 60_000  # milliseconds; a lab on a loaded two-core machine needs a few seconds
ARTIFACTS = ROOT / "tests/artifacts"


@dataclass
class Visit:
    """One visitor with cookies of its own, and what the lab's pages did meanwhile."""

    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen from the first request on, in every tab."""
        context = self.page.context
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("response", self._note_failure)
        context.on("console", self._note_complaint)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))

    def open(self, url: str) -> None:
        """Open a page of the lab, and wait until it is usable and has asked for all it needs."""
        self.page.goto(url)
        self.wait_until_usable()

    def wait_until_usable(self) -> None:
        """Wait for the filled file browser, and for the network to fall silent."""
        self.page.locator(".jp-DirListing-item").first.wait_for()
        self.page.wait_for_load_state("networkidle")

    def _note_failure(self, response: Response) -> None:
        if response.status >= 400:
            self.failures.append(f"{response.status} {response.url}")

    def _note_complaint(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text.partition("\n")[0])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium, headless."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if not executable:
        skip_unless_ci("no Chromium: sudo apt-get install chromium")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def new_visit(browser: Browser) -> Iterator[Callable[[], Visit]]:
    """Make visitors; their tabs are closed at the end."""
    made: list[Visit] = []

    def make() -> Visit:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(TIMEOUT)
        made.append(Visit(context.new_page()))
        return made[-1]

    yield make
    for visit in made:
        visit.page.context.close()


@pytest.fixture
def visit(new_visit: Callable[[], Visit]) -> Iterator[Visit]:
    """A visitor who has never been here, and leaves after the test."""
    visit = new_visit()
    yield visit
    visit.page.context.close()


@pytest.fixture(scope="session")
def first_visit(lab: LabProcess, new_visit: Callable[[], Visit]) -> Visit:
    """The first page that a person sees after opening the printed URL; the tests only look at it."""
    (lab.workspace / "on the first page.txt").write_text("hello\n")
    visit = new_visit()
    visit.open(lab.run("url").stdout.strip())
    visit.page.screenshot(path=ARTIFACTS / "first_page.png")
    return visit
