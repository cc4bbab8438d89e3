"""A tab left open while the lab restarts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import TIMEOUT
from tests.browser.test_work import write_notebook

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess


@pytest.fixture(scope="module")
def restarting_lab(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab whose restarts disturb no other test."""
    lab = new_lab()
    lab.start()
    return lab


def restart(lab: LabProcess, visit: Visit) -> None:
    """Restart the lab as its user does; a slow one makes JupyterLab say that it is reconnecting, which one closes."""
    notice = visit.page.locator(".jp-Dialog", has_text="Server Connection Error")
    visit.page.add_locator_handler(notice, lambda shown: shown.get_by_role("button", name="Close").click())
    done = lab.run("restart")
    assert done.returncode == 0, f"restart failed with {done.returncode}:\n{done.stderr}"


def test_an_open_tab_reconnects(restarting_lab: LabProcess, visit: Visit) -> None:
    """After a restart the file browser goes on by itself, without a question."""
    visit.open(f"{restarting_lab.url}/lab?token={restarting_lab.token}")
    restart(restarting_lab, visit)
    (restarting_lab.workspace / "after the restart.txt").write_text("hello\n")
    new = visit.page.locator(".jp-DirListing-itemName", has_text="after the restart.txt")
    # While the lab was away JupyterLab asked less and less often: its next look may be minutes off.
    expect(new).to_be_visible(timeout=5 * TIMEOUT)
    got = visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"


def test_nobody_logs_in_again(restarting_lab: LabProcess, visit: Visit) -> None:
    """The session's cookie outlives a restart: the lab opens without the token."""
    visit.open(f"{restarting_lab.url}/lab?token={restarting_lab.token}")
    restart(restarting_lab, visit)
    visit.page.goto(f"{restarting_lab.url}/lab")
    got = visit.page.url
    assert got == f"{restarting_lab.url}/lab", f"got {got}, expected {restarting_lab.url}/lab"
    visit.wait_until_usable()


def test_an_open_notebook_runs_again(restarting_lab: LabProcess, visit: Visit) -> None:
    """A notebook left open lost its kernel with the restart; running a cell starts another, without a question."""
    write_notebook(restarting_lab.workspace / "uuid.ipynb", "import uuid; uuid.uuid4().hex")
    visit.open(f"{restarting_lab.url}/lab/tree/uuid.ipynb?token={restarting_lab.token}")
    status = visit.page.locator("#jp-main-statusbar")
    cell = visit.page.locator(".jp-CodeCell .cm-content")
    output = visit.page.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")
    expect(status).to_contain_text("Python 3 (ipykernel) | Idle")
    cell.click()
    visit.page.keyboard.press("Control+Enter")
    before = output.inner_text()
    restart(restarting_lab, visit)
    # Which of the two depends on who notices first; before that, while it says Connecting, JupyterLab drops a run.
    expect(status).to_contain_text(re.compile(r"No Kernel \| Unknown|\| Disconnected"))
    cell.click()
    visit.page.keyboard.press("Control+Enter")
    expect(output).not_to_have_text(before)
    got = visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"
