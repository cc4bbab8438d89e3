"""What stands around the notebooks: terminal, status bar, Git."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess


def test_a_terminal_runs_a_command(lab: LabProcess, visit: Visit) -> None:
    """A terminal opens from the launcher, in the workspace, and runs what is typed."""
    visit.open(f"{lab.url}/lab/workspaces/terminal?token={lab.token}")
    visit.page.locator(".jp-LauncherCard", has_text="Terminal").click()
    visit.page.locator(".jp-Terminal .xterm").click()
    # Its text is painted, not in the document: what the command does shows in the file browser.
    visit.page.keyboard.type("touch typed-$((6 * 7)).txt\n")
    expect(visit.page.locator(".jp-DirListing-itemName", has_text="typed-42.txt")).to_be_visible()


def test_the_status_bar_shows_the_memory(lab: LabProcess, visit: Visit) -> None:
    """The status bar tells how much memory the lab uses."""
    visit.open(f"{lab.url}/lab?token={lab.token}")
    expect(visit.page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"Mem:\s+[1-9][\d.]* [MG]B"))


def test_git_offers_a_repository_where_there_is_none(lab: LabProcess, visit: Visit) -> None:
    """The Git panel of a folder that is no repository says so; nothing fails and nothing asks."""
    # A layout of its own: the default one would go on showing Git in place of the file browser.
    visit.open(f"{lab.url}/lab/workspaces/git?token={lab.token}")
    visit.page.get_by_role("tab", name="Git", exact=True).click()
    expect(visit.page.get_by_text("You are not currently in a Git repository.")).to_be_visible()
    visit.page.wait_for_load_state("networkidle")
    got = visit.failures + visit.complaints + visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got {got}, expected no failed request, error or dialog"
