"""What the person at the terminal sees: talk on stderr, one error format, questions only on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LabError(Exception):
    """Something the user can mend: what went wrong with which value, and the command that helps."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def say(text: str) -> None:
    """Write one line of talk to stderr; stdout carries data only."""
    print(text, file=sys.stderr, flush=True)


def ask(question: str) -> bool:
    """Ask yes or no on a terminal; without one (a script, a VM's first boot) the answer is yes."""
    if not sys.stdin.isatty():
        return True
    print(f"{question} [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}


def confirm(question: str) -> bool:
    """Ask before something is destroyed: only a typed yes counts; without a terminal the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def run(
    main: Callable[[], int | None], *, interrupted: str = "nothing half-made was kept; the same command starts over"
) -> None:
    """Exit with main's code; every failure becomes one line and a hint, never a traceback."""
    try:
        sys.exit(main() or 0)
    except LabError as error:
        fail(error.message, error.hint)
    except KeyboardInterrupt:
        fail("interrupted", interrupted, code=130)
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("LAB_DEBUG"):
            raise
        fail(
            f"unexpected {type(error).__name__}: {error}",
            "LAB_DEBUG=1 shows where; make doctor checks this machine",
        )


def fail(message: str, hint: str, *, code: int = 1) -> None:
    """Print the error line and its hint to stderr, and exit."""
    say(f"error: {message}")
    say(f"hint: {hint}")
    sys.exit(code)
