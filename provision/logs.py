"""`make vm-logs`: what the VM did and said, first boot included; FOLLOW=1 goes on until Ctrl-C."""

from __future__ import annotations

import os

from provision.url import running
from provision.vm import Cloud
from scripts.console import run


def main() -> None:
    """Become ssh, showing the journal."""
    cloud = Cloud.open()
    follow = ["--follow"] if os.environ.get("FOLLOW") not in {None, "", "0"} else []
    argv = cloud.ssh(running(cloud)).bootstrap("logs", *follow)
    cloud.become(argv)


if __name__ == "__main__":
    run(main, interrupted="the lab goes on")
