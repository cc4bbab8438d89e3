"""A machine with a GPU that is not there: its PCI bus, its driver, its nvidia-smi, and its engine's nvidia runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.engine import Engine
from scripts.settings import ROOT
from tests.conftest import LabProcess, skip_unless_ci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

CONFIGURATION = Path("/etc/docker/daemon.json")
SMI = """#!/bin/sh
case "$(cat /standin/mode 2>/dev/null || cat "$(dirname "$0")/mode")" in lost)
    echo "Failed to initialize NVML: Unknown Error"; exit 255 ;;
esac
case "$*" in
    -L) echo "GPU 0: Stand-in T4 (UUID: GPU-00000000-0000-0000-0000-000000000000)" ;;
    *compute_cap*) echo "0, GPU-00000000-0000-0000-0000-000000000000, Stand-in T4, 7.5, [N/A]" ;;
    *memory.used*) echo "Stand-in T4, 3, 15360, 7" ;;
esac
"""
# As much of torch as the check inside the container asks for, with one GPU.
TORCH = """
class Generator:
    def manual_seed(self, seed): return self
class Matrix:
    def __matmul__(self, other): return self
    def __sub__(self, other): return self
    def to(self, device): return self
    def item(self): return 0.0
    cpu = abs = max = lambda self: self
def randn(*shape, generator): return Matrix()
class cuda:
    init = staticmethod(lambda: None)
    device_count = staticmethod(lambda: 1)
    class get_device_properties:
        def __init__(self, index): self.name, self.total_memory = "Stand-in T4", 15 << 30
"""


@dataclass
class Machine:
    """The stand-in: its folder, and the verbs on it."""

    root: Path

    def heal(self) -> None:
        """A driver of today, and everything answers."""
        self.set_driver("580.65.06")
        self.set_mode("ok")

    def set_mode(self, mode: str) -> None:
        """What the runtime and nvidia-smi do from now on."""
        (self.root / "mode").write_text(mode)

    def set_driver(self, version: str) -> None:
        """The driver that is loaded."""
        path = self.root / "proc/driver/nvidia/version"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jan  9 2025\n")

    def run(self, lab: LabProcess, *verb: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A verb of the lab on this machine."""
        environ = {**lab.environ, **settings, "PATH": f"{self.root}:{lab.environ['PATH']}"}
        command = [sys.executable, "-m", "tests.gpu.standin_host", str(self.root), *verb]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=550)

    @property
    def called(self) -> dict[str, Any]:
        """The process that the runtime was last asked to make, in OCI's words."""
        return dict(json.loads((self.root / "called.json").read_text()))


@pytest.fixture(scope="session")
def machine(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A stand-in GPU machine; the engine's configuration is as before afterwards."""
    if not os.environ.get("CI") or os.getuid():
        pytest.skip(reason="registers a runtime in /etc/docker/daemon.json: only with CI=true, as root")
    if "nvidia" in engine.info()["Runtimes"]:
        skip_unless_ci("this engine has an nvidia runtime already")
    root = tmp_path_factory.mktemp("gpu-machine")
    root.chmod(0o755)
    root.parent.chmod(0o755)
    _furnish(root)
    before = CONFIGURATION.read_text() if CONFIGURATION.exists() else None
    configuration: dict[str, Any] = {"runtimes": {}, **json.loads(before or "{}")}
    standin = {"nvidia": {"path": str(root / "runtime")}}
    CONFIGURATION.parent.mkdir(exist_ok=True)
    _configure(engine, {**configuration, "runtimes": {**configuration["runtimes"], **standin}}, has=True)
    yield Machine(root)
    _configure(engine, configuration, has=False)
    if before is None:
        CONFIGURATION.unlink()
    else:
        CONFIGURATION.write_text(before)


def _furnish(root: Path) -> None:
    device = root / "sys/bus/pci/devices/0001:00:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    shutil.copy(Path(__file__).parent / "standin_runtime.py", root / "runtime")
    (root / "nvidia-smi").write_text(SMI)
    for program in ("runtime", "nvidia-smi"):
        (root / program).chmod(0o755)
    (root / "torch").mkdir()
    (root / "torch/__init__.py").write_text(TORCH)
    Machine(root).heal()


def _configure(engine: docker.DockerClient, configuration: dict[str, Any], *, has: bool) -> None:
    """Have the engine read another configuration, and wait until it has; only a named key is changed by that."""
    CONFIGURATION.write_text(json.dumps(configuration))
    os.kill(int(Path("/var/run/docker.pid").read_text()), signal.SIGHUP)
    for _ in range(100):
        if ("nvidia" in engine.info()["Runtimes"]) is has:
            return
        time.sleep(0.1)
    raise AssertionError(f"the engine's nvidia runtime: expected {has}, got {engine.info()['Runtimes']}")


@pytest.fixture(scope="session", params=["cuda12", "cuda13"])
def cuda_image(request: pytest.FixtureRequest, engine: docker.DockerClient) -> str:
    """The CUDA images, built by the same code that run-gpu calls."""
    assert engine
    done = subprocess.run([sys.executable, "-m", "scripts.build", request.param], cwd=ROOT, capture_output=True,
                          text=True, check=False, timeout=580)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert Engine().image(f"pytorch-jupyter:{request.param}"), "no image after the build"
    return str(request.param)


@pytest.fixture
def gpu_lab(machine: Machine, new_lab: Callable[[], LabProcess]) -> Iterator[LabProcess]:
    """A lab on the machine, not started; the machine is well again afterwards."""
    assert machine
    if not Engine().image("pytorch-jupyter:cuda13"):
        skip_unless_ci("the CUDA images are not built: make build-gpu CUDA=13")
    lab = new_lab()
    yield lab
    lab.remove()
    machine.heal()
