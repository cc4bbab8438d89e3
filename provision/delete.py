"""`make vm-delete`: list what will go, offer to fetch the workspace first, ask, and delete the VM's resource group."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

from provision.pull import pull
from provision.spec import group_of
from provision.url import running
from provision.vm import Cloud, memory_of
from scripts.console import LabError, ask, confirm, run, say

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Delete the group, and only a group of ours.

    Raises:
        LabError: there is no such group, or nobody said yes.

    """
    cloud = Cloud.open()
    name = cloud.settings.name or cloud.only_name()
    if not cloud.group(name) and not cloud.az.dry_run:
        raise LabError(f"there is no VM named {name!r}", hint="make vm-status lists what there is")
    found = cloud.az.read("resource", "list", "--resource-group", group_of(name), assume=[])
    say(f"this deletes the resource group {group_of(name)} and all that is in it, the workspace on its disk included:")
    for line in listing(found):
        say(f"  {line}")
    if not cloud.settings.yes and not cloud.az.dry_run:
        _require_yes(cloud, name)
    cloud.az.change(["group", "delete", "--name", group_of(name), "--yes"], f"deleting {group_of(name)}")
    if cloud.az.dry_run:
        return
    shutil.rmtree(memory_of(name), ignore_errors=True)
    say(f"{name} is gone, and with it everything that it cost")


def listing(found: Sequence[dict[str, Any]]) -> list[str]:
    """One line for a resource, as a person calls it."""
    return sorted(f"{each['type'].rpartition('/')[2]}: {each['name']}" for each in found)


def _require_yes(cloud: Cloud, name: str) -> None:
    if not sys.stdin.isatty():
        raise LabError("nobody is here to say yes", hint=f"make vm-delete NAME={name} YES=1 (make vm-pull first?)")
    if ask("Fetch the workspace first?"):
        say(f"kept: {pull(cloud, running(cloud))}")
    if not confirm(f"Delete {name} for good?"):
        raise LabError("nothing was deleted", hint="make vm-stop ends the bill for computing and keeps everything")


if __name__ == "__main__":
    run(main, interrupted="Azure may go on with it; make vm-status shows it")
