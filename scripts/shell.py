"""`make shell`: a shell inside the running lab."""

from __future__ import annotations

import os
import sys

from scripts.builder import clients
from scripts.console import LabError, run
from scripts.lab import Lab


def main() -> None:
    """Hand this terminal over to the docker client: it knows how to drive one.

    Raises:
        LabError: the lab is not running, or there is no docker client.

    """
    lab = Lab.open()
    found = lab.existing_container()
    if found.state != "running":
        raise LabError(f"the lab {found.name!r} is {found.state}", hint="make run-cpu starts it")
    client = next(iter(clients()), None)
    if not client:
        raise LabError("there is no docker client on this machine", hint="sudo apt-get install docker.io")
    terminal = ["--interactive", *(["--tty"] if sys.stdin.isatty() else [])]
    os.execv(client, [client, "exec", *terminal, "--workdir", "/workspace", found.id, "bash", *sys.argv[1:]])


if __name__ == "__main__":
    run(main)
