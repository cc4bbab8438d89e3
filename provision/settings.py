"""The settings of the `vm-` verbs, read and explained as the lab's own. Standard library only: `make help` needs it."""

from __future__ import annotations

import getpass
import ipaddress
import re
import shlex
from dataclasses import dataclass
from datetime import time
from typing import TYPE_CHECKING

from scripts.settings import FromEnvironment, flag, folder, matching, setting, url

if TYPE_CHECKING:
    from pathlib import Path

USER = "azureuser"  # the VM's account, as Azure's own examples name it
OFF = {"off", "0", "no", "never"}


def access(text: str) -> str:
    """Who may open the lab's port: auto, none, internet, or a network in CIDR notation.

    The whole internet is had by its name only, so that nobody opens it by a slip of the prefix length.
    """
    if text in {"auto", "none", "internet"}:
        return text
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("auto, none, internet or a network such as 203.0.113.7/32") from None
    if network.prefixlen == 0:
        raise ValueError("the word 'internet' for the whole internet; else auto, none or a network such as 10.0.0.0/8")
    return str(network)


def clock(text: str) -> time | None:
    """A time of day as HHMM; off: never."""
    if text.lower() in OFF:
        return None
    if re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", text, re.ASCII):
        return time(int(text[:2]), int(text[2:]))
    raise ValueError("a time of day such as 0200 or 2330, or off")


def minutes(text: str) -> int:
    """A number of minutes; 0 or off: never."""
    if text.lower() in OFF:
        return 0
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) >= 5:
        return int(text)
    raise ValueError("5 or more minutes, or 0 for never")


def gigabytes(text: str) -> int:
    """The size of the system disk in GB, within what Azure makes."""
    if re.fullmatch(r"\d{1,4}", text, re.ASCII) and 64 <= int(text) <= 4095:
        return int(text)
    raise ValueError("64 to 4095 gigabytes")


def words(text: str) -> tuple[str, ...]:
    """Words as a shell splits them."""
    return tuple(shlex.split(text))  # its ValueError says which quote is missing


def default_name() -> str:
    """The name of a VM that was given none: lab- and the user's name, as far as a DNS label can hold it."""
    user = re.sub(r"[^a-z0-9-]+", "-", getpass.getuser().lower()).strip("-")
    return f"lab-{user}"[:40].rstrip("-") if user else "lab-vm"


# A DNS label as Azure takes it, and a VM's host name too.
label = matching(r"[a-z][a-z0-9-]{1,61}[a-z0-9]", "3 to 63 small letters, digits or '-', beginning with a letter")


@dataclass(frozen=True, kw_only=True)
class VmSettings(FromEnvironment):
    """The validated settings of a VM; a field's name in capitals is the variable that sets it. None: not set."""

    name: str | None = setting(label, None, "name of the VM and of its address (lab-<you>; else the one there is)")
    region: str = setting(matching(r"[a-z0-9]{2,40}", "a region's name such as westeurope"), "eastus", "Azure region")
    size: str = setting(
        matching(r"(?i:standard|basic)_[A-Za-z0-9_-]{2,60}", "a size such as Standard_NC4as_T4_v3"),
        "Standard_D4s_v5",
        "VM size; N-series sizes get the GPU lab",
    )
    spot: bool = setting(flag, "0", "1: spare capacity, cheaper; Azure may stop the VM at any time")
    image_urn: str | None = setting(
        matching(r"[^:\s]+(:[^:\s]+){3}", "publisher:offer:sku:version"), None, "VM image (the DSVM; else the next)"
    )
    allow_from: str | None = setting(access, None, "who may open the lab's port: auto (you), none, internet, a network")
    disk_gb: int | None = setting(gigabytes, None, "size of the system disk in GB (the image's, at least 128)")
    auto_shutdown: time | None = setting(clock, "0200", "stop the VM daily at this time of yours; off: never")
    idle_stop: int = setting(minutes, "60", "stop the VM after so many minutes without use; 0: never")
    yes: bool = setting(flag, "0", "1: vm-delete does not ask")
    dry_run: bool = setting(flag, "0", "1: print the commands, change nothing in the cloud")
    subscription: str | None = setting(
        matching(r"[^\s'\"].{0,100}", "a subscription's name or id"), None, "Azure subscription (az's default)"
    )
    ssh_options: tuple[str, ...] = setting(words, "", "more options for ssh, such as -J jump@host")
    ssh_key: Path | None = setting(folder, None, "private SSH key, beside its .pub (one of the lab's own is made)")
    metadata: bool = setting(flag, "0", "1: notebooks may reach the cloud's metadata service, and the VM's identity")
    address_url: str = setting(url, "https://api.ipify.org", "answers with your public address")
    image_tar: str | None = setting(matching(r"/[^\n\r]+", "a path on the VM"), None, "tar of a ready image, on the VM")
    wheels: str | None = setting(
        matching(r"/[^\n\r]+", "a path on the VM"), None, "folder of the tools' wheels, on the VM"
    )
