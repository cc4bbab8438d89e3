"""Whether the lab's port is free, and who has it when it is not."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import psutil

from scripts.console import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


def require_free(bind: str, port: int, publisher: Callable[[int], str | None]) -> None:
    """Prove that the lab can listen there; `publisher` names a container that publishes a port.

    Raises:
        LabError: taken (the message names the process or container) or not an address of this machine.

    """
    container = publisher(port)
    if container is None:
        try:
            _try_to_listen(bind, port)
        except OSError as error:
            _explain(error, bind, port)
        else:
            return
    holder = f"the container {container!r}" if container else _process_on(port)
    raise LabError(
        f"PORT={port} is taken by {holder}",
        hint=f"make run-cpu PORT={_free_port_near(bind, port)}, or stop it",
    )


def _explain(error: OSError, bind: str, port: int) -> None:
    """Raise for every refusal but 'in use'."""
    if error.errno == errno.EADDRNOTAVAIL:
        raise LabError(f"BIND={bind} is not an address of this machine", hint="make run-cpu BIND=127.0.0.1") from error
    if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
        raise LabError(
            f"cannot listen on {bind} port {port}: {error.strerror}", hint="another PORT= or BIND="
        ) from error


def _try_to_listen(bind: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the engine does; without it a port that was in use a moment ago counts as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except PermissionError:
            return  # below 1024 only the engine, which is root, may listen: it will say if it cannot
        probe.listen(1)


def _process_on(port: int) -> str:
    """Name the process that listens on a port; other users' processes show only to root."""
    try:
        pids = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == "LISTEN" and each.laddr and each.laddr.port == port
        ]
    except psutil.AccessDenied:
        pids = []
    for pid in filter(None, pids):
        try:
            return f"the process {psutil.Process(pid).name()!r} (pid {pid})"
        except psutil.Error:
            continue
    return "another user's process (sudo ss -ltnp shows it)"


def _free_port_near(bind: str, port: int) -> int:
    for candidate in range(port + 1, min(port + 100, 65536)):
        try:
            _try_to_listen(bind, candidate)
        except OSError:
            continue
        return candidate
    return 8899
