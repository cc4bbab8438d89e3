"""Whether the VM may stop itself, and the call that does it."""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from provision import idle

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_000_000.0
HOUR = 3600.0
QUIET: dict[str, Any] = {
    "connections": 0, "busy": 0, "last_activity": NOW - 2 * HOUR, "last_seen": None, "booted": NOW - 24 * HOUR,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "minutes", "expected"),
    [
        ({}, 60, (True, "idle for 120 of 60 minutes")),
        ({}, 180, (False, "idle for 120 of 180 minutes")),
        ({}, 0, (False, "IDLE_STOP=0: never")),
        ({"busy": 1}, 60, (False, "in use: 1 busy kernels, 0 connections")),
        ({"connections": 2}, 60, (False, "in use: 0 busy kernels, 2 connections")),
        ({"last_seen": NOW - 600}, 60, (False, "idle for 10 of 60 minutes")),
        ({"last_activity": None, "booted": NOW - 65 * 60}, 60, (False, "idle for 55 of 60 minutes")),
        ({"booted": NOW - 60}, 60, (False, "idle for 0 of 60 minutes")),
    ],
    ids=["idle", "not-yet", "off", "busy", "connected", "seen-lately", "after-boot", "just-booted"],
)
def test_the_decision(change: dict[str, Any], minutes: int, expected: tuple[bool, str]) -> None:
    """Only a lab without busy kernel, connection and recent use lets the VM go; the reason is a sentence."""
    got = idle.decide(idle.Activity(**{**QUIET, **change}), now=NOW, idle_stop=minutes)
    assert got == expected, f"got {got}, expected {expected}"


def test_no_answer_proves_nothing_idle() -> None:
    """A lab that does not answer may be at work: the VM goes on."""
    assert idle.decide(None, now=NOW, idle_stop=60) == (False, "the lab does not answer")


def test_the_servers_answers_are_read() -> None:
    """The latest of all activities counts; busy kernels and connections are summed."""
    kernels = [
        {"execution_state": "busy", "connections": 1, "last_activity": "2026-01-01T00:00:10.500000Z"},
        {"execution_state": "idle", "connections": 0, "last_activity": "2026-01-01T00:00:20Z"},
    ]
    got = idle.read_activity({"last_activity": "2026-01-01T00:00:00Z"}, kernels, seen=None, booted=0)
    assert (got.busy, got.connections, got.last_activity) == (1, 1, 1767225620.0), f"got {got}"


class Azure(http.server.BaseHTTPRequestHandler):
    """The metadata service and the management API, on loopback."""

    asked: list[tuple[str, str, str | None]]
    refuses = False
    resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"

    def answer(self) -> None:
        """Tell the VM's id, a token, or accept the request."""
        self.asked.append((self.command, self.path, self.headers["Authorization"] or self.headers["Metadata"]))
        answers: dict[str, Any] = {
            "/metadata/instance": {"resourceId": self.resource},
            "/metadata/identity": {"access_token": "t"},
        }
        body = next((each for start, each in answers.items() if self.path.startswith(start)), None)
        self.send_response(403 if self.refuses else 200 if body else 202)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode() if body else b"")

    do_GET = do_POST = answer  # noqa: N815 - the base class's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def azure() -> Iterator[tuple[str, type[Azure]]]:
    """Its address and what it was asked."""
    handler = type("Fresh", (Azure,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def test_deallocation_is_asked_for_with_the_machines_identity(azure: tuple[str, type[Azure]]) -> None:
    """Metadata gives id and token, each asked with its header; Azure gets one POST that deallocates this VM."""
    url, handler = azure
    idle.deallocate(url, url)
    got = [(method, path.partition("?")[0], header) for method, path, header in handler.asked]
    assert got == [
        ("GET", "/metadata/instance/compute", "true"),
        ("GET", "/metadata/identity/oauth2/token", "true"),
        ("POST", f"{Azure.resource}/deallocate", "Bearer t"),
    ], f"got {got}"


def test_a_refusal_is_an_error_with_a_hint(
    azure: tuple[str, type[Azure]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the role the journal gets a line and the command that helps, no traceback."""
    url, handler = azure
    handler.refuses = True
    for key, value in {
        "IDLE_METADATA": url,
        "IDLE_MANAGEMENT": url,
        "IDLE_STOP": "60",
        "STATE_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(idle, "look", lambda *_: idle.Activity(**{**QUIET, "last_activity": 0, "booted": 0}))
    with pytest.raises(SystemExit) as ended:
        idle.main()
    assert "this VM could not stop itself: HTTP Error 403" in str(ended.value), f"got {ended.value}"
    assert "hint: make vm-stop" in str(ended.value), f"got {ended.value}"
