"""`make vm-start`: start the VM again and print the lab's URL when it answers."""

from __future__ import annotations

from provision import ssh
from provision.vm import INTERRUPTED, Cloud
from scripts.console import run


def main() -> None:
    """Start it, open the way, wait for the lab."""
    cloud = Cloud.open()
    vm = cloud.existing()
    if vm.power != "running" or cloud.az.dry_run:
        cloud.az.change(["vm", "start", *vm.argv], f"starting the VM {vm.name}")
    cloud.ensure_access(vm)
    way = cloud.ssh(vm)
    if cloud.az.dry_run:
        print(" ".join(way.bootstrap("follow")))
        return
    way.wait()
    print(ssh.run(way.bootstrap("follow")).strip())


if __name__ == "__main__":
    run(main, interrupted=INTERRUPTED)
