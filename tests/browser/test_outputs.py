"""A tab that is closed while its notebook works, and another one that is opened later."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.test_work import write_notebook
from tests.conftest import wait_until
from tests.image import client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Route, WebSocketRoute

    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess

PART = 10
LINES = "".join(f"line {number}\n" for number in range(3 * PART))
# Prints each third when the test says so: by a file, which no browser is needed for.
PRINT = f"""
import pathlib, time
for part in range(3):
    while not pathlib.Path(f"NAME.{{part}}").exists(): time.sleep(0.1)
    for number in range({PART} * part, {PART} * (part + 1)): print("line", number, flush=True)
"""


def say_go(lab: LabProcess, name: str, part: int) -> None:
    """Let the cell print its next third."""
    (lab.workspace / f"{name}.{part}").touch()


def open_notebook(lab: LabProcess, visit: Visit, name: str) -> None:
    """Open a notebook in a layout of its own, so that no other test's stands beside it."""
    visit.open(f"{lab.url}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}")
    expect(visit.page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| (Idle|Busy)"))


def run_cell(lab: LabProcess, visit: Visit, name: str) -> Locator:
    """Open a notebook and run its cell; return the output when it shows the first third."""
    open_notebook(lab, visit, name)
    visit.page.locator(".jp-CodeCell .cm-content").click()
    visit.page.keyboard.press("Control+Enter")
    say_go(lab, name, 0)
    output = visit.page.locator(".jp-OutputArea-output")
    expect(output).to_contain_text("line 9")
    return output


def saved_text(file: Path) -> str:
    """What the first cell printed, as the notebook's file has it."""
    outputs = json.loads(file.read_text())["cells"][0]["outputs"]
    return "".join("".join(each["text"]) for each in outputs)


def test_a_closed_tab_loses_no_output(lab: LabProcess, new_visit: Callable[[], Visit]) -> None:
    """A new tab shows what was printed before it was opened, goes on live, and saves all of it without a question."""
    file = lab.workspace / "closed.ipynb"
    write_notebook(file, PRINT.replace("NAME", "closed"))
    first = new_visit()
    run_cell(lab, first, "closed")
    first.page.close(run_before_unload=False)
    say_go(lab, "closed", 1)
    second = new_visit()
    open_notebook(lab, second, "closed")
    output = second.page.locator(".jp-OutputArea-output")
    expect(output).to_contain_text("line 19")
    expect(second.page.locator(".jp-InputPrompt").first).to_have_text("[*]:")
    expect(second.page.locator("#jp-main-statusbar")).to_contain_text("| Busy")
    say_go(lab, "closed", 2)
    expect(output).to_have_text(LINES.rstrip())
    expect(second.page.locator(".jp-InputPrompt").first).to_have_text("[1]:")
    expect(second.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    wait_until(lambda: saved_text(file) == LINES, seconds=30)
    second.page.keyboard.press("Control+s")
    got = second.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"
    assert second.complaints == [], f"the page complained: {second.complaints}"


def test_two_tabs_show_the_same(lab: LabProcess, new_visit: Callable[[], Visit]) -> None:
    """A second tab follows what the first one's cell prints."""
    write_notebook(lab.workspace / "twice.ipynb", PRINT.replace("NAME", "twice"))
    first, second = new_visit(), new_visit()
    run_cell(lab, first, "twice")
    open_notebook(lab, second, "twice")
    expect(second.page.locator(".jp-OutputArea-output")).to_contain_text("line 9")
    for part in (1, 2):
        say_go(lab, "twice", part)
    for each in (first, second):
        expect(each.page.locator(".jp-OutputArea-output")).to_have_text(LINES.rstrip())


def test_a_connection_that_breaks_loses_no_output(lab: LabProcess, visit: Visit) -> None:
    """The network is gone before anybody notices, and comes back: the open tab shows and saves all of it."""
    file = lab.workspace / "broken.ipynb"
    write_notebook(file, PRINT.replace("NAME", "broken"))
    network = Network()
    visit.page.route_web_socket(re.compile("/channels"), network.connect)
    output = run_cell(lab, visit, "broken")
    network.gone = True
    say_go(lab, "broken", 1)
    visit.page.wait_for_timeout(2000)
    network.come_back()
    say_go(lab, "broken", 2)
    expect(output).to_have_text(LINES.rstrip())
    expect(visit.page.locator(".jp-InputPrompt").first).to_have_text("[1]:")
    visit.page.keyboard.press("Control+s")
    wait_until(lambda: saved_text(file) == LINES, seconds=30)
    got = visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"


def test_what_arrives_after_it_was_shown_is_not_shown_again(lab: LabProcess, visit: Visit) -> None:
    """The server's answer overtakes messages that it contains already: each line is shown and saved once."""
    file = lab.workspace / "overtaken.ipynb"
    write_notebook(file, PRINT.replace("NAME", "overtaken"))
    network = Network()
    visit.page.route_web_socket(re.compile("/channels"), network.connect)
    output = run_cell(lab, visit, "overtaken")

    def answer_late(route: Route) -> None:
        """Let the server answer only when it has everything, of which this page has had nothing."""
        say_go(lab, "overtaken", 2)
        with client.api(lab) as api:
            path = route.request.url.removeprefix(lab.url).partition("?")[0]
            wait_until(lambda: "line 29" in api.get(path).text, seconds=30)
        route.continue_()

    network.gone = True
    say_go(lab, "overtaken", 1)
    visit.page.wait_for_timeout(1000)
    network.is_slow = True
    visit.page.route("**/lab-outputs/**", answer_late)
    network.come_back()
    expect(output).to_have_text(LINES.rstrip())
    network.deliver()
    expect(visit.page.locator(".jp-InputPrompt").first).to_have_text("[1]:")
    expect(visit.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    visit.page.wait_for_timeout(1000)
    got = output.inner_text()
    assert got == LINES, f"got {got!r}, expected every line once"
    visit.page.keyboard.press("Control+s")
    wait_until(lambda: saved_text(file) == LINES, seconds=30)


class Network:
    """What lies between a page and its kernel.

    While it is gone, what is sent arrives nowhere; while it is slow, what the kernel sends waits for `deliver`.
    """

    def __init__(self) -> None:
        self.gone = False
        self.is_slow = False
        self.open: list[WebSocketRoute] = []
        self._waiting: list[tuple[WebSocketRoute, str | bytes]] = []

    def connect(self, page: WebSocketRoute) -> None:
        """Pass messages on in both directions."""
        server = page.connect_to_server()
        self.open += [page, server]
        page.on_message(lambda message: None if self.gone else server.send(message))
        server.on_message(lambda message: self._pass_on(page, message))

    def _pass_on(self, page: WebSocketRoute, message: str | bytes) -> None:
        if self.is_slow:
            self._waiting.append((page, message))
        elif not self.gone:
            page.send(message)

    def deliver(self) -> None:
        """Let what waits arrive in its order, and hold nothing any more."""
        waiting, self._waiting, self.is_slow = self._waiting, [], False
        for page, message in waiting:
            page.send(message)

    def come_back(self) -> None:
        """Let both ends notice that their connection had broken; new ones work."""
        broken, self.open, self.gone = self.open, [], False
        for end in broken:
            end.close()
