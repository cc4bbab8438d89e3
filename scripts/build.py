"""`make build`: build the image now, even when it is up to date."""

from __future__ import annotations

import os
import sys

from scripts.console import run
from scripts.engine_install import ensure_engine
from scripts.image import build_image
from scripts.lab import Lab
from scripts.settings import Settings


def main() -> None:
    """Build the named variant's image and print its id."""
    ensure_engine(no_install=Settings.load(os.environ).no_install)
    lab = Lab.open()
    print(build_image(lab.engine, lab.settings, sys.argv[1]).id)


if __name__ == "__main__":
    run(main)
