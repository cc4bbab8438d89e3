"""Fixtures for the tests that drive the real thing: a lab started by the same command that users run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import docker
import pytest

from scripts import host
from scripts.host import EngineState
from scripts.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker.models.containers import Container

T = TypeVar("T")

# A shell that starts the tests in the background has them ignore SIGINT, and every child would inherit that: the tests
# that press Ctrl-C need processes that listen.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class LabProcess:
    """A lab of the tests' own: its settings, and the commands that a user would run on it."""

    environ: dict[str, str]
    workspace: Path
    state_dir: Path
    port: int
    name: str
    extra: dict[str, str] = field(default_factory=dict)

    def run(self, module: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m scripts.<module>` as the Makefile does."""
        return subprocess.run(
            [sys.executable, "-m", f"scripts.{module}", *arguments],
            cwd=ROOT,
            env={**self.environ, **self.extra, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=550,
        )

    def start(self, **settings: str) -> str:
        """Start the lab; return the printed URL."""
        done = self.run("start", "cpu", **settings)
        assert done.returncode == 0, f"start failed with {done.returncode}:\n{done.stderr}"
        return done.stdout.strip()

    @property
    def url(self) -> str:
        """The lab's address, without token."""
        return f"{'https' if {'TLS', 'TLS_CERT'} & self.extra.keys() else 'http'}://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The token on disk."""
        return (self.state_dir / "run/token").read_text().strip()

    @property
    def container(self) -> Container:
        """The lab's container, as the SDK sees it."""
        return engine_client().containers.get(self.name)

    def python(self, code: str, *, timeout: int = 120) -> str:
        """Run Python inside the container; return what it printed, fail when it failed."""
        command = ["timeout", str(timeout), "python", "-c", code]
        done: Any = self.container.exec_run(command, demux=True)
        out, err = ((part or b"").decode() for part in done.output)
        assert done.exit_code == 0, f"exit code {done.exit_code}:\n{out}{err}"
        return str(out.strip())

    def shell(self, line: str) -> str:
        """Run a shell line inside the container; return its output, whatever its exit code."""
        output = self.container.exec_run(["bash", "-c", line]).output
        assert isinstance(output, bytes)
        return output.decode()

    def remove(self) -> None:
        """Remove the container, if there is one."""
        with contextlib.suppress(docker.errors.NotFound):
            self.container.remove(force=True)


_client: docker.DockerClient | None = None


def engine_client() -> docker.DockerClient:
    """One SDK connection for all tests."""
    global _client  # noqa: PLW0603 - closed once, at the end of the session
    if _client is None:
        _client = docker.DockerClient(base_url="unix:///var/run/docker.sock", version="auto")
    return _client


def wait_until(look: Callable[[], T | None], *, seconds: float) -> T:
    """Look until something true is found; return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing was found within {seconds} s")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def skip_unless_ci(reason: str) -> None:
    """Skip on a laptop; in CI what is missing is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI=true")
    pytest.skip(reason=reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The running Docker engine."""
    if host.probe_engine().state is not EngineState.RUNNING:
        skip_unless_ci("no Docker engine answers")
    client = engine_client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def new_lab(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], LabProcess]]:
    """Make labs with folders, port and name of their own; all their containers are removed at the end."""
    assert engine
    made: list[LabProcess] = []

    def make() -> LabProcess:
        folder = tmp_path_factory.mktemp("lab")
        port, name = free_port(), f"pytorch-jupyter-test-{os.getpid()}-{len(made)}"
        settings = {"PORT": str(port), "BIND": "127.0.0.1", "CONTAINER": name, "WAIT_TIMEOUT": "60",
                    "WORKSPACE": str(folder / "workspace"), "STATE_DIR": str(folder / "state")}  # fmt: skip
        lab = LabProcess({**os.environ, **settings}, folder / "workspace", folder / "state", port, name)
        made.append(lab)
        return lab

    yield make
    for lab in made:
        lab.remove()
        shutil.rmtree(lab.state_dir.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """One running lab, shared by the tests that only look at it."""
    lab = new_lab()
    lab.start()
    return lab
