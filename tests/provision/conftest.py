"""The real `az` against Azure's stand-in, and a laptop that runs the verbs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provision.settings import USER
from scripts.settings import ROOT
from tests.conftest import skip_unless_ci
from tests.provision import machines
from tests.provision.arm import SUBSCRIPTION, TENANT, Azure, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AZ_VERSION = "2.91.0"
AZ_VENV = ROOT / ".venv" / "az"  # 730 MB, kept between runs; removed with the tools


@pytest.fixture(scope="session")
def az_folder() -> Path:
    """The folder with the real az, installed once."""
    az = AZ_VENV / "bin/az"
    if not az.exists() or AZ_VERSION not in (AZ_VENV / "version").read_text():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(AZ_VENV)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(AZ_VENV / "bin/python"), f"azure-cli=={AZ_VERSION}"]
        if subprocess.run(install, check=False).returncode:
            skip_unless_ci("azure-cli cannot be installed")
        (AZ_VENV / "version").write_text(AZ_VERSION)
    return az.parent


@dataclass
class Laptop:
    """A user's machine: the verbs, az and its login, a home of its own."""

    home: Path
    server: Server
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def azure(self) -> Azure:
        """What is behind the API."""
        return self.server.azure

    def run(
        self, verb: str, folder: Path = ROOT, timeout: float = 300, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `make vm-<verb>` as the Makefile does, from the checkout in a folder."""
        return subprocess.run(
            [sys.executable, "-m", f"provision.{verb}"],
            cwd=folder,
            env={**self.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )

    def az(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run az itself."""
        return subprocess.run(["az", *arguments], env=self.environ, capture_output=True, text=True, check=False)

    def on_vm(self, line: str) -> str:
        """Run a shell line on the VM as its user; return what it wrote."""
        key = Path(self.environ["XDG_DATA_HOME"]) / "pytorch-jupyter/vm/id_ed25519"
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        argv = ["ssh", *self.environ["SSH_OPTIONS"].split(), *known, "-i", str(key), f"{USER}@vm", line]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120).stdout

    def fake(self, name: str, script: str) -> None:
        """Put a program of the test's own before the real one."""
        path = self.home / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="session")
def az_login(az_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """An az that is logged in at the stand-in's cloud; each step is checked: none may reach the real one."""
    folder = tmp_path_factory.mktemp("az")
    server = Server(folder)
    environ = {
        "PATH": f"{az_folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "AZURE_CONFIG_DIR": str(folder / "azure"),
        "REQUESTS_CA_BUNDLE": str(server.ca),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_CHECK_FOR_UPDATES": "false",
        "AZURE_CORE_LOGIN_EXPERIENCE_V2": "false",
        "NO_PROXY": "localhost,127.0.0.1",
    }
    endpoints = ("resource-manager", "active-directory", "active-directory-resource-id", "management")
    urls = [word for each in endpoints for word in (f"--endpoint-{each}", server.url)]
    steps = [
        ["cloud", "register", "-n", "StandIn", "--skip-endpoint-discovery", *urls],
        ["cloud", "set", "-n", "StandIn"],
        ["login", "--service-principal", "-u", "app", "-p", "secret", "--tenant", TENANT],
    ]
    for step in steps:
        done = subprocess.run(["az", *step], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"az {step[:2]} failed:\n{done.stderr}"
    yield server, environ
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def laptops(az_login: tuple[Server, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Laptop]:
    """Make laptops, each at an Azure that is empty again."""
    server, environ = az_login

    def make() -> Laptop:
        server.azure = Azure()
        home = tmp_path_factory.mktemp("laptop")
        (home / "bin").mkdir()
        # A login of its own: az remembers a refused one for a minute.
        shutil.copytree(environ["AZURE_CONFIG_DIR"], home / "azure")
        own = {
            **environ, "PATH": f"{home / 'bin'}:{environ['PATH']}", "XDG_DATA_HOME": str(home / "data"),
            "NAME": "lab-test", "ADDRESS_URL": "http://127.0.0.1:9", "SUBSCRIPTION": SUBSCRIPTION,
            "AZURE_CONFIG_DIR": str(home / "azure"),
        }  # fmt: skip
        return Laptop(home, server, own)

    return make


@pytest.fixture
def laptop(laptops: Callable[[], Laptop]) -> Laptop:
    """A laptop of the test's own, at an empty Azure."""
    return laptops()


@pytest.fixture(scope="session")
def vm_root() -> Iterator[Path]:
    """The archive of a Debian VM's root file system, bootstrapped once; VM_ROOT keeps it between runs."""
    machines.require_root("mmdebstrap", "systemd-nspawn", "chroot")
    kept = os.environ.get("VM_ROOT")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(kept) if kept else Path(folder) / "root.tar"
        if not archive.exists():
            machines.build_root(archive)
        yield archive


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the host tools."""
    folder = tmp_path_factory.mktemp("wheels")
    machines.download_wheels(folder)
    return folder
