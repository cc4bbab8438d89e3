"""A VM of ours: found by its resource group's tag, reached through SSH, and the steps that the verbs share."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision import network, payload, ssh
from provision.az import Az
from provision.settings import VmSettings, default_name
from provision.spec import TAG, group_of
from provision.ssh import Ssh, ensure_key
from scripts.console import LabError, say
from scripts.settings import ROOT, Settings
from scripts.spec import lab_url

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 8888
INTERRUPTED = "what was begun in the cloud is still there: the same command goes on, make vm-delete removes it"
# The lab's settings that mean the same on the VM; paths of this machine do not.
FORWARDED = (
    "CONTAINER", "MEMORY", "CPUS", "SHM_SIZE", "CUDA", "GPUS", "FAST", "IDLE_TIMEOUT", "WAIT_TIMEOUT",
    "TLS", "IMAGE", "BASE_IMAGE", "TORCH_SOURCE", "TORCH_INDEX_URL", "DEBIAN_MIRROR",
)  # fmt: skip


@dataclass(frozen=True)
class Vm:
    """A VM as Azure describes it. `power`: running, deallocated, stopped, …; `principal`: its identity, if any."""

    name: str
    region: str
    port: int
    id: str
    host: str
    power: str
    size: str
    spot: bool
    disk_gb: int | None
    principal: str | None

    @property
    def group(self) -> str:
        """Its resource group."""
        return group_of(self.name)

    @property
    def nsg(self) -> str:
        """Its network security group, as `az vm create` names it."""
        return f"{self.name}NSG"

    @property
    def argv(self) -> list[str]:
        """The options that name it to az."""
        return ["--resource-group", self.group, "--name", self.name]


@dataclass(frozen=True)
class Cloud:
    """What every verb needs: the settings and az."""

    settings: VmSettings
    az: Az

    @classmethod
    def open(cls) -> Cloud:
        """Read the settings, the lab's own included: a wrong one is told before Azure is asked."""
        settings = VmSettings.load(os.environ)
        Settings.load(os.environ)
        return cls(settings, Az(settings.subscription, settings.dry_run))

    def group(self, name: str) -> dict[str, Any] | None:
        """The VM's resource group; None when there is none.

        Raises:
            LabError: a group of that name exists that is not ours; it is never touched.

        """
        found: dict[str, Any] | None = self.az.find("group", "show", "--name", group_of(name), assume=None)
        if found and TAG not in (found.get("tags") or {}):
            raise LabError(
                f"a resource group named {found['name']!r} exists that is not the lab's; it is left alone",
                hint=f"make vm-create NAME={name}-2",
            )
        return found

    def vm(self, name: str, group: dict[str, Any]) -> Vm | None:
        """The VM in its group; None when it is not there (yet)."""
        arguments = ["vm", "show", "--resource-group", group["name"], "--name", name, "--show-details"]
        found = self.az.find(*arguments, assume=_assumed(name, self.settings))
        return _read(found, group) if found else None

    def existing(self) -> Vm:
        """The VM that a verb is about: NAME, else the only one there is.

        Raises:
            LabError: there is none, or several and no NAME says which.

        """
        name = self.settings.name or self.only_name()
        group = self.group(name) if not self.az.dry_run else _assumed_group(name, self.settings)
        vm = self.vm(name, group) if group else None
        if not vm:
            raise LabError(f"there is no VM named {name!r}", hint=f"make vm-create NAME={name} makes it")
        return vm

    def only_name(self) -> str:
        """The name of the only VM of ours in the subscription.

        Raises:
            LabError: there is none, or there are several.

        """
        listing = self.az.read("group", "list", "--tag", TAG, assume=[{"tags": {TAG: default_name()}}])
        names = sorted(each["tags"][TAG] for each in listing)
        if not names:
            raise LabError("you have no VM of the lab in this subscription", hint="make vm-create makes one")
        if len(names) > 1:
            raise LabError(f"there are several VMs: {', '.join(names)}", hint=f"say which: NAME={names[0]}")
        return str(names[0])

    def ensure_access(self, vm: Vm) -> None:
        """Have the rules of ALLOW_FROM in place; a changed address of the caller changes them."""
        listing = self.az.read(
            "network", "nsg", "rule", "list", "--resource-group", vm.group, "--nsg-name", vm.nsg, assume=[]
        )
        have = network.read_rules(listing)
        before = next((rule.allow_from for rule in have if rule.allow_from), None)
        allow_from = self.settings.allow_from or before or "auto"
        caller = network.my_address(self.settings.address_url)
        if not caller and have and not self.settings.allow_from:
            say("your public address could not be looked up; the rules of the network stay as they are")
            return
        want = network.wanted_rules(allow_from, caller, vm.port)
        for line in explain(want, caller):
            say(line)
        for argv in network.changes(vm.group, vm.nsg, have=have, want=want):
            self.az.change(argv, f"network rule: {argv[3]} {argv[argv.index('--name') + 1]}")

    def ssh(self, vm: Vm) -> Ssh:
        """The way to the VM."""
        memory = memory_of(vm.name)
        memory.mkdir(parents=True, exist_ok=True)
        return Ssh(vm.host, ensure_key(self.settings.ssh_key, keys()), memory, self.settings.ssh_options)

    def become(self, argv: list[str]) -> None:
        """Let a command line take this process's place; a dry run prints it."""
        if self.az.dry_run:
            print(shlex.join(argv))
            return
        os.execvp(argv[0], argv)


def explain(rules: list[network.Rule], caller: str | None) -> list[str]:
    """What the rules mean, where the user should know."""
    by_name = {rule.name: rule for rule in rules}
    lines = []
    if by_name["ssh"].sources == (network.ANYONE,):
        lines.append("your public address could not be looked up: SSH opens to everyone, by key only")
    if "lab" not in by_name:
        why = "ALLOW_FROM=none" if caller else "without your address"
        lines.append(
            f"{why}: the lab's port stays closed; make vm-tunnel opens it here (or ALLOW_FROM=your.network/24)"
        )
    elif by_name["lab"].sources == (network.ANYONE,):
        lines.append("WARNING: the whole internet may open the lab's port")
    else:
        lines.append(f"the lab's port is open to {', '.join(by_name['lab'].sources)} only")
    return lines


def _assumed_group(name: str, settings: VmSettings) -> dict[str, Any]:
    return {"name": group_of(name), "location": settings.region, "tags": {TAG: name}}


def _assumed(name: str, settings: VmSettings) -> dict[str, Any]:
    """The VM that a dry run takes for granted; the id is what a shell would fill in."""
    return {
        "name": name, "location": settings.region, "id": "VM_ID", "powerState": "VM running", "tags": {},
        "fqdns": f"{name}.{settings.region}.cloudapp.azure.com", "hardwareProfile": {"vmSize": settings.size},
        "identity": {"principalId": "PRINCIPAL_ID"},
    }  # fmt: skip


def _read(found: dict[str, Any], group: dict[str, Any]) -> Vm:
    disk = (found.get("storageProfile") or {}).get("osDisk") or {}
    return Vm(
        name=found["name"],
        region=found["location"],
        port=int((group.get("tags") or {}).get("port", DEFAULT_PORT)),
        id=found["id"],
        host=found.get("fqdns") or found.get("publicIps") or "",
        power=(found.get("powerState") or "VM unknown").removeprefix("VM "),
        size=found["hardwareProfile"]["vmSize"],
        spot=found.get("priority") == "Spot",
        disk_gb=disk.get("diskSizeGb") or disk.get("diskSizeGB"),  # older az, newer az
        principal=(found.get("identity") or {}).get("principalId"),
    )


def keys() -> Path:
    """Where this machine keeps what the VMs' verbs need: the SSH key."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "pytorch-jupyter" / "vm"


def memory_of(name: str) -> Path:
    """Where this machine keeps what belongs to one VM: its host key, the custom data it was made with."""
    return keys() / name


def lab_settings(settings: VmSettings, vm: Vm, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that the VM gets: what the user gave and means the same there, and what only the cloud has."""
    given = {key: environ[key] for key in FORWARDED if environ.get(key)}
    paths = {"IMAGE_TAR": settings.image_tar, "WHEELS": settings.wheels}
    cloud = {"URL_HOST": vm.host, "PORT": str(vm.port), "IDLE_STOP": str(settings.idle_stop), "IDLE_TIMEOUT": "8h",
             "METADATA": str(int(settings.metadata))}  # fmt: skip
    return {**cloud, **given, **{key: value for key, value in paths.items() if value}}


def assumed_url(vm: Vm) -> str:
    """The lab's URL as a dry run shows it."""
    return lab_url(host=vm.host, port=vm.port, token="…", secure=is_secure())  # noqa: S106 - stands for one


def is_secure() -> bool:
    """Whether the VM's lab speaks HTTPS.

    Raises:
        LabError: a certificate of this machine is named, which the VM does not have.

    """
    settings = Settings.load(os.environ)
    if settings.tls_cert or settings.tls_key:
        message = f"TLS_CERT={settings.tls_cert or ''} names a file of this machine, the VM does not have it"
        raise LabError(message, hint="TLS=self-signed encrypts there; for a certificate of your own: make vm-ssh")
    return settings.tls != "off"


def deliver(cloud: Cloud, vm: Vm) -> str:
    """Send the checkout as it is here, run it there, return the lab's URL; a VM that reboots meanwhile is awaited."""
    way = cloud.ssh(vm)
    pairs = [f"{key}={value}" for key, value in lab_settings(cloud.settings, vm, os.environ).items()]
    argv = way.bootstrap("receive", *pairs)
    if cloud.az.dry_run:
        print(" ".join(argv) + " < (the checkout as tar.gz)")
        return assumed_url(vm)
    packed = payload.archive(ROOT)
    for _ in range(3):
        way.wait()
        say(f"sending the checkout ({len(packed) >> 10} KB) …")
        try:
            return ssh.run(argv, given=packed).strip()
        except ConnectionError:
            say("the connection broke (a reboot?); trying again")
    raise LabError("the connection to the VM broke three times", hint="make vm-status, then make vm-sync")
