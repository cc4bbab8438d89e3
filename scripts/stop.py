"""`make stop`: stop the lab; everything stays for the next start."""

from __future__ import annotations

from scripts.console import run, say
from scripts.lab import Lab


def main() -> None:
    """Stop the container; a lab that does not run is a success."""
    lab = Lab.open()
    found = lab.container()
    if not found or found.state not in {"running", "restarting", "paused"}:
        say(f"the lab {lab.settings.container!r} is not running")
        return
    lab.engine.stop(found.id)
    say("stopped; your notebooks, packages and token are kept (make run-cpu starts it again)")


if __name__ == "__main__":
    run(main)
