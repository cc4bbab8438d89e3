"""`make token-rotate`: a new token; the old one and every browser session made with it end."""

from __future__ import annotations

from scripts import state
from scripts.console import run, say
from scripts.lab import Lab
from scripts.restart import restart


def main() -> None:
    """Replace the token; a running lab restarts, because only that ends its open sessions."""
    lab = Lab.open()
    found = lab.container()
    state.ensure_folders(lab.state, lab.identity)
    with state.lock(lab.state):
        state.write_token(lab.state, lab.identity)
        say("the token is new; the old one no longer works")
        if found and found.state == "running":
            say("restarting the lab, its kernels end …")
            restart(lab, found)


if __name__ == "__main__":
    run(main)
