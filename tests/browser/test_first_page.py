"""What a person sees, and what the browser does, on opening the printed URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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


def test_it_contacts_no_other_host(lab: LabProcess, first_visit: Visit) -> None:
    """Every request and websocket goes to the lab itself."""
    home = urlsplit(lab.url).netloc
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
