"""A real VM: its own kernel and engine, from vm-create's custom data to a lab that survives reboots and kills.

Emulated, without a network: the image and the tools' wheels are on a disk, as on an air-gapped VM.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.provision import machines
from tests.provision.test_chain import boot_when_created

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

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


def wait_for(look: Callable[[], dict[str, object]], *, seconds: float) -> dict[str, object]:
    """Wait until a question gets its answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return look()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_a_vm_from_first_boot_through_reboot_and_kill(laptop: Laptop, vm: machines.Qemu) -> None:
    """The lab answers with its token after the first boot; after a reboot and a kill -9 again, with the saved work."""
    laptop.environ |= {"SSH_OPTIONS": vm.ssh_options, "IMAGE_TAR": "/data/image.tar", "WHEELS": "/data/wheels",
                       "WAIT_TIMEOUT": "600", "IDLE_STOP": "0"}  # fmt: skip
    created = make(laptop, vm)
    token = created.stdout.strip().partition("token=")[2]
    assert len(token) == 64, f"no URL:\n{created.stderr[-3000:]}\n{vm.console.read_text()[-2000:]}"
    assert ask(vm, token, "/api/status")["kernels"] == 0
    ask(vm, token, "/api/contents/work.txt", save="saved before the reboot")

    booted = laptop.on_vm("cat /proc/sys/kernel/random/boot_id")
    laptop.on_vm("sudo systemctl reboot")
    again = laptop.run("start", timeout=900)
    assert again.stdout == created.stdout, f"expected the same URL, got {again.stdout!r}\n{again.stderr[-3000:]}"
    assert laptop.on_vm("cat /proc/sys/kernel/random/boot_id") != booted, "it did not reboot"
    assert ask(vm, token, "/api/contents/work.txt")["content"] == "saved before the reboot"

    kill = "sudo kill -9 $(sudo docker inspect --format '{{.State.Pid}}' pytorch-jupyter)"
    laptop.on_vm(kill)
    wait_for(lambda: ask(vm, token, "/api/status"), seconds=300)
    assert ask(vm, token, "/api/contents/work.txt")["content"] == "saved before the reboot"


def make(laptop: Laptop, vm: machines.Qemu) -> subprocess.CompletedProcess[str]:
    """Run vm-create, booting the VM as soon as Azure has it."""
    threading.Thread(target=boot_when_created, args=(laptop, vm), daemon=True).start()
    return laptop.run("create", timeout=1200)
