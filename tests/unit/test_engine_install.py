"""What is said and done when no engine answers: one message for each case, and nothing done unasked."""

from __future__ import annotations

import http.server
import os
import socketserver
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts import engine_install, host
from scripts.console import LabError
from scripts.host import EngineProbe, EngineState

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET = "unix:///var/run/docker.sock"


class _Engine(http.server.BaseHTTPRequestHandler):
    """Answers /version as an engine does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"Version": "20.10.24"}')

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def engine_socket() -> Iterator[Path]:
    """A unix socket that answers as an engine, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield from _answering_socket(Path(folder) / "docker.sock")


def _answering_socket(path: Path) -> Iterator[Path]:
    with socketserver.UnixStreamServer(str(path), _Engine) as server:
        server.get_request = lambda: (server.socket.accept()[0], ("local", 0))  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_a_running_engine_is_recognised(engine_socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answering socket is a running engine with its version."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine_socket}")
    got = host.probe_engine()
    assert got == EngineProbe(EngineState.RUNNING, f"unix://{engine_socket}", "20.10.24"), f"got {got}"


def test_a_missing_socket_is_a_stopped_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at the address: not running."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    got = host.probe_engine().state
    assert got is EngineState.STOPPED, f"got {got}"


def test_no_engine_program_means_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a socket nor dockerd anywhere: not installed."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(host, "_connection", lambda _address: host._UnixConnection("/nowhere"))
    monkeypatch.setattr(host, "find_program", lambda _name: None)
    got = host.probe_engine().state
    assert got is EngineState.MISSING, f"got {got}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop to a user without permission")
def test_a_closed_socket_is_told_apart(engine_socket: Path) -> None:
    """A user outside the socket's group gets 'no permission', not 'not running'."""
    engine_socket.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        os.environ["DOCKER_HOST"] = f"unix://{engine_socket}"
        os._exit(0 if host.probe_engine().state is EngineState.DENIED else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the state was not DENIED"


@pytest.mark.parametrize(
    ("state", "no_install", "root", "debian", "message", "hint"),
    [
        (EngineState.MISSING, True, True, True, "NO_INSTALL=1", "apt-get install docker.io"),
        (EngineState.STOPPED, True, True, True, "NO_INSTALL=1", "systemctl start docker"),
        (EngineState.MISSING, False, False, True, "without root or sudo", "apt-get install docker.io"),
        (EngineState.STOPPED, False, False, True, "without root or sudo", "systemctl start docker"),
        (EngineState.MISSING, False, True, False, "not Debian or Ubuntu", "docs.docker.com"),
    ],
)
def test_where_nothing_may_be_done_it_says_why(  # noqa: PLR0913, PLR0917
    monkeypatch: pytest.MonkeyPatch,
    state: EngineState,
    no_install: bool,  # noqa: FBT001
    root: bool,  # noqa: FBT001
    debian: bool,  # noqa: FBT001
    message: str,
    hint: str,
) -> None:
    """Each reason has its own words, and the hint always ends with the way that needs no engine."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(host, "probe_engine", lambda: EngineProbe(state, SOCKET))
    monkeypatch.setattr(host, "can_become_root", lambda: root)
    monkeypatch.setattr(host, "is_debian", lambda: debian)
    with pytest.raises(LabError) as caught:
        engine_install.ensure_engine(no_install=no_install)
    assert message in caught.value.message, caught.value.message
    assert hint in caught.value.hint, caught.value.hint
    assert "make run-local" in caught.value.hint, caught.value.hint


def test_a_no_on_the_terminal_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it asks first; 'no' ends with the command to run by hand."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(host, "probe_engine", lambda: EngineProbe(EngineState.MISSING, SOCKET))
    monkeypatch.setattr(host, "can_become_root", lambda: True)
    monkeypatch.setattr(host, "is_debian", lambda: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(engine_install, "ask", lambda _question: False)
    monkeypatch.setattr(host, "apt_install", lambda _packages, **_: pytest.fail("installed although the answer was no"))
    with pytest.raises(LabError, match="not installed"):
        engine_install.ensure_engine(no_install=False)


def test_no_permission_names_user_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user outside the group docker is told the command that admits him."""
    monkeypatch.setattr(host, "probe_engine", lambda: EngineProbe(EngineState.DENIED, SOCKET))
    monkeypatch.setattr(engine_install, "_is_member", lambda _user, _group: False)
    with pytest.raises(LabError, match="no permission on the engine's socket") as caught:
        engine_install.ensure_engine(no_install=False)
    assert "usermod -aG docker" in caught.value.hint, caught.value.hint


def test_an_unsupported_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST=ssh://… is refused in one line with another way."""
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@there")
    with pytest.raises(LabError, match="DOCKER_HOST='ssh://me@there' is not supported"):
        host.probe_engine()
