"""Errors as the person at the terminal sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from scripts.console import LabError, run


def raise_(error: BaseException) -> int:
    """Raise from inside an expression."""
    raise error


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (LabError("PORT=1 is taken", hint="PORT=2"), 1, "error: PORT=1 is taken\nhint: PORT=2\n"),
        (
            KeyboardInterrupt(),
            130,
            "error: interrupted\nhint: nothing half-made was kept; the same command starts over\n",
        ),
        (
            OverflowError("odd"),
            1,
            "error: unexpected OverflowError: odd\nhint: LAB_DEBUG=1 shows where; make doctor checks this machine\n",
        ),
    ],
)
def test_every_failure_is_two_lines(
    error: BaseException, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cause and hint on stderr, nothing on stdout, an exit code, no traceback."""
    with pytest.raises(SystemExit) as caught:
        run(lambda: raise_(error))
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err) == (code, "", expected), f"got {caught.value.code}, {out!r}, {err!r}"


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAB_DEBUG=1 lets an unexpected error through."""
    monkeypatch.setenv("LAB_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(lambda: raise_(ZeroDivisionError()))


def test_ctrl_c_in_a_real_process_is_one_line() -> None:
    """SIGINT ends a command with 130 and without a traceback."""
    code = "import time; from scripts.console import run; run(lambda: print('up', flush=True) or time.sleep(60))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, f"got {process.returncode}: {err}"
    assert err.startswith("error: interrupted\nhint: "), f"got {err!r}"
