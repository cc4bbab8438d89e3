"""`make status`: the lab as it is now; `python -m scripts.status --json` for programs.

Exit code 3: not running, or without its GPU.
"""

from __future__ import annotations

import http.client
import json
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from scripts import state
from scripts.console import run
from scripts.gpu_probe import read_meters
from scripts.image import is_fresh
from scripts.lab import Lab, server_of

if TYPE_CHECKING:
    from scripts.engine import ContainerInfo
    from scripts.gpu_probe import Meter

NOT_RUNNING = 3  # as systemctl status answers


@dataclass(frozen=True, kw_only=True)
class Status:
    """What `make status` tells. Memory in bytes; `address` without the token; None: not known now.

    `fingerprint`: SHA-256 of the certificate; None: plain HTTP.

    `gpus`: None without a GPU variant; empty: the container has lost its GPU.
    """

    container: str
    state: str
    variant: str | None = None
    answers: bool = False
    address: str | None = None
    fingerprint: str | None = None
    started_at: str | None = None
    kernels: int | None = None
    memory_used: int | None = None
    memory_limit: int | None = None
    image_up_to_date: bool | None = None
    gpus: list[Meter] | None = None
    workspace: str = ""
    state_dir: str = ""


def main() -> int:
    """Print the status; the exit code tells whether the lab answers."""
    status = look(Lab.open())
    print(json.dumps(asdict(status), indent=2) if "--json" in sys.argv[1:] else page(status))
    return 0 if status.answers and status.gpus != [] else NOT_RUNNING


def look(lab: Lab) -> Status:
    """Ask the engine and the server."""
    found = lab.container()
    workspace, state_dir = str(lab.settings.workspace), str(lab.state.root)
    if not found:
        return Status(container=lab.settings.container, state="absent", workspace=workspace, state_dir=state_dir)
    running = found.state == "running"
    spec = json.loads(found.spec)
    mounts = {each["target"]: each["source"] for each in spec["mounts"]}
    return Status(
        container=found.name,
        state=found.state,
        variant=found.variant,
        answers=running and server_of(found).answers(),
        address=lab.url(found).partition("/lab?")[0] if running else None,
        started_at=found.started_at if running else None,
        fingerprint=spec["environment"].get("LAB_TLS_FINGERPRINT"),
        kernels=_count_kernels(lab, found) if running else None,
        memory_used=lab.engine.memory_usage(found.id) if running else None,
        memory_limit=spec["memory"],
        image_up_to_date=_up_to_date(lab, found),
        gpus=read_meters(lab.engine, found) if running and found.variant != "cpu" else None,
        workspace=mounts.get("/workspace", workspace),
        state_dir=state_dir,
    )


def _count_kernels(lab: Lab, found: ContainerInfo) -> int | None:
    token = state.read_token(lab.state)
    try:
        return len(server_of(found).get_json("/api/kernels", token=token))
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _up_to_date(lab: Lab, found: ContainerInfo) -> bool | None:
    """Whether the container runs the image that the sources would give; None for a ready image."""
    if lab.settings.image:
        return None
    image = lab.engine.image(found.image)
    return bool(image and is_fresh(image, lab.settings, found.variant))


def page(status: Status) -> str:
    """The status as lines for a person."""
    rows = [("lab", f"{status.container}: {_state_in_words(status)}")]
    if status.address:
        rows.append(("address", f"{status.address} (make url prints it with the token)"))
    if status.fingerprint:
        rows.append(("certificate", f"SHA-256 {status.fingerprint}"))
    if status.started_at:
        rows.append(("running for", _since(status.started_at, datetime.now(timezone.utc))))
    if status.kernels is not None:
        rows.append(("kernels", str(status.kernels)))
    if status.memory_used is not None:
        limit = f" of {status.memory_limit >> 20} MiB" if status.memory_limit else ""
        rows.append(("memory", f"{status.memory_used >> 20} MiB{limit}"))
    rows += [("GPU", _meter_in_words(meter)) for meter in status.gpus or []]
    if status.gpus == []:
        rows.append(("GPU", "lost: the driver does not answer in the container (make restart gives it back)"))
    if status.image_up_to_date is False:
        rows.append(("image", f"older than its sources ({_verb(status)} brings it up to date)"))
    rows += [("workspace", status.workspace), ("state", status.state_dir)]
    return "\n".join(f"{key:<12} {value}" for key, value in rows)


def _verb(status: Status) -> str:
    """The command that starts such a lab."""
    return "make run-cpu" if status.variant in {None, "cpu"} else "make run-gpu"


def _state_in_words(status: Status) -> str:
    if status.state == "absent":
        return "not there (make run-cpu starts it)"
    if status.state != "running":
        return f"{status.state} ({_verb(status)} starts it again)"
    return f"running, {status.variant}" + (
        "" if status.answers else ", but it does not answer (make logs, make restart)"
    )


def _meter_in_words(meter: Meter) -> str:
    busy = "" if meter.utilization is None else f", {meter.utilization} % busy"
    return f"{meter.name}: {meter.memory_used} of {meter.memory_total} MiB{busy}"


def _since(started_at: str, now: datetime) -> str:
    """The time since an engine's timestamp, such as 2026-01-02T03:04:05.678901234Z, in its two largest units."""
    started = datetime.fromisoformat(started_at[:19] + "+00:00")
    minutes, second = divmod(max(0, int((now - started).total_seconds())), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = [f"{days} d", f"{hour} h", f"{minute} min", f"{second} s"]
    first = next((index for index, unit in enumerate(units) if not unit.startswith("0 ")), 3)
    return " ".join(units[first : first + 2])


if __name__ == "__main__":
    run(main)
