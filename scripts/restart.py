"""`make restart`: stop and start the container as it is, and print its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts import state
from scripts.console import run, say
from scripts.gpu_probe import require_working
from scripts.lab import Lab, await_answer

if TYPE_CHECKING:
    from scripts.engine import ContainerInfo


def main() -> None:
    """Restart, wait until it answers, print the URL."""
    lab = Lab.open()
    found = lab.existing_container()
    with state.lock(lab.state):
        restart(lab, found)


def restart(lab: Lab, found: ContainerInfo) -> None:
    """Restart a container and print its URL."""
    lab.engine.restart(found.id)
    await_answer(lab.engine, found, timeout=lab.settings.wait_timeout)
    if found.variant != "cpu":
        say(f"GPU in use: {require_working(lab.engine, found)}")
    print(lab.url(found))


if __name__ == "__main__":
    run(main)
