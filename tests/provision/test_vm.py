"""A real VM: its own kernel and engine, from vm-create's custom data to a lab that survives reboots and kills.

Emulated, without a network: the image and the tools' wheels are on a disk, as on an air-gapped VM.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.provision import machines
from tests.provision.test_chain import boot_when_created

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    import docker

    from tests.provision.conftest import Laptop

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
NAME = "pytorch-jupyter-test/server:latest"


@pytest.fixture(scope="module")
def vm(vm_root: Path, wheels: Path, engine: docker.DockerClient) -> Iterator[machines.Qemu]:
    """A VM that is not booted yet."""
    machines.require_root("qemu-system-x86_64", "mke2fs")
    if not engine.images.list("pytorch-jupyter:cpu"):
        pytest.fail("the CPU image is not built: make build")
    folder = Path(tempfile.mkdtemp(prefix="pytorch-jupyter-vm-"))
    machines.unpack(vm_root, folder / "root")
    shutil.copytree(wheels, folder / "data/wheels")
    (folder / "data").chmod(0o755)
    (folder / "data/wheels").chmod(0o755)
    machines.save_without_torch("pytorch-jupyter:cpu", NAME, folder / "data/image.tar")
    machine = machines.Qemu(folder / "root", folder / "data")
    yield machine
    machine.stop()
    shutil.rmtree(folder)


def ask(vm: machines.Qemu, token: str, path: str, *, save: str | None = None) -> dict[str, object]:
    """Ask the lab in the VM, through the forwarded port; `save` makes it a PUT of a text file."""
    body = json.dumps({"type": "file", "format": "text", "content": save}).encode() if save else None
    request = urllib.request.Request(
        f"http://127.0.0.1:{vm.lab_port}{path}",
        body,
        {"Authorization": f"token {token}"},
        method="PUT" if save else "GET",
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def saved_work(vm: machines.Qemu, token: str) -> str:
    """What the lab tells of the saved file, as soon as it answers at all."""

    def look() -> dict[str, object] | None:
        with contextlib.suppress(OSError):
            return ask(vm, token, "/api/contents/work.txt")
        return None

    return str(wait_until(look, seconds=300)["content"])


# What happens to a machine that runs for months.
FAULTS = {
    "the server is killed": "sudo kill -9 $(sudo docker inspect --format '{{.State.Pid}}' pytorch-jupyter)",
    "the engine is killed": "sudo kill -9 $(cat /var/run/docker.pid)",
    "the engine is upgraded": "sudo systemctl stop docker.socket docker && sudo systemctl start docker",
    "the clock jumps ahead": "sudo date --set='+3 days'",
    "and back": "sudo date --set='-3 days'",
}


def test_a_vm_from_first_boot_through_reboot_and_faults(laptop: Laptop, vm: machines.Qemu) -> None:
    """The lab answers with its token after the first boot; after a reboot and each fault again, with the saved work."""
    laptop.environ |= {"SSH_OPTIONS": vm.ssh_options, "IMAGE_TAR": "/data/image.tar", "WHEELS": "/data/wheels",
                       "WAIT_TIMEOUT": "600", "IDLE_STOP": "0"}  # fmt: skip
    created = make(laptop, vm)
    token = created.stdout.strip().partition("token=")[2]
    assert len(token) == 64, f"no URL:\n{created.stderr[-3000:]}\n{vm.console.read_text()[-2000:]}"
    assert ask(vm, token, "/api/status")["kernels"] == 0
    assert "169.254.169.254" in laptop.on_vm("sudo iptables -t raw -S"), "containers may reach the metadata service"
    ask(vm, token, "/api/contents/work.txt", save="saved before the reboot")

    booted = laptop.on_vm("cat /proc/sys/kernel/random/boot_id")
    laptop.on_vm("sudo systemctl reboot")
    again = laptop.run("start", timeout=900)
    assert again.stdout == created.stdout, f"expected the same URL, got {again.stdout!r}\n{again.stderr[-3000:]}"
    assert laptop.on_vm("cat /proc/sys/kernel/random/boot_id") != booted, "it did not reboot"
    assert ask(vm, token, "/api/contents/work.txt")["content"] == "saved before the reboot"
    assert "169.254.169.254" in laptop.on_vm("sudo iptables -t raw -S"), "a reboot opened the metadata service"

    for fault, command in FAULTS.items():
        laptop.on_vm(command)
        time.sleep(1)  # a server that is on its way out may still answer
        assert saved_work(vm, token) == "saved before the reboot", f"{fault}: the work is gone"


def make(laptop: Laptop, vm: machines.Qemu) -> subprocess.CompletedProcess[str]:
    """Run vm-create, booting the VM as soon as Azure has it."""
    threading.Thread(target=boot_when_created, args=(laptop, vm), daemon=True).start()
    return laptop.run("create", timeout=1200)
