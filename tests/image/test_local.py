"""`make run-local`: the lab without a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from scripts.settings import ROOT
from tests.conftest import free_port
from tests.image.client import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.image.client import Server


class LocalLab:
    """A server started by run-local, with what the client needs to reach it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        settings = {"PORT": str(self.port), "WORKSPACE": str(folder / "w"), "STATE_DIR": str(folder / "s")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.local"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.printed = self.process.stdout.readline().strip()

    @property
    def token(self) -> str:
        """The token on disk."""
        return (self.folder / "s/run/token").read_text().strip()

    def end(self, signal_number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(signal_number)
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLab]:
    """A local lab; its environment is installed anew, from the image's locks."""
    lab = LocalLab(tmp_path_factory.mktemp("local"))
    yield lab
    if lab.process.poll() is None:
        lab.end(signal.SIGTERM)
    shutil.rmtree(lab.folder)  # gigabytes, which the tests after this one may need


def test_it_prints_the_url_that_opens(local: LocalLab) -> None:
    """The printed URL answers with the token and refuses without."""
    assert local.printed == f"http://localhost:{local.port}/lab?token={local.token}", f"got {local.printed!r}"
    opened = httpx.get(f"{local.url}/lab?token={local.token}", trust_env=False, timeout=60).status_code
    closed = httpx.get(f"{local.url}/api/status", trust_env=False, timeout=60).status_code
    assert (opened, closed) == (200, 403), f"got {opened}, {closed}"


def test_a_kernel_runs_torch_from_the_same_lock(local: Server) -> None:
    """The kernel's torch has the locked version."""
    with kernel(local) as one:
        got = one.run("import torch; print(torch.__version__.partition('+')[0])").strip()
    locked = (ROOT / "docker/requirements/torch-cpu.txt").read_text()
    assert f"torch=={got}+cpu" in locked, f"got {got}"


def test_the_samples_are_there(local: LocalLab) -> None:
    """The workspace is seeded as the container's is."""
    got = [path.name for path in (local.folder / "w").glob("*.ipynb")]
    expected = [path.name for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(got) == sorted(expected), f"got {got}, expected {expected}"


def test_ctrl_c_ends_the_server(local: LocalLab) -> None:
    """After SIGINT nothing listens on the port and the exit code is 0."""
    code = local.end(signal.SIGINT)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{local.url}/api", trust_env=False)
    assert code == 0, f"got {code}"
