"""`make help`: the targets from the Makefile's own comments, and the settings from their table."""

from __future__ import annotations

import re

from provision.settings import VmSettings
from scripts import settings
from scripts.console import run


def page(makefile: str) -> str:
    """The help page, from a Makefile whose targets carry `##` comments and whose sections begin with `##@`."""
    lines = ["A private PyTorch + JupyterLab lab. Start with:  make run-cpu"]
    for line in makefile.splitlines():
        if section := re.match(r"##@ (.+)", line):
            lines += ["", section[1]]
        elif target := re.match(r"([a-z-]+):.*?## (.+)", line):
            lines.append(f"  {target[1]:<16} {target[2]}")
    lines += ["", "Settings (make run-cpu PORT=9000, or from the environment)", settings.table(settings.Settings)]
    return "\n".join([*lines, "", "Settings of the cloud VM (make vm-create SIZE=…)", settings.table(VmSettings)])


def main() -> None:
    """Print the page."""
    print(page((settings.ROOT / "Makefile").read_text()))


if __name__ == "__main__":
    run(main)
