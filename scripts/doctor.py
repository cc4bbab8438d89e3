"""`make doctor`: what was found on this machine, what is wrong, what to do.

Works with the system's Python before anything is installed; with the tools it also looks at the lab itself.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts import builder, gpu_probe, host, state
from scripts.console import LabError, run
from scripts.gpu import choose_access, choose_flavour
from scripts.host import EngineState
from scripts.settings import ROOT, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.gpu import GpuFacts
    from scripts.lab import Lab

LEAST_FREE = 2 << 30
LEAST_MEMORY = 3 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and the remedy when it is wrong."""

    subject: str
    found: str
    remedy: str = ""


def main() -> int:
    """Print every finding; the exit code is 1 when something is wrong."""
    gpu = gpu_probe.look_at_host()  # once: with eight GPUs the driver takes its time
    findings = [*machine(gpu), *lab_findings(gpu)]
    for each in findings:
        print(f"{'wrong' if each.remedy else 'ok':<6} {each.subject:<11} {each.found}")
        if each.remedy:
            print(f"       hint: {each.remedy}")
    return 1 if any(each.remedy for each in findings) else 0


def machine(gpu: GpuFacts) -> list[Finding]:
    """What needs no tools: machine, Python, settings, engine, builder, GPU, disk, token."""
    try:
        chosen = Settings.load(os.environ)
    except LabError as error:
        return [Finding("settings", error.message, error.hint)]
    checks: list[Callable[[], Finding]] = [_system, _python, lambda: _engine(chosen), _client]
    checks += [lambda: _gpu(gpu, chosen), lambda: _disk(chosen), lambda: _token(chosen)]
    return [check() for check in checks]


def _system() -> Finding:
    name = host.os_release().get("PRETTY_NAME", platform.platform())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{name}, {platform.machine()}, {os.cpu_count()} CPUs, {memory / 1e9:.1f} GB memory"
    small = (
        "a kernel with torch and data wants 3 GB: use a larger machine, or add swap" if memory < LEAST_MEMORY else ""
    )
    return Finding("machine", found, small)


def _python() -> Finding:
    if (ROOT / ".venv/.stamp").exists():
        return Finding("tools", f"installed in {ROOT / '.venv'}")
    return Finding("tools", f"not installed yet (make does it, with Python {platform.python_version()})")


def _engine(chosen: Settings) -> Finding:
    probe = host.probe_engine()
    if probe.state is EngineState.RUNNING:
        return Finding("engine", f"Docker {probe.version} at {probe.address}")
    found = f"{probe.state.value} ({probe.address})"
    if probe.state is EngineState.DENIED:
        return Finding("engine", found, "sudo usermod -aG docker $USER && newgrp docker; or make run-local")
    if host.can_become_root() and host.is_debian() and not chosen.no_install:
        return Finding("engine", found, "make run-cpu installs and starts it; without one: make run-local")
    by_hand = "sudo systemctl start docker" if probe.state is EngineState.STOPPED else "install Docker"
    return Finding("engine", found, f"{by_hand}; without one: make run-local")


def _client() -> Finding:
    found = builder.clients()
    if not found and host.probe_engine().state is EngineState.MISSING:
        return Finding("builder", "none yet (comes with the engine)")
    try:
        return Finding("builder", f"{builder.find_client(found)} can build")
    except LabError as error:
        return Finding("builder", error.message, error.hint)


def _gpu(facts: GpuFacts, chosen: Settings) -> Finding:
    """A machine without an NVIDIA GPU is well; one whose GPU cannot be used is not."""
    if not facts.has_nvidia:
        return Finding("gpu", "none of NVIDIA's (make run-cpu is for this machine)")
    try:
        return Finding("gpu", choose_flavour(facts, chosen)[1])
    except LabError as error:
        return Finding("gpu", error.message, error.hint)


def _gpu_access(lab: Lab) -> Finding:
    try:
        reason = choose_access(gpu_probe.look_at_engine(lab.engine), lab.settings)[1]
    except LabError as error:
        return Finding("gpu access", error.message, error.hint)
    return Finding("gpu access", f"{reason}{_toolkit_version()}")


def _toolkit_version() -> str:
    """What nvidia-ctk says of itself: one of the versions that a report of a fault needs."""
    if not host.find_program("nvidia-ctk"):
        return ""
    answer = subprocess.run(["nvidia-ctk", "--version"], capture_output=True, text=True, check=False).stdout
    return f" ({answer.partition(chr(10))[0]})" if answer else ""


def _disk(chosen: Settings) -> Finding:
    folder = next(path for path in (chosen.workspace, *chosen.workspace.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    small = "notebooks and packages need room: free some, or use a larger disk" if free < LEAST_FREE else ""
    return Finding("disk", f"{free / 1e9:.0f} GB free at {folder}", small)


def _token(chosen: Settings) -> Finding:
    place = state.locate(chosen, host.lab_identity())
    if not place.token_file.exists():
        return Finding("token", "none yet (make run-cpu makes one)")
    try:
        state.read_token(place)
    except LabError as error:
        return Finding("token", error.message, error.hint)
    return Finding("token", f"in {place.token_file}, readable by you alone")


def lab_findings(gpu: GpuFacts) -> list[Finding]:
    """What needs the tools and a running engine: the sources, the image, the container."""
    if not importlib.util.find_spec("docker.errors") or host.probe_engine().state is not EngineState.RUNNING:
        return []
    from scripts import image, supply  # noqa: PLC0415 - the SDK may be missing where doctor must still work
    from scripts.lab import Lab  # noqa: PLC0415

    try:
        lab = Lab.open()
        decision = supply.choose(lab.settings, supply.survey(lab.settings, lab.engine))
        built = lab.engine.image(image.tag_of("cpu"))
        fresh = built is not None and image.is_fresh(built, lab.settings, "cpu")
        missing = f"not built yet; that needs about {image.DISK_NEEDED[decision.torch_lock] >> 30} GB of disk"
        words = "up to date" if fresh else "older than its sources" if built else missing
        return [
            *(Finding("supply", reason) for reason in decision.reasons),
            Finding("image", f"{image.tag_of('cpu')} {words}"),
            *([_gpu_access(lab)] if gpu.has_nvidia else []),
            _container(lab),
        ]
    except LabError as error:
        return [Finding("lab", error.message, error.hint)]


def _container(lab: Lab) -> Finding:
    from scripts.status import look  # noqa: PLC0415

    status = look(lab)
    if status.state == "running" and not status.answers:
        return Finding("lab", "running, but it does not answer", "make logs shows why; make restart starts it again")
    return Finding("lab", f"{status.container}: {status.state}" + (f" at {status.address}" if status.address else ""))


if __name__ == "__main__":
    run(main)
