"""The whole chain: vm-create, Azure's stand-in, the custom data it captured, a machine with real cloud-init, the lab.

The engine is this machine's own, and the image the one that was built for the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import engine_client, free_port
from tests.provision import machines

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    from tests.provision.conftest import Laptop

pytestmark = pytest.mark.engine


@pytest.fixture
def machine(vm_root: Path, wheels: Path, engine: docker.DockerClient) -> Iterator[machines.Nspawn]:
    """A machine that is not booted yet; its lab's container goes with it."""
    assert engine
    folder = Path(tempfile.mkdtemp(prefix="pytorch-jupyter-vm-"))
    folder.chmod(0o755)
    (folder / "shared").mkdir()
    shutil.copytree(wheels, folder / "shared/wheels")
    name = f"pytorch-jupyter-vm-{os.getpid()}"
    machines.unpack(vm_root, folder / "root")
    machine = machines.Nspawn(folder / "root", folder / "shared", environment={"CONTAINER": name})
    yield machine
    machine.stop()
    for container in engine_client().containers.list(all=True, filters={"name": name}):
        container.remove(force=True)
    shutil.rmtree(folder)


def boot_when_created(laptop: Laptop, machine: machines.Nspawn) -> threading.Thread:
    """Boot the machine from the custom data as soon as Azure has created the VM."""

    def wait() -> None:
        while not laptop.azure.custom_data:
            time.sleep(0.1)
        vm = laptop.azure.one("Microsoft.Compute/virtualMachines")
        key = vm["properties"]["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"][0]["keyData"]
        machine.prepare(next(iter(laptop.azure.custom_data.values())), key)
        machine.boot()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_create_leads_to_a_lab_that_answers_with_its_token(laptop: Laptop, machine: machines.Nspawn) -> None:
    """One command, from nothing: the printed URL's token opens the lab that runs from this checkout; then each verb."""
    boot_when_created(laptop, machine)
    port = free_port()
    settings = {"SSH_OPTIONS": machine.ssh_options, "PORT": str(port), "WHEELS": str(machine.shared / "wheels"),
                "ALLOW_FROM": "198.51.100.0/24"}  # fmt: skip
    done = laptop.run("create", **settings)
    assert done.returncode == 0, f"{done.stderr}\n{laptop.azure.faults}"
    found = re.fullmatch(rf"http://lab-test\.eastus\.cloudapp\.azure\.com:{port}/lab\?token=(\w{{64}})\n", done.stdout)
    assert found, f"expected the lab's URL, got {done.stdout!r}"
    assert _status(port, found[1])["kernels"] == 0, "the lab does not answer with its token"
    assert found[1] not in _journal(machine), "the token is in the journal"


def _status(port: int, token: str) -> dict[str, object]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/status", headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def _journal(machine: machines.Nspawn) -> str:
    """Everything that the machine's journal holds."""
    return subprocess.run(
        ["journalctl", "--no-pager", "--directory", str(machine.root / "run/log/journal")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
