"""What a person sees, and what the browser does, on opening the printed URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess


def test_it_asks_no_question(first_visit: Visit) -> None:
    """No dialog stands between a person and the lab."""
    got = first_visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"


def test_it_shows_no_notification(first_visit: Visit) -> None:
    """No toast about news, updates or anything else."""
    got = first_visit.page.locator(".Toastify__toast").all_inner_texts()
    assert got == [], f"got the notifications {got}, expected none"


def test_the_bell_is_silent(first_visit: Visit) -> None:
    """No notification waits behind the bell in the status bar either."""
    expect(first_visit.page.locator(".jp-Notification-Status-Text")).to_have_text("0")


def test_it_asks_for_no_news(first_visit: Visit) -> None:
    """The page asks the lab for no news, update or rebuild: each answer would be a question or a warning."""
    unwanted = {"/lab/api/news", "/lab/api/update", "/lab/api/build"}
    got = {urlsplit(url).path for url in first_visit.requests} & unwanted
    assert got == set(), f"got requests for {sorted(got)}, expected none"


def test_no_panel_asks_for_consent(first_visit: Visit) -> None:
    """The sidebar has no extension manager: it could install nothing here, and warns before it says so."""
    got = first_visit.page.locator(".jp-SideBar [role=tab]").evaluate_all("tabs => tabs.map(tab => tab.title)")
    assert got, "got no sidebar at all"
    assert "Extension Manager" not in got, f"got the panels {got}, expected no Extension Manager"


def test_the_token_leaves_the_address_bar(first_visit: Visit) -> None:
    """Once in, the address holds no token that a bookmark or a screenshot could give away."""
    got = urlsplit(first_visit.page.url)
    assert (got.path, got.query) == ("/lab", ""), f"got {got.path}?{got.query}, expected /lab"


def test_it_contacts_no_other_host(lab: LabProcess, first_visit: Visit) -> None:
    """Every request and websocket goes to the lab itself."""
    home = urlsplit(lab.run("url").stdout.strip()).netloc
    got = {urlsplit(url).netloc for url in first_visit.requests if urlsplit(url).scheme not in {"data", "blob"}}
    assert got == {home}, f"got requests to {sorted(got)}, expected only {home}"


def test_every_request_is_answered(first_visit: Visit) -> None:
    """Nothing on the page asks for what the server does not have or refuses."""
    assert first_visit.failures == [], f"got {first_visit.failures}, expected no status above 399"


def test_the_console_is_clean(first_visit: Visit) -> None:
    """No script fails and none reports an error."""
    assert first_visit.complaints == [], f"got {first_visit.complaints}, expected none"


def test_the_file_browser_lists_the_workspace(lab: LabProcess, first_visit: Visit) -> None:
    """The file browser shows what is in the workspace folder, hidden files excepted."""
    got = set(first_visit.page.locator(".jp-DirListing-itemName").all_inner_texts())
    expected = {path.name for path in lab.workspace.iterdir() if not path.name.startswith(".")}
    assert got == expected, f"got {sorted(got)}, expected {sorted(expected)}"
