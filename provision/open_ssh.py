"""`make vm-ssh`: a shell on the VM."""

from __future__ import annotations

from provision.url import running
from provision.vm import Cloud
from scripts.console import run


def main() -> None:
    """Become ssh."""
    cloud = Cloud.open()
    argv = cloud.ssh(running(cloud)).argv()
    cloud.become(argv)


if __name__ == "__main__":
    run(main)
