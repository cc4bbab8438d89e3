"""Facts about this machine, and the few commands that change it. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from scripts.console import LabError, say

DEFAULT_UID = 1000
CAP_SYS_RESOURCE = 24  # its bit, from capabilities(7)
PROC = Path("/proc")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Identity:
    """The user who owns the lab's files and whom the server runs as: numeric ids and home directory."""

    uid: int
    gid: int
    home: Path


def lab_identity() -> Identity:
    """The caller; behind sudo the user who called it; for root itself the conventional first user, 1000.

    The server never runs as root, so files that root's lab makes belong to uid 1000.
    """
    uid = os.getuid() or int(os.environ.get("SUDO_UID") or 0)
    if uid == 0:
        return Identity(DEFAULT_UID, DEFAULT_UID, Path.home())
    try:
        user = pwd.getpwuid(uid)
    except KeyError:  # a uid without an account, as some containers have
        return Identity(uid, os.getgid(), Path.home())
    # The account's own group: the process's may be another for a while (newgrp docker), and must not decide.
    home = Path.home() if os.getuid() else Path(user.pw_dir)
    return Identity(uid, user.pw_gid, home)


class EngineState(Enum):
    """What a look at the engine's socket tells."""

    RUNNING = "running"
    DENIED = "no permission"
    STOPPED = "not running"
    MISSING = "not installed"


@dataclass(frozen=True)
class EngineProbe:
    """The engine as seen from outside: its state, its address and, when it answers, its version."""

    state: EngineState
    address: str
    version: str = ""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, so that the engine can be asked before its SDK is installed."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def probe_engine() -> EngineProbe:
    """Ask the engine for its version over its socket, and say why when it does not answer."""
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        with contextlib.closing(_connection(address)) as connection:
            connection.request("GET", "/version")
            version = json.loads(connection.getresponse().read())["Version"]
        return EngineProbe(EngineState.RUNNING, address, version)
    except PermissionError:
        return EngineProbe(EngineState.DENIED, address)
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        installed = os.environ.get("DOCKER_HOST") or find_program("dockerd")
        return EngineProbe(EngineState.STOPPED if installed else EngineState.MISSING, address)


def _connection(address: str) -> http.client.HTTPConnection:
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return _UnixConnection(rest)
    if scheme in {"tcp", "http"}:
        return http.client.HTTPConnection(rest.rstrip("/"), timeout=5)
    raise LabError(
        f"DOCKER_HOST={address!r} is not supported: the lab needs a unix:// or tcp:// address",
        hint="unset DOCKER_HOST, or forward the remote socket with ssh -L to a local unix socket",
    )


def open_files_limit(wanted: int, engine_pid: Path = Path("/var/run/docker.pid")) -> int:
    """How many open files a container may be given: `wanted`, or less where the engine itself cannot raise its limit.

    An engine inside a sandbox without CAP_SYS_RESOURCE refuses to start a container with more than its own limit.
    """
    try:
        process = PROC / engine_pid.read_text().strip()
        capabilities = int(re.findall(r"^CapEff:\s*(\w+)", (process / "status").read_text(), re.MULTILINE)[0], 16)
        hard = re.findall(r"^Max open files\s+\S+\s+(\d+)", (process / "limits").read_text(), re.MULTILINE)
    except (OSError, IndexError, ValueError):
        return wanted  # a remote or unusual engine
    if capabilities >> CAP_SYS_RESOURCE & 1 or not hard:
        return wanted
    return min(wanted, int(hard[0]))


def find_program(name: str) -> str | None:
    """Find a program on PATH or among the system's own folders (sbin is missing from a user's PATH on Debian)."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)


def has_systemd() -> bool:
    """Whether systemd is this machine's init (its package alone may be present in a container)."""
    return Path("/run/systemd/system").is_dir()


def os_release() -> dict[str, str]:
    """The distribution's description; empty where there is none, as on macOS."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def is_debian() -> bool:
    """Whether apt and Debian's package names apply here: Debian, Ubuntu and their children."""
    release = os_release()
    return bool({"debian", "ubuntu"} & {release.get("ID", ""), *release.get("ID_LIKE", "").split()})


def as_root(argv: list[str], *, environ: dict[str, str] | None = None) -> list[str]:
    """Prefix a command with what makes it run as root, and set variables across sudo.

    Raises:
        LabError: neither root nor sudo.

    """
    prefix = [] if os.getuid() == 0 else [find_program("sudo") or ""]
    if prefix == [""]:
        raise LabError(f"{argv[0]!r} needs root, and there is no sudo", hint="run this as root, or use make run-local")
    settings = [f"{key}={value}" for key, value in (environ or {}).items()]
    return [*prefix, *(["env", *settings] if settings else []), *argv]


def can_become_root() -> bool:
    """Whether this process is root or sudo exists (which may still ask for a password)."""
    return os.getuid() == 0 or find_program("sudo") is not None


def run_visibly(argv: list[str], *, failure: str, hint: str) -> None:
    """Run a command that the user should see; its output goes to stderr.

    Raises:
        LabError: the command failed.

    """
    say(f"$ {' '.join(argv)}")
    if subprocess.run(argv, stdout=2, stdin=subprocess.DEVNULL, check=False).returncode:
        raise LabError(failure, hint=hint)


def apt_install(packages: list[str], *, if_known: tuple[str, ...] = ()) -> None:
    """Install Debian packages without questions, refreshing the lists first, and those of `if_known` that exist here.

    Raises:
        LabError: apt failed; its own words stand above the message.

    """
    _apt("update", "-q", wanted=packages)
    # Only now: a new machine has no lists yet, and would know nothing.
    known = [each for each in if_known if _package_known(each)]
    _apt("install", "-qy", "--no-install-recommends", *packages, *known, wanted=packages)


def _apt(*arguments: str, wanted: list[str]) -> None:
    hint = (
        "see apt's message above; mend it (network, proxy, disk, another apt at work?) and run the same command again"
    )
    command = as_root(
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments], environ={"DEBIAN_FRONTEND": "noninteractive"}
    )
    run_visibly(command, failure=f"apt-get could not install {' '.join(wanted)}", hint=hint)


def _package_known(package: str) -> bool:
    return subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode == 0
