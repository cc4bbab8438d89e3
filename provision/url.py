"""`make vm-url`: the URL of the lab on the VM and nothing else; opens the way when your address has changed."""

from __future__ import annotations

from provision import ssh
from provision.vm import Cloud, Vm, assumed_url
from scripts.console import LabError, run


def main() -> None:
    """Print the URL."""
    cloud = Cloud.open()
    vm = running(cloud)
    print(fetch(cloud, vm))


def running(cloud: Cloud) -> Vm:
    """The VM, reachable.

    Raises:
        LabError: it does not run.

    """
    vm = cloud.existing()
    if vm.power != "running":
        raise LabError(f"the VM {vm.name} is {vm.power}", hint=f"make vm-start NAME={vm.name}")
    cloud.ensure_access(vm)
    return vm


def fetch(cloud: Cloud, vm: Vm) -> str:
    """Ask the VM for the lab's URL; in a dry run print how."""
    way = cloud.ssh(vm)
    if cloud.az.dry_run:
        print(" ".join(way.bootstrap("url")))
        return assumed_url(vm)
    way.wait(seconds=60)
    return ssh.run(way.bootstrap("url")).strip()


if __name__ == "__main__":
    run(main)
