"""`make vm-tunnel`: the VM's lab at localhost, through SSH, until Ctrl-C; no port of the VM needs to be open."""

from __future__ import annotations

import os
import urllib.parse

from provision.url import fetch, running
from provision.vm import Cloud
from scripts import ports
from scripts.console import run, say
from scripts.settings import Settings


def main() -> None:
    """Print the URL at this end and become the tunnel."""
    cloud = Cloud.open()
    here = Settings.load(os.environ).port
    if not cloud.az.dry_run:
        ports.require_free("127.0.0.1", here, lambda _: None)
    vm = running(cloud)
    url = urllib.parse.urlsplit(fetch(cloud, vm))
    forward = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{here}:127.0.0.1:{vm.port}"]
    argv = cloud.ssh(vm).argv(options=forward)
    say("the tunnel stays open until Ctrl-C; open:")
    print(url._replace(netloc=f"localhost:{here}").geturl(), flush=True)
    cloud.become(argv)


if __name__ == "__main__":
    run(main, interrupted="the tunnel is closed; the lab goes on")
