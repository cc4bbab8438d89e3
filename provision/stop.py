"""`make vm-stop`: deallocate the VM, so that only its disk and address are billed; the work stays on the disk."""

from __future__ import annotations

from provision.vm import Cloud
from scripts.console import run, say


def main() -> None:
    """Deallocate it, unless it is so already."""
    cloud = Cloud.open()
    vm = cloud.existing()
    if vm.power == "deallocated":
        say(f"the VM {vm.name} is deallocated already")
        return
    cloud.az.change(["vm", "deallocate", *vm.argv], f"deallocating the VM {vm.name}")
    if not cloud.az.dry_run:
        say(f"{vm.name} no longer bills for computing; its disk and address do (make vm-delete ends that too)")


if __name__ == "__main__":
    run(main, interrupted="Azure goes on with it; make vm-status shows it")
