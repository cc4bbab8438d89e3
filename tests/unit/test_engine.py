"""The SDK's failures, in our words."""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING

import pytest

from scripts.console import LabError
from scripts.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Engine(http.server.BaseHTTPRequestHandler):
    """An engine that tells its version and fails at everything else."""

    def do_GET(self) -> None:
        known = self.path.endswith("/version")
        body = {"Version": "20.10.24", "ApiVersion": "1.41", "Arch": "amd64"} if known else {"message": "disk\non fire"}
        self.send_response(200 if known else 500)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """A stand-in engine on loopback that DOCKER_HOST points to."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Engine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("failing")
def test_the_engines_own_words_come_through_on_one_line() -> None:
    """An error that the engine explains is passed on with what was tried."""
    with pytest.raises(LabError) as caught:
        Engine().facts()
    assert caught.value.message == "the engine could not describe itself: disk on fire", caught.value.message


def test_an_engine_that_stops_in_the_middle_is_told(failing: http.server.HTTPServer) -> None:
    """Once connected, a lost engine is one line with the command that brings it back."""
    engine = Engine()
    failing.shutdown()
    failing.server_close()
    with pytest.raises(LabError) as caught:
        engine.find("lab")
    assert caught.value.message.startswith("the Docker engine does not answer"), caught.value.message
    assert "make run-cpu" in caught.value.hint, caught.value.hint
