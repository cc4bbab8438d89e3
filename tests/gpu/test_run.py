"""`make run-gpu`: on a machine without a GPU, and on a stand-in with one."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from scripts import gpu_probe
from scripts.engine import Engine
from scripts.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import LabProcess
    from tests.gpu.conftest import Machine


def test_without_a_gpu_it_says_so_at_once(new_lab: Callable[[], LabProcess]) -> None:
    """A machine without a GPU: an error and the way out, in two seconds, and nothing made."""
    if gpu_probe.look_at_host().nvidia:
        pytest.skip(reason="this machine has a GPU")
    lab = new_lab()
    begin = time.monotonic()
    done = subprocess.run(["make", "run-gpu"], cwd=ROOT, env=lab.environ, capture_output=True, text=True, check=False)
    took = time.monotonic() - begin
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, ""), f"got {done}"
    assert "no NVIDIA GPU" in lines[0], f"got {lines}"
    assert lines[1].startswith("hint: make run-cpu"), f"got {lines}"
    assert took <= 2, f"got {took:.1f} s, expected at most 2"


def test_a_gpu_machine_gets_its_lab(machine: Machine, gpu_lab: LabProcess) -> None:
    """Preflight, runtime, check inside: then the URL, which answers."""
    done = machine.run(gpu_lab, "start", "gpu")
    assert done.returncode == 0, done.stderr
    assert "cuda13, the newest torch" in done.stderr, done.stderr
    assert "GPU in use: Stand-in T4, 15 GB" in done.stderr, done.stderr
    got = httpx.get(f"{gpu_lab.url}/api/status", headers={"Authorization": f"token {gpu_lab.token}"}).status_code
    assert got == 200, f"got {got}"


def test_the_runtime_gets_what_it_needs(machine: Machine, gpu_lab: LabProcess) -> None:
    """The nvidia runtime is told the GPUs and the driver's parts, and the container still has no capability."""
    machine.run(gpu_lab, "start", "gpu", GPUS="0")
    called = machine.called
    environment = dict(each.split("=", 1) for each in called["env"])
    got = {key: environment.get(key) for key in ("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LAB_GPU")}
    expected = {"NVIDIA_VISIBLE_DEVICES": "0", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "LAB_GPU": "1"}
    assert got == expected, f"got {got}"
    assert not called.get("capabilities", {}).get("bounding"), f"got {called.get('capabilities')}"
    runtime = gpu_lab.container.attrs["HostConfig"]["Runtime"]
    assert runtime == "nvidia", f"got {runtime}"


def test_an_older_driver_gets_the_older_torch(machine: Machine, gpu_lab: LabProcess) -> None:
    """With the Data Science VM's driver the container is made of the CUDA 12 image."""
    machine.set_driver("535.230.02")
    done = machine.run(gpu_lab, "start", "gpu")
    assert done.returncode == 0, done.stderr
    got = gpu_lab.container.labels["io.github.pytorch-jupyter.variant"]
    assert got == "cuda12", f"got {got}"
    image = Engine().image("pytorch-jupyter:cuda12")
    assert image, "no CUDA 12 image"
    assert gpu_lab.container.attrs["Image"] == image.id, "the container runs another image"


def test_status_shows_the_gpu(machine: Machine, gpu_lab: LabProcess) -> None:
    """Name, memory and utilisation, for people and for programs."""
    machine.run(gpu_lab, "start", "gpu")
    page = machine.run(gpu_lab, "status").stdout
    assert "Stand-in T4: 3 of 15360 MiB, 7 % busy" in page, f"got {page}"
    got = json.loads(machine.run(gpu_lab, "status", "--json").stdout)["gpus"]
    expected = [{"name": "Stand-in T4", "memory_used": 3, "memory_total": 15360, "utilization": 7}]
    assert got == expected, f"got {got}"


def test_a_lost_gpu_is_noticed(machine: Machine, gpu_lab: LabProcess) -> None:
    """After a daemon-reload: status and the health check fail and name the way back, which works."""
    machine.run(gpu_lab, "start", "gpu")
    machine.set_mode("lost")
    status = machine.run(gpu_lab, "status")
    assert (status.returncode, "make restart" in status.stdout) == (3, True), f"got {status}"
    checked = gpu_lab.container.exec_run(["python", "-IS", "/opt/venv/healthcheck.py"])
    assert (checked.exit_code, b"make restart" in checked.output) == (1, True), f"got {checked}"
    machine.set_mode("ok")
    again = machine.run(gpu_lab, "restart")
    assert (again.returncode, again.stdout.startswith("http://")) == (0, True), f"got {again}"


def test_a_container_without_its_gpu_is_no_lab(machine: Machine, gpu_lab: LabProcess) -> None:
    """When torch inside finds no GPU: its own reason, no URL, and no container left behind."""
    machine.set_mode("blind")
    done = machine.run(gpu_lab, "start", "gpu")
    assert (done.returncode, done.stdout) == (1, ""), f"got {done}"
    assert "error: the container cannot use the GPU: Found no NVIDIA driver" in done.stderr, done.stderr
    assert Engine().find(gpu_lab.name) is None, "a container is left"


def test_a_runtime_that_fails_is_reported(machine: Machine, gpu_lab: LabProcess) -> None:
    """The runtime's own words, one hint, no container left behind."""
    machine.set_mode("broken")
    done = machine.run(gpu_lab, "start", "gpu")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, ""), f"got {done}"
    assert "nvml error: driver not loaded" in lines[-2], f"got {lines}"
    assert lines[-1].startswith("hint: "), f"got {lines}"
    assert Engine().find(gpu_lab.name) is None, "a container is left"


def test_a_silent_driver_is_reported(machine: Machine, gpu_lab: LabProcess) -> None:
    """A driver that is loaded and does not answer: its words, before anything is made."""
    machine.set_mode("lost")
    done = machine.run(gpu_lab, "start", "gpu")
    assert "does not answer: Failed to initialize NVML: Unknown Error" in done.stderr, done.stderr
    assert done.returncode == 1, f"got {done.returncode}"


def test_from_gpu_to_cpu_and_back(machine: Machine, gpu_lab: LabProcess) -> None:
    """The same lab, work and token, with another image: each command brings what it is called."""
    first = machine.run(gpu_lab, "start", "gpu").stdout
    (gpu_lab.workspace / "kept.txt").write_text("kept")
    second = gpu_lab.start()
    container = gpu_lab.container
    got = (container.labels["io.github.pytorch-jupyter.variant"], container.attrs["HostConfig"]["Runtime"])
    assert (got, first.strip() == second) == (("cpu", "runc"), True), f"got {got}, {first} and {second}"
    assert (gpu_lab.workspace / "kept.txt").read_text() == "kept", "work is gone"


def test_doctor_shows_the_preflight(machine: Machine, gpu_lab: LabProcess) -> None:
    """The same findings as run-gpu's, without starting anything."""
    got = machine.run(gpu_lab, "doctor").stdout
    assert "Stand-in T4, driver 580.65.06: cuda13" in got, f"got {got}"
    assert "the engine's nvidia runtime" in got, f"got {got}"
