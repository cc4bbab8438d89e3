"""`make logs`: what the server wrote; `FOLLOW=1` goes on until Ctrl-C."""

from __future__ import annotations

import os
import sys

from scripts.console import run
from scripts.lab import Lab

TAIL = 200


def main() -> None:
    """Print the last lines; follow when asked to."""
    lab = Lab.open()
    found = lab.existing_container()
    if os.environ.get("FOLLOW", "0") in {"", "0"}:
        print(lab.engine.logs(found.id, tail=TAIL), end="")
        return
    try:
        for chunk in lab.engine.follow_logs(found.id, tail=TAIL):
            sys.stdout.write(chunk.decode(errors="replace"))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    run(main)
