"""`make audit` against a stand-in for OSV on loopback: what is known is told, silence is no acquittal."""

from __future__ import annotations

import http.server
import json
import re
import threading
from typing import TYPE_CHECKING

import pytest

from scripts import audit
from scripts.console import LabError
from scripts.supply import REQUIREMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = REQUIREMENTS / "gpu.txt"

LOCKED = re.compile(r"^([\w.-]+)==([^ ;\\]+) \\$", re.MULTILINE)  # without a marker of another system


class Osv(http.server.BaseHTTPRequestHandler):
    """Knows one vulnerability, of one package; notes what it is asked."""

    protocol_version = "HTTP/1.1"
    vulnerable: str
    asked: set[tuple[str, str]]

    def do_POST(self) -> None:
        """Answer as OSV does."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = question["package"]["name"], question["version"]
        self.asked.add((name, version))
        fixed = {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]}
        affected = [{"package": {"name": name, "ecosystem": "PyPI"}, **fixed}]
        found = {"id": "PYSEC-2026-1", "aliases": [], "summary": "made up", "affected": affected}
        body = json.dumps({"vulns": [found]} if name == self.vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def osv() -> Iterator[tuple[str, type[Osv]]]:
    """Its address, and what it knows and is asked."""
    handler = type("Fresh", (Osv,), {"asked": set(), "vulnerable": "nvidia-ml-py"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query", handler
        server.shutdown()


def test_a_known_vulnerability_is_told(
    osv: tuple[str, type[Osv]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every package of a lock is asked about; what is known is a line with the remedy, and the exit code says so."""
    monkeypatch.setenv("AUDIT_URL", osv[0])
    monkeypatch.setattr(audit, "locks", lambda _: [SMALL, SMALL])
    packages = set(LOCKED.findall(SMALL.read_text()))
    code, printed = audit.main(), capsys.readouterr().out
    version = dict(packages)[osv[1].vulnerable]
    expected = f"{osv[1].vulnerable} {version}  PYSEC-2026-1  fixed in 99.1\n"
    assert (code, printed) == (1, expected), f"got {code} and {printed}"
    assert osv[1].asked == packages, f"asked about {osv[1].asked}, expected {packages}"


def test_every_lock_is_asked_about(tmp_path: Path) -> None:
    """All that is installed from: the image's locks and the tools'; not the CPU wheels', which OSV does not know."""
    found = audit.locks(tmp_path)
    names = {path.name for path in REQUIREMENTS.glob("*.txt")} - {"torch-cpu.txt", "overrides.txt"} | {"uv.lock"}
    assert {path.name for path in found} == names, f"got {found}"
    assert "pytest==" in (tmp_path / "uv.lock").read_text(), "the tools' lock lacks the tests' tools"


def test_a_silent_service_is_an_error() -> None:
    """No answer is not the answer that nothing is known."""
    with pytest.raises(LabError) as caught:
        audit.audit(SMALL, "http://127.0.0.1:9/v1/query")
    assert "could not be asked" in caught.value.message, f"got {caught.value.message}"
    assert "AUDIT_URL=" in caught.value.hint, f"got {caught.value.hint}"
