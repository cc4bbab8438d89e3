"""Waiting for a server to answer: by asking it, because an engine's first health check may come late."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POLL_SECONDS = 0.05
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


def reachable(bind: str) -> str:
    """The address at which this machine itself reaches a server that listens on `bind`."""
    return WILDCARDS.get(bind, bind)


@dataclass(frozen=True)
class Server:
    """Where a lab's server is asked. `certificate`: the file of the one it presents; None: it speaks plain HTTP."""

    host: str
    port: int
    certificate: Path | None = None

    def get_json(self, path: str, *, token: str = "", timeout: float = 5) -> Any:
        """Fetch a JSON answer directly, whatever proxy the environment names.

        Raises:
            OSError, http.client.HTTPException, ValueError: no answer, not a good one, or another server's.

        """
        connection = self._connect(timeout)
        try:
            connection.request("GET", path, headers={"Authorization": f"token {token}"} if token else {})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ValueError(f"HTTP {response.status} for {path}")
            return json.loads(response.read())
        finally:
            connection.close()

    def answers(self) -> bool:
        """Whether a Jupyter server answers there (/api is open and tells only its version)."""
        try:
            return "version" in self.get_json("/api")
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def wait_until_answers(self, *, timeout: float, alive: Callable[[], bool]) -> bool:
        """Poll until the server answers; False when it is no longer alive or `timeout` seconds have passed."""
        deadline = time.monotonic() + timeout
        next_look = time.monotonic() + 1
        while time.monotonic() < deadline:
            if self.answers():
                return True
            if time.monotonic() > next_look:
                if not alive():
                    return False
                next_look = time.monotonic() + 1
            time.sleep(POLL_SECONDS)
        return False

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        """Connect; the certificate is compared with the file, whoever has issued it and whenever it ends."""
        if self.certificate is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)
        connection.connect()
        end = "-----END CERTIFICATE-----\n"
        first = self.certificate.read_text().partition(end)[0] + end
        if connection.sock.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(first):
            connection.close()
            raise ValueError(f"the server on port {self.port} presents another certificate than {self.certificate}")
        return connection
