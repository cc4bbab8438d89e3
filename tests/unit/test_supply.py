"""Which sources the image's parts come from, for every combination of what answers."""

from __future__ import annotations

import http.server
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from scripts import supply
from scripts.settings import Settings
from scripts.supply import BOOTSTRAPPED_BASE, REGISTRY_BASE, Facts, choose

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING_LOCAL: frozenset[str] = frozenset()
LOCKED = supply.locked_cpu_torch(supply.REQUIREMENTS / "torch-cpu.txt")


@pytest.mark.parametrize(
    ("environ", "local", "registry", "index", "expected"),
    [
        ({}, set(), "", "", (REGISTRY_BASE, False, "cpu")),
        ({}, set(), "refused", "", (BOOTSTRAPPED_BASE, True, "cpu")),
        ({}, set(), "", "refused", (REGISTRY_BASE, False, "cuda13")),
        ({}, set(), "refused", "refused", (BOOTSTRAPPED_BASE, True, "cuda13")),
        ({}, {REGISTRY_BASE}, "refused", "", (REGISTRY_BASE, False, "cpu")),
        ({}, {BOOTSTRAPPED_BASE}, "refused", "", (BOOTSTRAPPED_BASE, False, "cpu")),
        ({}, {BOOTSTRAPPED_BASE}, "", "", (REGISTRY_BASE, False, "cpu")),
        ({"BASE_IMAGE": "debian"}, {REGISTRY_BASE}, "", "", (BOOTSTRAPPED_BASE, True, "cpu")),
        ({"BASE_IMAGE": "my/base:1"}, set(), "refused", "", ("my/base:1", False, "cpu")),
        ({"TORCH_SOURCE": "pypi"}, set(), "", "", (REGISTRY_BASE, False, "cuda13")),
        ({"TORCH_SOURCE": "cpu-index"}, set(), "", "refused", (REGISTRY_BASE, False, "cpu")),
    ],
)
def test_the_choice(
    environ: dict[str, str], local: set[str], registry: str, index: str, expected: tuple[str, bool, str]
) -> None:
    """A setting decides; else what is here, else what answers, else Debian and PyPI."""
    got = choose(Settings.load(environ), Facts(frozenset(local), registry, index))
    assert (got.base, got.bootstrap, got.torch_lock) == expected, f"got {got}, expected {expected}"


def test_the_reasons_name_what_did_not_answer() -> None:
    """Whoever gets the larger image is told why, in the source's own words."""
    got = choose(Settings.load({}), Facts(NOTHING_LOCAL, "connection refused", "HTTP 403"))
    assert "connection refused" in got.reasons[0], got.reasons
    assert "HTTP 403" in got.reasons[1], got.reasons


@contextmanager
def stand_in_index(page: str, *, delay: float = 0) -> Iterator[str]:
    """A package index on loopback that has one page, served after `delay` seconds."""
    wait = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wait.wait(delay)
            self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
    finally:
        wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


def wheel_link(machine: str, version: str = LOCKED) -> str:
    """A link as the index writes it, '+' escaped."""
    name = f"torch-{version}-cp313-cp313-manylinux_2_28_{machine}.whl".replace("+", "%2B")
    return f'<a href="/whl/cpu/{name}">{name}</a>'


@pytest.mark.parametrize(
    ("page", "architecture", "expected"),
    [
        (wheel_link("x86_64"), "amd64", ""),
        (wheel_link("aarch64"), "arm64", ""),
        (wheel_link("x86_64").replace("%2B", "+"), "amd64", ""),
        (wheel_link("x86_64"), "arm64", f"it has no torch {LOCKED} for aarch64"),
        (wheel_link("x86_64", "1.0.0+cpu"), "amd64", f"it has no torch {LOCKED} for x86_64"),
        ("<html>Sign in to the company network</html>", "amd64", f"it has no torch {LOCKED} for x86_64"),
    ],
)
def test_an_index_counts_only_with_the_locked_wheel(page: str, architecture: str, expected: str) -> None:
    """An answering host is not enough: a login page or an older mirror has no wheel for us."""
    with stand_in_index(page) as url:
        got = supply.cpu_index_problem(Settings.load({"TORCH_INDEX_URL": url}), architecture)
    assert got == expected, f"got {got!r}, expected {expected!r}"


def test_a_dead_index_is_a_reason_not_a_failure() -> None:
    """A refused connection comes back as words."""
    with stand_in_index("") as url:
        pass
    got = supply.cpu_index_problem(Settings.load({"TORCH_INDEX_URL": url}), "amd64")
    assert re.search("refused", got, re.IGNORECASE), f"got {got!r}"


def test_a_silent_index_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not answer within the probe's time does not count."""
    monkeypatch.setattr(supply, "PROBE_SECONDS", 0.2)
    with stand_in_index(wheel_link("x86_64"), delay=10) as url:
        got = supply.cpu_index_problem(Settings.load({"TORCH_INDEX_URL": url}), "amd64")
    assert "timed out" in got, f"got {got!r}"
