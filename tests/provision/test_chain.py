"""The whole chain: vm-create, Azure's stand-in, the custom data it captured, a machine with real cloud-init, the lab.

The engine is this machine's own, and the image the one that was built for the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker.errors import NotFound

from provision import payload
from scripts.settings import ROOT
from tests.conftest import engine_client, free_port, wait_until
from tests.provision import machines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

    from tests.provision.conftest import Laptop

pytestmark = pytest.mark.engine


CONTAINER = f"pytorch-jupyter-vm-{os.getpid()}"


@pytest.fixture(scope="module")
def machine(vm_root: Path, wheels: Path, engine: docker.DockerClient) -> Iterator[machines.Nspawn]:
    """A machine that is not booted yet; its lab's container goes with it."""
    assert engine
    # The machine shares this engine: its lab finds the image that is here, and builds none.
    subprocess.run([sys.executable, "-m", "scripts.build", "cpu"], cwd=ROOT, check=True, capture_output=True)
    folder = Path(tempfile.mkdtemp(prefix="pytorch-jupyter-vm-"))
    folder.chmod(0o755)
    (folder / "shared").mkdir()
    shutil.copytree(wheels, folder / "shared/wheels")
    (folder / "shared/wheels").chmod(0o755)
    machines.unpack(vm_root, folder / "root")
    machine = machines.Nspawn(folder / "root", folder / "shared")
    yield machine
    machine.stop()
    with contextlib.suppress(NotFound):
        engine_client().containers.get(CONTAINER).remove(force=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lab(laptops: Callable[[], Laptop], machine: machines.Nspawn) -> Iterator[tuple[Laptop, str]]:
    """A laptop that has made its VM with one command, and the printed URL."""
    laptop = laptops()
    thread = threading.Thread(target=boot_when_created, args=(laptop, machine), daemon=True)
    thread.start()
    laptop.environ |= {"SSH_OPTIONS": machine.ssh_options, "PORT": str(free_port()), "CONTAINER": CONTAINER,
                       "WHEELS": str(machine.shared / "wheels"), "ALLOW_FROM": "198.51.100.0/24",
                       "METADATA": "1"}  # fmt: skip
    done = laptop.run("create")
    assert done.returncode == 0, f"{done.stderr}\n{laptop.azure.faults}"
    yield laptop, done.stdout
    thread.join(timeout=10)


def boot_when_created(laptop: Laptop, machine: machines.Nspawn | machines.Qemu) -> None:
    """Boot the machine from the custom data as soon as Azure has created the VM."""
    while not laptop.azure.custom_data:
        time.sleep(0.1)
    vm = laptop.azure.one("Microsoft.Compute/virtualMachines")
    key = vm["properties"]["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"][0]["keyData"]
    machine.prepare(laptop.azure.custom_data[vm["id"].lower()], key)
    machine.boot()


def test_create_leads_to_a_lab_that_answers_with_its_token(lab: tuple[Laptop, str]) -> None:
    """One command, from nothing: the token in the printed URL opens the lab, and is not in the VM's journal."""
    laptop, printed = lab
    port = laptop.environ["PORT"]
    found = re.fullmatch(rf"http://lab-test\.eastus\.cloudapp\.azure\.com:{port}/lab\?token=(\w{{64}})\n", printed)
    assert found, f"expected the lab's URL, got {printed!r}"
    assert _status(port, found[1])["kernels"] == 0, "the lab does not answer with its token"
    journal = laptop.run("logs").stdout
    assert "the lab is up" in journal, f"the journal does not tell it:\n{journal}"
    assert found[1] not in journal, "the token is in the journal"


def test_the_custom_data_is_valid_for_a_new_cloud_init(lab: tuple[Laptop, str], machine: machines.Nspawn) -> None:
    """Debian 13's cloud-init accepts every key of it, and ran it without an error."""
    assert lab
    seed = "/var/lib/cloud/seed/nocloud/user-data"
    told = machines.run_in(machine.root, "cloud-init", "schema", "--config-file", seed)
    assert "Valid schema" in told, f"cloud-init schema says {told!r}"
    result = json.loads((machine.root / "var/lib/cloud/data/result.json").read_text())
    assert result["v1"]["errors"] == [], f"cloud-init met {result['v1']['errors']}"


def test_create_again_changes_nothing_and_prints_the_same_url(lab: tuple[Laptop, str]) -> None:
    """A second vm-create finds the VM and its lab as they are; the container is the same one."""
    laptop, printed = lab
    before = engine_client().containers.get(CONTAINER).id
    done = laptop.run("create")
    assert done.stdout == printed, f"expected {printed!r}, got {done.stdout!r}\n{done.stderr}"
    after = engine_client().containers.get(CONTAINER).id
    assert after == before, "the container was made anew"


def test_url_status_and_logs_tell_about_the_lab(lab: tuple[Laptop, str]) -> None:
    """vm-url prints what vm-create printed; vm-status says that the lab answers and what costs."""
    laptop, printed = lab
    url = laptop.run("url")
    assert url.stdout == printed, f"expected {printed!r}, got {url.stdout!r}\n{url.stderr}"
    page = laptop.run("status").stdout
    assert "lab          answers, 0 kernels; service active; checkout checkout-" in page, f"got:\n{page}"
    assert "costs now    computing (Standard_D4s_v5), 200 GB disk, public address" in page, f"got:\n{page}"


def test_pull_fetches_the_workspace_into_a_new_folder(lab: tuple[Laptop, str], machine: machines.Nspawn) -> None:
    """What was saved on the VM arrives here as it is; a second vm-pull makes a second folder."""
    laptop, _ = lab
    saved = machine.home / "workspace/saved work.txt"
    saved.write_text("years of work")
    folders = []
    for _again in range(2):
        done = laptop.run("pull")
        assert done.returncode == 0, done.stderr
        folders.append(Path(done.stdout.strip()))
        time.sleep(1.1)
    try:
        assert folders[0] != folders[1], "the second pull went where the first is"
        texts = [(folder / "saved work.txt").read_text() for folder in folders]
        assert texts == ["years of work"] * 2, f"got {texts}"
    finally:
        shutil.rmtree(folders[0].parent)


def test_the_tunnel_brings_the_lab_to_localhost(lab: tuple[Laptop, str]) -> None:
    """With the lab's port closed, vm-tunnel prints a URL at localhost that opens the lab."""
    laptop, printed = lab
    here = str(free_port())
    # The lab is on the VM's port; here another one, since VM and laptop share their addresses in this test.
    argv = [sys.executable, "-m", "provision.tunnel"]
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env={**laptop.environ, "PORT": here},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as tunnel:
        try:
            assert tunnel.stdout
            line = tunnel.stdout.readline().strip()
            token = printed.strip().partition("token=")[2]
            assert line == f"http://localhost:{here}/lab?token={token}", f"got {line!r}"
            told = wait_until(lambda: _try_status(here, token), seconds=20)
            assert told["kernels"] == 0, f"got {told}"
        finally:
            tunnel.terminate()


def test_a_changed_checkout_runs_after_sync_and_the_work_stays(
    lab: tuple[Laptop, str], machine: machines.Nspawn, tmp_path: Path
) -> None:
    """vm-sync sends local edits, new files included, and what was saved on the VM is still there."""
    laptop, printed = lab
    kept = machine.home / "workspace/kept.txt"
    kept.write_text("kept")
    copy = tmp_path / "checkout"
    packed = payload.archive(ROOT)
    copy.mkdir()
    subprocess.run(["tar", "-xz", "-C", str(copy)], input=packed, check=True)
    (copy / "notebooks/lesson_of_mine.py").write_text("print('mine')\n")
    done = laptop.run("sync", folder=copy)
    assert done.stdout == printed, f"expected {printed!r}, got {done.stdout!r}\n{done.stderr}"
    assert (machine.home / "workspace/lesson_of_mine.py").exists(), "the new sample was not seeded"
    assert kept.read_text() == "kept", "the work changed"


def test_the_lab_comes_back_after_a_reboot(lab: tuple[Laptop, str], machine: machines.Nspawn) -> None:
    """A container that is gone after the boot is made again by the service, with the same token."""
    laptop, printed = lab
    machine.stop()
    engine_client().containers.get(CONTAINER).remove(force=True)
    machine.boot()
    done = laptop.run("start")
    assert done.stdout == printed, f"expected {printed!r}, got {done.stdout!r}\n{done.stderr}"
    token = printed.strip().partition("token=")[2]
    assert _status(laptop.environ["PORT"], token)["started"], "the lab does not answer"


def test_the_idle_watch_looks_at_the_lab(lab: tuple[Laptop, str]) -> None:
    """The timer is on, and its service finds the lab with the VM's own settings and says what it decides."""
    laptop, _ = lab
    assert laptop.on_vm("systemctl is-active pytorch-jupyter-idle.timer") == "active\n", "the timer is off"
    laptop.on_vm("sudo systemctl start pytorch-jupyter-idle.service")
    journal = laptop.run("logs").stdout
    assert re.search(r"idle: idle for \d+ of 60 minutes", journal), f"got:\n{journal[-2000:]}"


def test_a_clone_on_any_vm_needs_one_command(lab: tuple[Laptop, str], machine: machines.Nspawn) -> None:
    """`sudo python3 provision/bootstrap.py here` runs the clone that it is in, and prints the same lab's URL."""
    laptop, printed = lab
    clone = machine.shared / "clone"
    clone.mkdir()
    subprocess.run(["tar", "-xz", "-C", str(clone)], input=payload.archive(ROOT), check=True)
    subprocess.run(["chown", "-R", f"{machines.UID}:{machines.UID}", str(clone)], check=True)
    url = laptop.on_vm(f"cd {clone} && sudo python3 provision/bootstrap.py here URL_HOST=vm.example.com")
    expected = printed.replace("lab-test.eastus.cloudapp.azure.com", "vm.example.com")
    assert url == expected, f"expected {expected!r}, got {url!r}"
    assert laptop.on_vm("readlink /opt/pytorch-jupyter/checkout").strip() == str(clone)


def test_the_vm_speaks_https_when_told(lab: tuple[Laptop, str]) -> None:
    """vm-sync TLS=self-signed: an https URL from the VM, and its idle watch still finds the lab."""
    laptop, printed = lab
    laptop.environ["TLS"] = "self-signed"
    done = laptop.run("sync")
    assert done.stdout == printed.replace("http:", "https:"), f"got {done.stdout!r}\n{done.stderr}"
    laptop.on_vm("sudo systemctl start pytorch-jupyter-idle.service")
    told = laptop.on_vm("sudo journalctl --unit=pytorch-jupyter-idle --lines=4 --output=cat")
    assert re.search(r"idle: idle for \d+ of 60 minutes", told), f"got:\n{told}"


def _status(port: str, token: str) -> dict[str, object]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/status", headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def _try_status(port: str, token: str) -> dict[str, object] | None:
    try:
        return _status(port, token)
    except OSError:
        return None
