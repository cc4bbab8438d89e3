"""`make vm-status`: the VM, since when, its lab, and what goes on costing."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from provision.vm import Cloud, Vm
from scripts.console import run, say

if TYPE_CHECKING:
    from collections.abc import Sequence

UNREACHABLE = "not reachable by SSH now (make vm-url opens the way for your address)"


def main() -> None:
    """Print the status."""
    cloud = Cloud.open()
    vm = cloud.existing()
    view = cloud.az.read("vm", "get-instance-view", *vm.argv, assume={})
    lab = _ask_lab(cloud, vm) if vm.power == "running" else None
    if not cloud.az.dry_run:
        print(page(vm, since(view), lab))


def since(view: dict[str, Any]) -> str | None:
    """When Azure last changed the VM's state, from its instance view; None when it does not say."""
    statuses: Sequence[dict[str, Any]] = (view.get("instanceView") or {}).get("statuses") or []
    times = [each["time"] for each in statuses if each.get("time")]
    return max(times)[:19].replace("T", " ") if times else None


def _ask_lab(cloud: Cloud, vm: Vm) -> dict[str, Any] | None:
    """The VM's own account of the lab; None when SSH does not let us in at once."""
    argv = cloud.ssh(vm).bootstrap("status")
    if cloud.az.dry_run:
        print(" ".join(argv))
        return None
    say("asking the VM …")
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    try:
        return dict(json.loads(done.stdout)) if done.returncode == 0 else None
    except ValueError:
        return None  # an older bootstrap, or half an answer


def page(vm: Vm, changed: str | None, lab: dict[str, Any] | None) -> str:
    """The status as lines for a person."""
    spot = ", spot" if vm.spot else ""
    rows = [
        ("VM", f"{vm.name}: {vm.power}" + (f", since {changed} UTC" if changed else "")),
        ("size", f"{vm.size}{spot} in {vm.region}"),
        ("address", vm.host),
    ]
    if vm.power == "running":
        rows.append(("lab", _lab_in_words(lab) if lab else UNREACHABLE))
    rows.append(("costs now", ", ".join(costs(vm))))
    return "\n".join(f"{key:<12} {value}" for key, value in rows)


def _lab_in_words(lab: dict[str, Any]) -> str:
    told = lab.get("lab") or {}
    kernels = f", {told['kernels']} kernels" if told.get("kernels") is not None else ""
    state = "answers" if told.get("answers") else f"{told.get('state', 'absent')}, does not answer (make vm-logs)"
    return f"{state}{kernels}; service {lab['unit']}; checkout {lab['checkout']}"


def costs(vm: Vm) -> list[str]:
    """What is billed in this state."""
    disk = f"{vm.disk_gb} GB disk" if vm.disk_gb else "disk"
    lasting = [disk, "public address"]
    if vm.power == "deallocated":
        return [*lasting, "no computing"]
    stopped = " (stopped from inside, which bills as if it ran: make vm-stop)" if vm.power == "stopped" else ""
    return [f"computing ({vm.size}){stopped}", *lasting]


if __name__ == "__main__":
    run(main)
