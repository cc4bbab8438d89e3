"""Waiting for a server to answer: by asking it, because an engine's first health check may come late."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.05
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


def reachable(bind: str) -> str:
    """The address at which this machine itself reaches a server that listens on `bind`."""
    return WILDCARDS.get(bind, bind)


def get_json(host: str, port: int, path: str, *, token: str = "", timeout: float = 5) -> Any:
    """Fetch a JSON answer directly, whatever proxy the environment names.

    Raises:
        OSError, http.client.HTTPException, ValueError: no answer, or not a good one.

    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"token {token}"} if token else {})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ValueError(f"HTTP {response.status} for {path}")
        return json.loads(response.read())
    finally:
        connection.close()


def answers(host: str, port: int) -> bool:
    """Whether a Jupyter server answers there (/api is open and tells only its version)."""
    try:
        return "version" in get_json(host, port, "/api")
    except (OSError, http.client.HTTPException, ValueError):
        return False


def wait_until_answers(host: str, port: int, *, timeout: float, alive: Callable[[], bool]) -> bool:
    """Poll until the server answers; False when it is no longer alive or `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    next_look = time.monotonic() + 1
    while time.monotonic() < deadline:
        if answers(host, port):
            return True
        if time.monotonic() > next_look:
            if not alive():
                return False
            next_look = time.monotonic() + 1
        time.sleep(POLL_SECONDS)
    return False
