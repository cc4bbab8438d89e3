"""Every door of the running server, extensions included, tried without a valid token."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
import websocket
from hypothesis import Phase, find, settings, strategies

from scripts.engine import Engine
from scripts.image import tag_of
from tests.conftest import skip_unless_ci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import LabProcess

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The same application as the one that runs, in a process of its own: what it registers, in Tornado's words.
ENUMERATE = """
import json
from jupyterlab.labapp import LabApp
from tornado.websocket import WebSocketHandler
def walk(router):
    for rule in router.rules:
        if hasattr(rule.target, "rules"):
            yield from walk(rule.target)
        else:
            yield rule.matcher.regex.pattern, rule.target.__qualname__, issubclass(rule.target, WebSocketHandler)
app = LabApp.initialize_server(argv=["--ServerApp.log_level=50"])
print(json.dumps(list(walk(app.web_app.default_router))))
"""
# Reviewed: these may answer anyone. Nothing of the user's, nothing about the machine.
OPEN = {
    "APIVersionHandler": "the version, for the health check",
    "LoginFormHandler": "the page that asks for the token",
    "LogoutHandler": "clears the caller's own cookie",
    "PublicStaticFileHandler": "robots.txt and the icon",
    "FileFindHandler": "JupyterLab's own scripts and styles, as published on PyPI",
    "TrailingSlashHandler": "leads to the same address without its slash",
    "RedirectWithParams": "leads to /lab, which asks for the token",
    "Template404": "says that there is no such page",
    "NotFoundHandler": "says that there is no such page",
    "NotebooksRedirectHandler": "leads to /api/contents, which refuses",
}
# JupyterLab's list of licences fails at writing its refusal: nobody gets anything, but the caller waits.
SILENT = "LicensesHandler"


@pytest.fixture(scope="module", params=["cpu", "cuda13"])
def house(request: pytest.FixtureRequest, new_lab: Callable[[], LabProcess]) -> Iterator[LabProcess]:
    """A lab of each image: the CUDA images have extensions of their own, which need no GPU to open a door."""
    image = tag_of(request.param)
    if not Engine().image(image):
        skip_unless_ci(f"{image} is not built: make build, make build-gpu CUDA=13")
    one = new_lab()
    one.start(IMAGE=image)
    yield one
    one.remove()


@pytest.fixture(scope="module")
def rotated(house: LabProcess) -> str:
    """The token that was valid before the one of now."""
    old = house.token
    done = house.run("token_rotate")
    assert done.returncode == 0, done.stderr
    return old


@pytest.fixture(scope="module")
def doors(house: LabProcess) -> list[tuple[str, str, bool]]:
    """A path, the handler, whether it is a websocket: for every handler."""
    done: Any = house.container.exec_run(["python", "-c", ENUMERATE], environment={"LAB_PORT": "8899"}, demux=True)
    found = json.loads(done.output[0].decode().splitlines()[-1])
    assert len(found) > 90, f"got {len(found)} handlers"
    return [(example(pattern), handler, is_socket) for pattern, handler, is_socket in found]


def example(pattern: str) -> str:
    """A path that a pattern admits."""
    strategy = strategies.from_regex(pattern, fullmatch=True, alphabet=strategies.characters(max_codepoint=126))
    first = settings(database=None, phases=[Phase.generate])  # the first one tried is the simplest; no search
    path = find(strategy, lambda text: bool(re.fullmatch(pattern, text)), settings=first)
    return quote(path, safe="/:") if path.startswith("/") else f"/{quote(path)}"


def wrong_tokens(token: str, rotated: str) -> dict[str, dict[str, str]]:
    """Headers that must not open anything."""
    other_case = token.upper() if token.upper() != token else token[::-1]
    wrong = {"rotated": rotated, "wrong": "0" * len(token), "empty": "", "truncated": token[:-1],
             "oversized": token + "0" * 4000, "another case": other_case}  # fmt: skip
    headers = {name: {"Authorization": f"token {value}".strip()} for name, value in wrong.items()}
    hostile = {"Origin": "https://evil.example", "Host": "evil.example", "Referer": "https://evil.example/"}
    return {"no token": {}, "hostile origin": hostile, **headers}


def is_closed(response: httpx.Response) -> bool:
    """Whether a door stayed shut: refused, not there, sent to the login page, or a preflight that tells nothing."""
    to_login = response.status_code in {301, 302} and "/login" in response.headers.get("location", "")
    preflight = response.request.method == "OPTIONS" and not response.content
    return response.status_code in {401, 403, 404, 405} or to_login or preflight


def knock(client: httpx.Client, method: str, path: str) -> str:
    """What a door does without a valid token: closed, silent, or the status with which it answers."""
    client.cookies.clear()
    try:
        response = client.request(method, path)
    except httpx.ReadTimeout:
        return "silent"
    return "closed" if is_closed(response) else str(response.status_code)


@pytest.mark.parametrize(
    "kind", ["no token", "hostile origin", "rotated", "wrong", "empty", "truncated", "oversized", "another case"]
)
def test_no_door_opens(house: LabProcess, rotated: str, doors: list[tuple[str, str, bool]], kind: str) -> None:
    """Every handler, with every method, refuses whoever has no valid token; only the reviewed few may answer."""
    headers = wrong_tokens(house.token, rotated)[kind]
    closed = [(path, handler) for path, handler, _ in doors if handler not in OPEN]
    with httpx.Client(base_url=house.url, headers=headers, timeout=10, trust_env=False) as client:
        opened = [
            f"{method} {path} ({handler}): {told}"
            for path, handler in closed
            for method in METHODS
            if handler != SILENT and (told := knock(client, method, path)) != "closed"
        ]
        assert knock(client, "GET", "/lab/api/licenses/") in {"closed", "silent"}, "the licences are told"
    assert opened == [], "\n".join(opened)


@pytest.mark.parametrize("query", ["", "?token=", "?token=0", "?token=%00", "?token=ROTATED"])
def test_no_websocket_opens(house: LabProcess, rotated: str, doors: list[tuple[str, str, bool]], query: str) -> None:
    """No websocket, kernels', terminals' and extensions', is opened without a valid token."""
    opened = []
    query = query.replace("ROTATED", rotated)
    for path, handler, is_socket in doors:
        if is_socket:
            try:
                websocket.create_connection(f"ws{house.url[4:]}{path}{query}", timeout=10).close()
                opened.append(f"{path} ({handler})")
            except websocket.WebSocketBadStatusException as error:
                if error.status_code not in {401, 403}:
                    opened.append(f"{path} ({handler}): {error.status_code}")
            except websocket.WebSocketException as error:
                if "/login?" not in str(error):
                    opened.append(f"{path} ({handler}): {error}")
    assert opened == [], "\n".join(opened)


@pytest.fixture
def visitor(lab: LabProcess) -> Iterator[httpx.Client]:
    """Somebody whose browser holds a valid session's cookie."""
    with httpx.Client(base_url=lab.url, timeout=30, trust_env=False) as client:
        client.get("/lab", params={"token": lab.token})
        yield client


def test_another_site_cannot_open_a_websocket(visitor: httpx.Client, lab: LabProcess) -> None:
    """A page on another site cannot talk to a kernel through the visitor's session."""
    kernel = httpx.post(f"{lab.url}/api/kernels", headers={"Authorization": f"token {lab.token}"}, timeout=30).json()
    cookie = "; ".join(f"{each.name}={each.value}" for each in visitor.cookies.jar)
    address = f"ws{lab.url[4:]}/api/kernels/{kernel['id']}/channels"
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(address, cookie=cookie, origin="https://evil.example", timeout=10)
    assert caught.value.status_code == 403, f"got {caught.value.status_code}"
    websocket.create_connection(address, cookie=cookie, origin=lab.url, timeout=10).close()
