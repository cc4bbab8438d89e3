"""`make vm-create`: from an Azure account to a running lab and its URL on stdout; run again, it goes on."""

from __future__ import annotations

import os
from datetime import date, datetime, time, timezone
from typing import TYPE_CHECKING, Any

from provision import cloud_init, preflight, sizes, spec
from provision.az import require_usable
from provision.settings import USER, default_name
from provision.ssh import ensure_key, public_half
from provision.vm import INTERRUPTED, Cloud, Vm, deliver, is_secure, keys, memory_of
from scripts.console import LabError, run, say
from scripts.settings import ROOT, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from provision.sizes import Kind
    from provision.spec import VmSpec

CUSTOM_DATA_LIMIT = 48 << 10  # bytes; Azure takes 64 KB after base64
SENTENCES = {
    sizes.Kind.CPU: "no GPU: the CPU lab will run there",
    sizes.Kind.NVIDIA: "an NVIDIA GPU: the CUDA lab will run there",
    sizes.Kind.OTHER: "an accelerator that CUDA does not run on: the CPU lab will run there",
}


def main() -> None:
    """Read as the plan: look, plan, group, VM, network, bill, checkout, URL."""
    cloud = Cloud.open()
    settings, az = cloud.settings, cloud.az
    is_secure()  # a setting that the VM cannot follow ends it here, before anything is made
    kind = sizes.kind(settings.size)
    sizes.require_driver(settings.size, settings.image_urn)
    name = settings.name or default_name()
    say(f"looking at Azure for {name} …")
    require_usable(az)
    group = cloud.group(name)
    vm = cloud.vm(name, group) if group else None
    if not vm:
        say(f"{name}: {settings.size} in {settings.region}; {SENTENCES[kind]}")
        require_region(group, settings.region)
        wanted = plan(cloud, kind, name, name_is_ours=group is not None)
        vm = create(cloud, wanted, group)
    else:
        require_its_size(vm, os.environ.get("SIZE"))
        say(f"the VM {name} is there ({vm.size}, {vm.power})")
        if vm.power != "running":
            az.change(["vm", "start", *vm.argv], f"starting the VM {name}")
    cloud.ensure_access(vm)
    limit_bill(cloud, vm)
    url = deliver(cloud, vm)
    if not az.dry_run:
        if url.startswith("http:"):
            say("plain HTTP: who listens on the way reads the token; TLS=self-signed encrypts, make vm-tunnel too")
        say(f"the lab is ready on {vm.host}; make vm-stop ends the bill for computing. Open:")
    print(url)


def plan(cloud: Cloud, kind: Kind, name: str, *, name_is_ours: bool) -> VmSpec:
    """Ask Azure everything that could make the creation fail, and decide what to create."""
    settings, az = cloud.settings, cloud.az
    facts = preflight.require_size(az, settings)
    preflight.require_quota(az, facts, settings)
    chosen = preflight.choose_image(az, kind, settings, facts)
    if not name_is_ours:
        preflight.require_name(az, name, settings.region)
    return spec.VmSpec(
        name=name,
        region=settings.region,
        size=settings.size,
        image=chosen.image.urn,
        disk_gb=settings.disk_gb or chosen.disk_gb,
        trusted_launch=chosen.trusted_launch,
        # Only Canonical's own driver packages are signed for Secure Boot.
        secure_boot=kind is not sizes.Kind.NVIDIA or chosen.image.urn.startswith("Canonical:"),
        spot=settings.spot,
        identity=settings.idle_stop > 0,
        port=Settings.load(os.environ).port,
        public_key=public_half(ensure_key(settings.ssh_key, keys())),
        custom_data=write_custom_data(name),
    )


def write_custom_data(name: str) -> Path:
    """Render the first boot's text to a file for az.

    Raises:
        LabError: it is larger than what Azure takes.

    """
    bootstrap = (ROOT / "provision/bootstrap.py").read_text()
    text = cloud_init.render(bootstrap=bootstrap, settings={}, user=USER)
    if len(text) > CUSTOM_DATA_LIMIT:
        raise LabError(
            f"the custom data has {len(text)} bytes, more than {CUSTOM_DATA_LIMIT}",
            hint="make provision/bootstrap.py smaller",
        )
    path = memory_of(name) / "cloud-init.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    # The address may have belonged to an earlier VM: its host key is not this one's.
    (path.parent / "known_hosts").unlink(missing_ok=True)
    return path


def require_region(group: dict[str, Any] | None, region: str) -> None:
    """Go on in the region where an interrupted creation began.

    Raises:
        LabError: it began elsewhere.

    """
    if group and group["location"] != region:
        message = f"a VM of this name was begun in REGION={group['location']}"
        raise LabError(message, hint=f"REGION={group['location']}, another NAME=, or make vm-delete first")


def require_its_size(vm: Vm, asked: str | None) -> None:
    """Never ignore a size that was asked for; one that was not is the VM's.

    Raises:
        LabError: the VM has another one.

    """
    if asked and asked.lower() != vm.size.lower():
        message = f"the VM {vm.name} has SIZE={vm.size}, not {asked}"
        hint = f"az vm resize --size {asked} --ids {vm.id} changes it; or another NAME=, or make vm-delete first"
        raise LabError(message, hint=hint)


def create(cloud: Cloud, wanted: VmSpec, group: dict[str, Any] | None) -> Vm:
    """Create group and VM; what Azure refuses leaves nothing behind that was not there before.

    Raises:
        LabError: Azure refused; in our words.

    """
    az = cloud.az
    az.change(spec.group_argv(wanted), f"resource group {wanted.group}")
    try:
        az.change(spec.vm_argv(wanted), f"creating the VM {wanted.name} (a few minutes)")
        vm = cloud.vm(wanted.name, {"name": wanted.group, "tags": {"port": str(wanted.port)}})
    except LabError as refusal:
        if not group:
            say(f"Azure refused: {refusal.message}")
            az.change(["group", "delete", "--name", wanted.group, "--yes"], "removing what was begun")
        raise
    if not vm:
        raise LabError(f"Azure made the VM {wanted.name} and does not know it", hint="make vm-create goes on")
    return vm


def limit_bill(cloud: Cloud, vm: Vm) -> None:
    """Stop daily, and allow the VM to stop itself; a subscription that forbids the latter still gets its lab."""
    settings = cloud.settings
    if settings.auto_shutdown:
        utc = to_utc(settings.auto_shutdown)
        words = f"the VM stops daily at {settings.auto_shutdown:%H:%M} ({utc:%H:%M} UTC; AUTO_SHUTDOWN=off: never)"
        cloud.az.change(spec.shutdown_argv(vm, utc), words)
    if not settings.idle_stop or not vm.principal:
        return
    try:
        words = f"the VM may stop itself after {settings.idle_stop} minutes without use (IDLE_STOP=0: never)"
        cloud.az.change(spec.role_argv(vm.id, vm.principal), words)
    except LabError as error:
        say(f"the VM cannot stop itself when idle: {error.message}")
        say("  that takes the right to assign roles (Owner); make vm-stop and AUTO_SHUTDOWN work without it")


def to_utc(local: time) -> time:
    """A time of day here as a time of day in UTC, by today's offset."""
    return datetime.combine(date.today(), local).astimezone(timezone.utc).time()


if __name__ == "__main__":
    run(main, interrupted=INTERRUPTED)
