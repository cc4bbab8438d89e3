"""The two things compared: our lab, started by make, and a plain image, started by docker run."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker

from scripts import health
from scripts.builder import Build, clients, run_build
from scripts.console import say
from scripts.content import content_hash
from scripts.engine import Engine
from scripts.image import DOCKER, tag_of
from scripts.settings import ROOT, Settings
from scripts.spec import LABEL
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN_TAG = "pytorch-jupyter-bench:plain"
REQUIRED = ("torch", "torchvision", "jupyterlab", "numpy", "matplotlib")


@dataclass(frozen=True)
class Bench:
    """Both contenders' names, ports and folders; all of them are the bench's own."""

    name: str
    folder: Path
    port: int
    plain_port: int
    plain_token: str

    @property
    def workspace(self) -> Path:
        """The workspace, the same for both."""
        return self.folder / "workspace"

    @property
    def token(self) -> str:
        """Our lab's token."""
        return (self.folder / "state/run/token").read_text().strip()

    def make(self, target: str, *, checkout: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run a make target as a user would, on the bench's own lab."""
        settings = {"PORT": str(self.port), "BIND": "127.0.0.1", "CONTAINER": self.name,
                    "WORKSPACE": str(self.workspace), "STATE_DIR": str(self.folder / "state")}  # fmt: skip
        environ = {**os.environ, **settings}
        done = subprocess.run(["make", target], cwd=checkout, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    def run_plain(self) -> None:
        """Start the baseline as its users do."""
        command = ["run", "--detach", f"--name={self.name}-plain", f"--publish=127.0.0.1:{self.plain_port}:8888",
                   f"--volume={self.workspace}:/work", PLAIN_TAG, "jupyter", "lab", "--ip=0.0.0.0", "--allow-root",
                   "--no-browser", "--ServerApp.root_dir=/work",
                   f"--IdentityProvider.token={self.plain_token}"]  # fmt: skip
        subprocess.run([clients()[0], *command], check=True, capture_output=True)

    def remove(self) -> None:
        """Remove both containers."""
        engine = Engine()
        for name in (self.name, f"{self.name}-plain"):
            if found := engine.find(name):
                engine.remove(found.id)


@contextmanager
def prepared() -> Iterator[Bench]:
    """Build both images if needed; remove containers and folders whatever happens."""
    with tempfile.TemporaryDirectory(prefix="pytorch-jupyter-bench-") as folder:
        name = f"pytorch-jupyter-bench-{os.getpid()}"
        bench = Bench(name, Path(folder), free_port(), free_port(), secrets.token_hex(32))
        try:
            say("our lab: first start, builds the image if needed …")
            bench.make("run-cpu")
            bench.remove()
            ensure_plain_image()
            yield bench
        finally:
            bench.remove()
            shutil.rmtree(bench.workspace, ignore_errors=True)


def ensure_plain_image() -> None:
    """Build the baseline on the same base, with the same versions and the same source of torch."""
    engine = Engine()
    ours = engine.image(tag_of("cpu"))
    assert ours, "our image is built first"
    torch = ours.labels[f"{LABEL}.torch"]
    dockerfile = Path(__file__).parent / "plain.Dockerfile"
    packages = " ".join(f"{name}=={_locked(name, torch)}" for name in REQUIRED)
    content = content_hash(DOCKER / "requirements", dockerfile.read_text(), packages, ours.labels[f"{LABEL}.base"])
    found = engine.image(PLAIN_TAG)
    if found and found.labels.get("content") == content:
        return
    say("the plain image is built once …")
    arguments = {"BASE": ours.labels[f"{LABEL}.base"], "PACKAGES": packages, "TORCH": torch}
    build = Build(
        dockerfile=dockerfile, context=DOCKER, tag=PLAIN_TAG, arguments=arguments, labels={"content": content}
    )
    run_build(build, Settings.load(os.environ))


def _locked(name: str, torch_lock: str) -> str:
    locks = [(DOCKER / "requirements" / lock).read_text() for lock in ("server.txt", f"torch-{torch_lock}.txt")]
    found = re.findall(rf"^{name}==([^\s;\\]+)", "\n".join(locks), re.MULTILINE)
    return str(found[-1])


def time_until_status(start: Callable[[], object], port: int, token: Callable[[], str]) -> float:
    """Seconds from the start command until /api/status answers with the token."""
    begin = time.monotonic()
    start()
    while time.monotonic() < begin + 120:
        try:
            health.Server("127.0.0.1", port).get_json("/api/status", token=token())
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.02)
        else:
            return time.monotonic() - begin
    raise AssertionError("no answer within 120 s")


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def client() -> docker.DockerClient:
    """The SDK, for what only measuring needs."""
    return docker.DockerClient(base_url="unix:///var/run/docker.sock", version="auto")
