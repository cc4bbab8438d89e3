"""The VM as a value, and the exact `az` command lines that make it: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.settings import USER

if TYPE_CHECKING:
    from datetime import time
    from pathlib import Path

    from provision.vm import Vm

TAG = "pytorch-jupyter"  # a resource group with it is ours; nothing else is ever touched
# Start, stop and deallocate one VM, no more: "Virtual Machine Contributor" could run commands on it as root.
POWER_ROLE = "Desktop Virtualization Power On Off Contributor"


def group_of(name: str) -> str:
    """The resource group that holds all of a VM's resources."""
    return f"pytorch-jupyter-{name}"


@dataclass(frozen=True, kw_only=True)
class VmSpec:
    """What `az vm create` is asked for. Paths are files on this machine; the disk is in GB."""

    name: str
    region: str
    size: str
    image: str
    disk_gb: int
    trusted_launch: bool
    secure_boot: bool
    spot: bool
    identity: bool
    port: int
    public_key: Path
    custom_data: Path

    @property
    def group(self) -> str:
        """The VM's resource group."""
        return group_of(self.name)


def group_argv(spec: VmSpec) -> list[str]:
    """Create the resource group, or bring its tags up to date."""
    tags = [f"{TAG}={spec.name}", f"port={spec.port}"]
    return ["group", "create", "--name", spec.group, "--location", spec.region, "--tags", *tags]


def vm_argv(spec: VmSpec) -> list[str]:
    """Create the VM: every part goes when the VM goes, no port is open, only the key admits."""
    security = ["--security-type", "Standard"]
    if spec.trusted_launch:
        secure = str(spec.secure_boot).lower()
        security = ["--security-type", "TrustedLaunch", "--enable-secure-boot", secure, "--enable-vtpm", "true"]
    return [
        "vm", "create", "--resource-group", spec.group, "--name", spec.name, "--location", spec.region,
        "--image", spec.image, "--size", spec.size, *security,
        "--admin-username", USER, "--authentication-type", "ssh", "--ssh-key-values", str(spec.public_key),
        "--public-ip-sku", "Standard", "--public-ip-address-dns-name", spec.name, "--nsg-rule", "NONE",
        "--os-disk-size-gb", str(spec.disk_gb), "--storage-sku", "StandardSSD_LRS",
        "--os-disk-delete-option", "Delete", "--nic-delete-option", "Delete",
        *(["--assign-identity", "[system]"] if spec.identity else []),
        *(["--priority", "Spot", "--eviction-policy", "Deallocate", "--max-price", "-1"] if spec.spot else []),
        "--custom-data", str(spec.custom_data),
    ]  # fmt: skip


def role_argv(vm_id: str, principal: str) -> list[str]:
    """Let the VM stop itself, and nothing else."""
    who = ["--assignee-object-id", principal, "--assignee-principal-type", "ServicePrincipal"]
    return ["role", "assignment", "create", *who, "--role", POWER_ROLE, "--scope", vm_id]


def shutdown_argv(vm: Vm, utc: time) -> list[str]:
    """Deallocate daily at a time in UTC: Azure's own schedule, which works when nothing on the VM does."""
    return ["vm", "auto-shutdown", *vm.argv, "--location", vm.region, "--time", f"{utc:%H%M}"]
