"""Who may come in, and where the token may be seen."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
import websocket

from tests.conftest import wait_until
from tests.image.client import api, kernel

if TYPE_CHECKING:
    from tests.conftest import LabProcess

WRONG = {"none": {}, "wrong": {"Authorization": "token " + "0" * 64}, "empty": {"Authorization": "token"}}
CLOSED = ["/api/status", "/api/contents", "/api/kernels", "/api/terminals", "/api/me", "/lab", "/tree", "/files/x",
          "/git/settings", "/api/metrics/v1"]  # fmt: skip


def get(lab: LabProcess, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Fetch without following redirects."""
    return httpx.get(lab.url + path, headers=headers or {}, trust_env=False, timeout=30)


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("kind", WRONG)
def test_without_the_token_every_door_is_closed(lab: LabProcess, path: str, kind: str) -> None:
    """REST answers 403, pages lead to the login form; nothing answers 200."""
    response = get(lab, path, WRONG[kind])
    at_login = response.status_code == 302 and "/login" in response.headers["location"]
    assert response.status_code in {401, 403} or at_login, f"{path} answered {response.status_code}"


def test_ten_thousand_guesses_open_nothing(lab: LabProcess) -> None:
    """None is admitted, whoever has the token goes on, and the log stays within its bounds."""
    with httpx.Client(base_url=lab.url, trust_env=False, timeout=30) as guesser:
        guesses = (f"{number:064x}" for number in range(10_000))
        got = {guesser.get("/api/status", headers={"Authorization": f"token {guess}"}).status_code for guess in guesses}
    assert got == {403}, f"got {got}"
    good = get(lab, "/api/status", {"Authorization": f"token {lab.token}"}).status_code
    assert good == 200, f"got {good}"
    written = len(lab.container.logs())
    assert written < 30 << 20, f"the log has {written} bytes"


def test_guesses_wait_and_nobody_else_does(lab: LabProcess) -> None:
    """However many guess at once, 200 a second are answered; who has the token does not stand in their queue."""

    def guess(number: int) -> float:
        client.get("/api/status", headers={"Authorization": f"token {number:064x}"})
        return time.monotonic()

    with httpx.Client(base_url=lab.url, trust_env=False, timeout=30) as client, ThreadPoolExecutor(100) as guessers:
        begin = time.monotonic()
        guesses = [guessers.submit(guess, number) for number in range(400)]
        wait_until(lambda: any(each.done() for each in guesses), seconds=30)
        before = sum(each.done() for each in guesses)
        good = get(lab, "/api/status", {"Authorization": f"token {lab.token}"}).status_code
        meanwhile = sum(each.done() for each in guesses) - before
    assert good == 200, f"got {good}"
    assert meanwhile < 90, f"{meanwhile} guesses were answered before the token was admitted: it stood in their queue"
    took = max(each.result() for each in guesses) - begin
    assert took >= 399 / 200, f"400 guesses were answered within {took:.2f} s"


def test_the_login_form_guesses_no_faster(lab: LabProcess) -> None:
    """A wrong token in the form waits as one in the header does."""

    def guess(client: httpx.Client) -> int:
        data = {"password": "0" * 64, "_xsrf": client.cookies["_xsrf"]}
        return client.post("/login", data=data).status_code

    with httpx.Client(base_url=lab.url, trust_env=False, timeout=30) as client, ThreadPoolExecutor(50) as guessers:
        client.get("/login")
        begin = time.monotonic()
        got = set(guessers.map(guess, [client] * 200))
        took = time.monotonic() - begin
    assert got == {401}, f"got {got}"
    assert took >= 199 / 200, f"200 guesses were answered within {took:.2f} s"


@pytest.mark.parametrize("offered", ["é", "\N{SNOWMAN}" * 64, "0" * 63 + "\x00"])
def test_a_token_of_strange_characters_is_a_wrong_one(lab: LabProcess, offered: str) -> None:
    """No character makes the comparison fail."""
    got = get(lab, f"/api/status?token={quote(offered)}").status_code
    assert got == 403, f"got {got}"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_websocket_without_the_token_is_refused(lab: LabProcess, token: str) -> None:
    """A kernel's channel opens to nobody else."""
    with api(lab) as client:
        identity = client.post("/api/kernels", json={"name": "python3"}).json()["id"]
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            websocket.create_connection(
                f"{lab.url.replace('http', 'ws')}/api/kernels/{identity}/channels?token={token}"
            )
        client.delete(f"/api/kernels/{identity}")
    assert caught.value.status_code == 403, f"got {caught.value.status_code}"


def test_the_token_in_the_header_opens(lab: LabProcess) -> None:
    """`Authorization: token …` is accepted."""
    got = get(lab, "/api/status", {"Authorization": f"token {lab.token}"}).status_code
    assert got == 200, f"got {got}"


def test_the_printed_url_opens(lab: LabProcess) -> None:
    """The URL with the token is accepted."""
    got = get(lab, f"/lab?token={lab.token}").status_code
    assert got == 200, f"got {got}"


def test_the_login_form_opens(lab: LabProcess) -> None:
    """A person who types the token into the form gets a session."""
    with httpx.Client(base_url=lab.url, trust_env=False, timeout=30) as client:
        client.get("/login")
        data = {"password": lab.token, "_xsrf": client.cookies["_xsrf"]}
        login = client.post("/login?next=%2Flab", data=data)
        after = client.get("/api/status")
    assert (login.status_code, after.status_code) == (302, 200), f"got {login.status_code}, {after.status_code}"


def test_the_version_alone_is_public(lab: LabProcess) -> None:
    """/api is the health probe: open, and tells the version only."""
    response = get(lab, "/api")
    assert response.status_code == 200, f"got {response.status_code}"
    assert list(response.json()) == ["version"], f"got {response.json()}"


def test_another_sites_page_cannot_use_the_session(lab: LabProcess) -> None:
    """A browser session gives no other origin's page permission to read or to write."""
    origin = {"Origin": "http://evil.example"}
    with httpx.Client(base_url=lab.url, trust_env=False, timeout=30) as browser:
        browser.get(f"/lab?token={lab.token}")
        read = browser.get("/api/status", headers=origin).headers.get("access-control-allow-origin")
        write = browser.post("/api/kernels", headers=origin, json={"name": "python3"}).status_code
    assert read is None, f"got {read}"
    assert write in {403, 404}, f"got {write}"


def test_the_token_is_not_in_inspect(lab: LabProcess) -> None:
    """`docker inspect` shows everything about the container but the token."""
    assert lab.token not in json.dumps(lab.container.attrs), "the token is in docker inspect"


def test_the_token_is_in_no_process(lab: LabProcess) -> None:
    """Neither command lines nor environments hold it, a kernel's included."""
    with kernel(lab) as one:
        got = one.run("import os; print(os.environ)") + lab.shell("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ")
    assert lab.token not in got, "the token is in a process's command line or environment"


def test_the_token_is_not_logged(lab: LabProcess) -> None:
    """The log names the address without the token, after logins by URL too."""
    get(lab, f"/lab?token={lab.token}")
    get(lab, f"/api/contents/missing?token={lab.token}")
    assert lab.token not in lab.container.logs().decode(), "the token is in the log"


def test_the_token_is_not_in_the_workspace(lab: LabProcess) -> None:
    """No file of the workspace holds it (jpserver-*.json does, and lies elsewhere)."""
    got = lab.shell(f"grep -rl {lab.token} /workspace")
    assert got == "", f"found in {got}"


def test_the_log_of_a_normal_start_is_clean(lab: LabProcess) -> None:
    """No error, warning or traceback from the start until the server answers."""
    started, answered, _ = lab.container.logs().decode().partition("Use Control-C")
    got = [line for line in started.splitlines() if re.search(r"\[[WEC] |warn|error|traceback", line, re.IGNORECASE)]
    assert answered, f"the log does not tell the start: {started}"
    assert got == [], f"got {got}"


def test_nobody_can_set_a_password(lab: LabProcess) -> None:
    """The login page offers the token only: a password set there would outlive a rotated token."""
    page = get(lab, "/login").text
    assert 'name="password"' in page, f"no login form in {page}"
    assert 'name="new_password"' not in page, "the login page offers to set a password"
