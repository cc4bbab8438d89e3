"""Make sure that a Docker engine answers: look, start it, install it. Standard library only."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import subprocess
import sys
import time
from pathlib import Path

from scripts import host
from scripts.console import LabError, ask, say
from scripts.host import EngineProbe, EngineState

DOCKERD_LOG = Path("/var/log/pytorch-jupyter-dockerd.log")
START_SECONDS = 60
RUN_LOCAL = "make run-local works without an engine"


def ensure_engine(*, no_install: bool) -> EngineProbe:
    """Return a running engine; start or install it where that is allowed.

    Raises:
        LabError: there is none and none can be had; the message says which of the four cases it is.

    """
    probe = host.probe_engine()
    if probe.state is EngineState.RUNNING:
        return probe
    if probe.state is EngineState.DENIED:
        _join_docker_group(probe)
    _require_change_allowed(probe, no_install=no_install)
    if probe.state is EngineState.MISSING:
        _install_engine()
    if host.probe_engine().state is not EngineState.RUNNING:
        _start_engine()
    return _reach_started_engine()


def _require_change_allowed(probe: EngineProbe, *, no_install: bool) -> None:
    if os.environ.get("DOCKER_HOST"):
        raise LabError(
            f"no Docker engine answers at DOCKER_HOST={probe.address}",
            hint="start it there, or unset DOCKER_HOST",
        )
    message = f"the Docker engine is {probe.state.value}"
    by_hand = "sudo systemctl start docker" if probe.state is EngineState.STOPPED else "sudo apt-get install docker.io"
    if no_install:
        raise LabError(f"{message}, and NO_INSTALL=1 forbids changing that", hint=f"{by_hand}; or {RUN_LOCAL}")
    if not host.can_become_root():
        raise LabError(
            f"{message}, and without root or sudo it cannot be mended here", hint=f"{by_hand}; or {RUN_LOCAL}"
        )
    if probe.state is EngineState.MISSING and not host.is_debian():
        raise LabError(
            f"{message}, and this is not Debian or Ubuntu",
            hint=f"install Docker (https://docs.docker.com/engine/install), then run this again; or {RUN_LOCAL}",
        )
    verb = "Start" if probe.state is EngineState.STOPPED else "Install and start"
    if not ask(f"{message}. {verb} it now (as root)?"):
        raise LabError(f"{message}", hint=f"{by_hand}; or {RUN_LOCAL}")


def _install_engine() -> None:
    say("installing the Docker engine (docker.io) …")
    # Debian 13 has the client in a package of its own, and newer clients cannot build without buildx.
    host.apt_install(["docker.io", "iptables"], if_known=("docker-cli", "docker-buildx"))
    if os.getuid() != 0:
        user = pwd.getpwuid(os.getuid()).pw_name
        command = host.as_root(["usermod", "-aG", "docker", user])
        host.run_visibly(
            command, failure=f"could not add {user} to the group docker", hint="sudo usermod -aG docker $USER"
        )


def _start_engine() -> None:
    if host.has_systemd():
        command = host.as_root(["systemctl", "enable", "--now", "docker"])
        host.run_visibly(command, failure="systemd could not start docker", hint="journalctl -u docker shows why")
        return
    dockerd = host.find_program("dockerd") or "dockerd"
    say(f"starting {dockerd} (no systemd here); its log: {DOCKERD_LOG}")
    # The inner shell opens the log as root; the engine outlives this command in a session of its own.
    line = f"exec {shlex.quote(dockerd)} >>{DOCKERD_LOG} 2>&1 </dev/null"
    subprocess.Popen(host.as_root(["sh", "-c", line]), start_new_session=True, stdin=subprocess.DEVNULL)


def _reach_started_engine() -> EngineProbe:
    """Poll until the socket answers; the engine needs a few seconds, more on its first start."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        probe = host.probe_engine()
        if probe.state is EngineState.RUNNING:
            return probe
        if probe.state is EngineState.DENIED:
            _join_docker_group(probe)
        time.sleep(0.2)
    logs = "journalctl -u docker" if host.has_systemd() else f"tail {DOCKERD_LOG}"
    raise LabError(
        f"the Docker engine did not answer within {START_SECONDS} s", hint=f"{logs} shows why; or {RUN_LOCAL}"
    )


def _join_docker_group(probe: EngineProbe) -> None:
    """Start this command over inside the group docker when the user is a member since after the login."""
    user = pwd.getpwuid(os.getuid()).pw_name
    member = _is_member(user, "docker")
    sg = host.find_program("sg")
    if member and sg and not os.environ.get("LAB_REGROUPED"):
        os.environ["LAB_REGROUPED"] = "1"
        os.execv(sg, ["sg", "docker", "-c", shlex.join(_own_command())])
    raise LabError(
        f"no permission on the engine's socket ({probe.address}) for user {user}",
        hint="sudo usermod -aG docker $USER && newgrp docker, then the same command; or make run-local",
    )


def _is_member(user: str, group: str) -> bool:
    try:
        return user in grp.getgrnam(group).gr_mem
    except KeyError:
        return False


def _own_command() -> list[str]:
    """The command line of this process, in the form `python -m module arguments`."""
    return [sys.executable, *sys.orig_argv[1:]]
