"""`make vm-sync`: bring this checkout, as it is now, to the VM and run it there."""

from __future__ import annotations

from provision.url import running
from provision.vm import INTERRUPTED, Cloud, deliver
from scripts.console import run


def main() -> None:
    """Send, run, print the URL."""
    cloud = Cloud.open()
    print(deliver(cloud, running(cloud)))


if __name__ == "__main__":
    run(main, interrupted=INTERRUPTED)
