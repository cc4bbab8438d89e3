"""Whether the VM may stop itself, and the call that does it. Standard library only: the VM's own Python runs this.

A guest's shutdown would go on billing; deallocating is Azure's to do, asked for with the VM's managed identity:
learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token and
learn.microsoft.com/rest/api/compute/virtual-machines/deallocate.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts import health

METADATA = "http://169.254.169.254"
MANAGEMENT = "https://management.azure.com"
COMPUTE_API = "2024-07-01"
GRACE = 10 * 60  # seconds after boot: time to open the browser


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What is known of the lab's use. Times in seconds since the epoch; None: never.

    `last_activity`: as the server tells, of its kernels and itself; `last_seen`: when an earlier look found it in use.
    """

    connections: int
    busy: int
    last_activity: float | None
    last_seen: float | None
    booted: float


def decide(activity: Activity | None, *, now: float, idle_stop: int) -> tuple[bool, str]:
    """Return whether to deallocate after `idle_stop` minutes, and why. None: no answer, which proves nothing idle."""
    if not idle_stop:
        return False, "IDLE_STOP=0: never"
    if activity is None:
        return False, "the lab does not answer"
    if activity.busy or activity.connections:
        return False, f"in use: {activity.busy} busy kernels, {activity.connections} connections"
    since = max(activity.last_activity or 0, activity.last_seen or 0, activity.booted + GRACE)
    idle = (now - since) / 60
    return idle >= idle_stop, f"idle for {max(0, idle):.0f} of {idle_stop} minutes"


def read_activity(
    status: dict[str, Any], kernels: list[dict[str, Any]], *, seen: float | None, booted: float
) -> Activity:
    """Read what the server's /api/status and /api/kernels tell."""
    times = [status.get("last_activity"), *(each.get("last_activity") for each in kernels)]
    return Activity(
        connections=sum(each.get("connections") or 0 for each in kernels),
        busy=sum(each.get("execution_state") == "busy" for each in kernels),
        last_activity=max((_timestamp(each) for each in times if each), default=None),
        last_seen=seen,
        booted=booted,
    )


def _timestamp(text: str) -> float:
    """Seconds since the epoch from a server's time such as 2026-01-02T03:04:05.678901Z (Python 3.10 knows no Z)."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def look(server: health.Server, token: str, stamp: Path) -> Activity | None:
    """Ask the lab; remember in the stamp's time when it was in use. None: it does not answer."""
    try:
        status, kernels = (server.get_json(path, token=token) for path in ("/api/status", "/api/kernels"))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    seen = stamp.stat().st_mtime if stamp.exists() else None
    booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    activity = read_activity(status, kernels, seen=seen, booted=booted)
    if activity.busy or activity.connections:
        stamp.touch()
    return activity


def _json(request: urllib.request.Request) -> Any:
    """The JSON answer to a request; never through a proxy: all of this is this machine's or Azure's own."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            text = answer.read()
    except urllib.error.HTTPError as refusal:
        refusal.close()
        raise
    return json.loads(text) if text.strip() else None


def deallocate(metadata: str = METADATA, management: str = MANAGEMENT) -> None:
    """Ask Azure to deallocate this VM.

    Raises:
        OSError: the metadata service or Azure refused or did not answer.

    """
    own = {"Metadata": "true"}
    compute = _json(urllib.request.Request(f"{metadata}/metadata/instance/compute?api-version=2021-02-01", headers=own))  # noqa: S310
    question = (
        f"{metadata}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
    )
    token = _json(urllib.request.Request(question, headers=own))["access_token"]  # noqa: S310
    url = f"{management}{compute['resourceId']}/deallocate?api-version={COMPUTE_API}"
    headers = {"Authorization": f"Bearer {token}", "Content-Length": "0"}
    _json(urllib.request.Request(url, data=b"", headers=headers, method="POST"))  # noqa: S310


def main() -> None:
    """Look, decide, act; every decision is a line in the journal."""
    settings = os.environ
    state = Path(settings.get("STATE_DIR") or Path.home() / ".local/share/pytorch-jupyter")
    token = (state / "run/token").read_text().strip() if (state / "run/token").exists() else ""
    stamp = Path(settings.get("RUNTIME_DIRECTORY", "/run/pytorch-jupyter-idle")) / "seen"
    certificate = state / "run/tls/self-signed.pem" if settings.get("TLS") == "self-signed" else None
    server = health.Server("127.0.0.1", int(settings.get("PORT") or 8888), certificate)
    activity = look(server, token, stamp)
    stop, why = decide(activity, now=time.time(), idle_stop=int(settings.get("IDLE_STOP") or 0))
    print(f"idle: {why}", file=sys.stderr)
    if not stop:
        return
    print("idle: asking Azure to deallocate this VM; make vm-start brings it back", file=sys.stderr)
    try:
        deallocate(settings.get("IDLE_METADATA", METADATA), settings.get("IDLE_MANAGEMENT", MANAGEMENT))
    except (OSError, KeyError, ValueError) as error:
        sys.exit(
            f"error: this VM could not stop itself: {error}\n"
            "hint: make vm-stop; make vm-create again gives its identity the role that it needs"
        )


if __name__ == "__main__":
    main()
