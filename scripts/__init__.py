"""The host side of the lab: build, start, look after and stop the container."""

import sys

# Here because every command passes here first, and an older Python fails on the syntax of what follows.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        f"error: Python {sys.version.split()[0]} is too old for the lab's tools\n"
        "hint: with any Python from 3.10 on: make PYTHON=python3.12 run-cpu"
    )
