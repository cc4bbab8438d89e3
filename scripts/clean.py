"""`make clean`: remove the container and the images; never the workspace or the state."""

from __future__ import annotations

from scripts.console import run, say
from scripts.image import VARIANTS, tag_of
from scripts.lab import Lab
from scripts.supply import BOOTSTRAPPED_BASE


def main() -> None:
    """Remove what can be made again, and say where the rest is."""
    lab = Lab.open()
    found = lab.container()
    if found:
        lab.engine.remove(found.id)
        say(f"removed the container {found.name}")
    for name in (*map(tag_of, VARIANTS), BOOTSTRAPPED_BASE):
        if lab.engine.remove_image(name):
            say(f"removed the image {name}")
    lab.engine.prune_superseded()
    say(f"kept: {lab.settings.workspace} (your work) and {lab.state.root} (token, home)")


if __name__ == "__main__":
    run(main)
