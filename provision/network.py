"""Who may reach the VM: the network security group's rules as values. Docker's ports bypass the VM's own firewall."""

from __future__ import annotations

import ipaddress
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ANYONE = "Internet"  # Azure's tag for every public address
LOOKUP_SECONDS = 3


@dataclass(frozen=True)
class Rule:
    """One inbound rule for TCP: its name, from where, to which port, its priority, and the ALLOW_FROM behind it."""

    name: str
    sources: tuple[str, ...]
    port: int
    priority: int
    allow_from: str


def my_address(url: str) -> str | None:
    """Tell this machine's public address, as the outside sees it, as a network of one; None when nobody does."""
    try:
        with urllib.request.urlopen(url, timeout=LOOKUP_SECONDS) as answer:  # noqa: S310 - http(s) only, by its parser
            return str(ipaddress.ip_network(answer.read(64).decode("ascii").strip()))
    except (OSError, ValueError, urllib.error.URLError):
        return None


def wanted_rules(allow_from: str, caller: str | None, port: int) -> list[Rule]:
    """The rules for ALLOW_FROM; for an unknown caller SSH opens to everyone: it takes the key, and is the way in."""
    mine = (caller,) if caller else ()
    named = {"auto": mine, "none": (), "internet": (ANYONE,)}.get(allow_from, (allow_from,))
    networks = () if allow_from in {"auto", "none", "internet"} else named
    ssh = Rule("ssh", tuple(sorted({*mine, *networks})) or (ANYONE,), 22, 1000, allow_from)
    return [ssh, Rule("lab", named, port, 1010, allow_from)] if named else [ssh]


def read_rules(listing: Sequence[dict[str, Any]]) -> list[Rule]:
    """Our rules in what `az network nsg rule list` answers; others are the user's own and left alone."""
    return [_read_rule(each) for each in listing if each["name"] in {"ssh", "lab"}]


def _read_rule(each: dict[str, Any]) -> Rule:
    sources = each.get("sourceAddressPrefixes") or [each["sourceAddressPrefix"]]
    allow_from = (each.get("description") or "").removeprefix("ALLOW_FROM=")
    return Rule(each["name"], tuple(sorted(sources)), int(each["destinationPortRange"]), each["priority"], allow_from)


def rule_argv(group: str, nsg: str, rule: Rule) -> list[str]:
    """Create the rule, or put it in place of the one of that name."""
    return [
        "network", "nsg", "rule", "create", "--resource-group", group, "--nsg-name", nsg, "--name", rule.name,
        "--priority", str(rule.priority), "--direction", "Inbound", "--access", "Allow", "--protocol", "Tcp",
        "--source-address-prefixes", *rule.sources, "--destination-port-ranges", str(rule.port),
        "--description", f"ALLOW_FROM={rule.allow_from}",
    ]  # fmt: skip


def changes(group: str, nsg: str, *, have: Sequence[Rule], want: Sequence[Rule]) -> list[list[str]]:
    """The commands that lead from one set of rules to the other; none when they are the same."""
    gone = {rule.name for rule in have} - {rule.name for rule in want}
    where = ["--resource-group", group, "--nsg-name", nsg]
    closing = [["network", "nsg", "rule", "delete", *where, "--name", name] for name in sorted(gone)]
    return [*closing, *(rule_argv(group, nsg, rule) for rule in want if rule not in have)]
