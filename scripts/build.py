"""`make build` and `make build-gpu`: build an image now, even when it is up to date."""

from __future__ import annotations

import os
import sys

from scripts.console import run
from scripts.engine_install import ensure_engine
from scripts.gpu import choose_flavour
from scripts.gpu_probe import look_at_host
from scripts.image import build_image
from scripts.lab import Lab
from scripts.settings import Settings


def main() -> None:
    """Build the named variant's image and print its id; `gpu` names the one that CUDA asks for, or that fits here."""
    settings = Settings.load(os.environ)
    variant = _cuda_variant(settings) if sys.argv[1] == "gpu" else sys.argv[1]
    ensure_engine(no_install=settings.no_install)
    lab = Lab.open()
    print(build_image(lab.engine, lab.settings, variant).id)


def _cuda_variant(settings: Settings) -> str:
    """With CUDA=12 or 13 no GPU is needed: an image may be built here for another machine."""
    if settings.cuda != "auto":
        return f"cuda{settings.cuda}"
    return choose_flavour(look_at_host(), settings)[0].variant


if __name__ == "__main__":
    run(main)
