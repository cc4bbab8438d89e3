"""Coming in by hand: the login form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess


def log_in(visit: Visit, url: str, token: str) -> None:
    """Open the lab without a token and fill in the form that it shows instead."""
    visit.page.goto(f"{url}/lab")
    visit.page.locator("#password_input").fill(token)
    visit.page.locator("#login_submit").click()


def test_the_token_opens_the_lab(lab: LabProcess, visit: Visit) -> None:
    """A visitor without the token in the URL comes in by typing it."""
    log_in(visit, lab.url, lab.token)
    visit.wait_until_usable()
    got = visit.page.url
    assert got == f"{lab.url}/lab", f"got {got}, expected {lab.url}/lab"


def test_a_wrong_token_is_refused(lab: LabProcess, visit: Visit) -> None:
    """A wrong token leads back to the form, which says so, and the lab stays closed."""
    log_in(visit, lab.url, "wrong")
    expect(visit.page.locator(".message.error")).to_have_text("Invalid credentials")
    visit.page.goto(f"{lab.url}/lab")
    expect(visit.page.locator("#password_input")).to_be_visible()
