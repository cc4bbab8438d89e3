"""`make url`: the running lab's URL and nothing else."""

from __future__ import annotations

from scripts.console import LabError, run
from scripts.lab import Lab


def main() -> None:
    """Print the URL.

    Raises:
        LabError: the lab is not running.

    """
    lab = Lab.open()
    found = lab.existing_container()
    if found.state != "running":
        raise LabError(f"the lab {found.name!r} is {found.state}", hint="make run-cpu starts it")
    print(lab.url(found))


if __name__ == "__main__":
    run(main)
