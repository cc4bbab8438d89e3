"""The lab on this machine: settings, paths and engine together, and the steps that the verbs share."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts import health, ports, state
from scripts.console import LabError, say
from scripts.engine import Engine
from scripts.host import lab_identity
from scripts.settings import Settings
from scripts.spec import lab_url

if TYPE_CHECKING:
    from scripts.engine import ContainerInfo
    from scripts.host import Identity
    from scripts.spec import ContainerSpec
    from scripts.state import State

LOG_LINES = 20


@dataclass(frozen=True)
class Lab:
    """What every verb needs: the settings, whose lab it is, where its state lives, and the engine."""

    settings: Settings
    identity: Identity
    state: State
    engine: Engine

    @classmethod
    def open(cls) -> Lab:
        """Read the settings and connect to the engine."""
        settings = Settings.load(os.environ)
        identity = lab_identity()
        return cls(settings, identity, state.locate(settings, identity), Engine())

    def container(self) -> ContainerInfo | None:
        """The lab's container; None when there is none.

        Raises:
            LabError: a container of that name exists that is not a lab; it is never touched.

        """
        found = self.engine.find(self.settings.container)
        if found and not found.ours:
            raise LabError(
                f"a container named {found.name!r} exists that is not a lab; it is left alone",
                hint=f"make run-cpu CONTAINER={found.name}-2, or rename it: docker rename {found.name} …",
            )
        return found

    def existing_container(self) -> ContainerInfo:
        """The lab's container.

        Raises:
            LabError: there is none.

        """
        found = self.container()
        if not found:
            raise LabError(f"there is no lab named {self.settings.container!r}", hint="make run-cpu starts one")
        return found

    def url(self, container: ContainerInfo) -> str:
        """The URL to open, token included."""
        bind, port = container.address or (self.settings.bind or "", self.settings.port)
        return lab_url(
            host=self.settings.url_host or url_host(bind),
            port=port,
            token=state.read_token(self.state),
            secure=container.certificate is not None,
        )


def url_host(bind: str) -> str:
    """The name under which a browser finds a server that listens on `bind`."""
    address = health.reachable(bind)
    if address == bind:
        return "localhost" if bind in {"127.0.0.1", "::1"} else f"[{bind}]" if ":" in bind else bind
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return "localhost"  # a name that not even this machine can resolve helps nobody
    return socket.gethostname()


def ensure_running(
    engine: Engine, spec: ContainerSpec, found: ContainerInfo | None, *, timeout: float
) -> ContainerInfo:
    """Have a container with exactly this spec running and answering; what is already so is left alone.

    Raises:
        LabError: the port is taken, or the container died or did not answer in time; a container made here is
            removed again.

    """
    if found and (changes := spec.changes_from(found.spec)):
        if found.state != "running" or found.address != (spec.bind, spec.port):
            ports.require_free(spec.bind, spec.port, engine.publisher)
        say(f"recreating the container: {'; '.join(changes)} changed; your work and token stay")
        engine.remove(found.id)
        return _create(engine, spec, timeout)
    if not found:
        ports.require_free(spec.bind, spec.port, engine.publisher)
        return _create(engine, spec, timeout)
    if found.state != "running":
        ports.require_free(spec.bind, spec.port, engine.publisher)
        engine.start(found.id)
    await_answer(engine, found, timeout=timeout)
    return found


def _create(engine: Engine, spec: ContainerSpec, timeout: float) -> ContainerInfo:
    """Create, start and wait; on any failure, Ctrl-C included, nothing half-made stays behind."""
    try:
        created = engine.create(spec)
        engine.start(created.id)
        await_answer(engine, created, timeout=timeout)
    except BaseException:
        left = engine.find(spec.name)
        if left and left.ours:
            engine.remove(left.id)
        raise
    return created


def server_of(container: ContainerInfo) -> health.Server:
    """Where this machine asks a container's server."""
    bind, port = container.address or ("127.0.0.1", 0)
    return health.Server(health.reachable(bind), port, container.certificate)


def await_answer(engine: Engine, container: ContainerInfo, *, timeout: float) -> None:
    """Wait until the lab answers.

    Raises:
        LabError: it stopped or stayed silent; its last lines are shown first.

    """

    def alive() -> bool:
        now = engine.find(container.id)
        return now is not None and now.state == "running"

    if not server_of(container).wait_until_answers(timeout=timeout, alive=alive):
        raise _failure(engine, container.id, timeout)


def _failure(engine: Engine, container_id: str, timeout: float) -> LabError:
    """Show the server's last lines and say how it ended."""
    now = engine.find(container_id)
    if now is None:
        return LabError("the container was removed while it started", hint="make run-cpu starts it again")
    for line in engine.logs(container_id, tail=LOG_LINES).splitlines():
        say(f"  | {line}")
    if now.state == "running":
        hint = "make run-cpu WAIT_TIMEOUT=5m waits longer; make doctor checks this machine"
        return LabError(f"the lab did not answer within {timeout:.0f} s", hint=hint)
    killed = ", killed for want of memory" if now.oom_killed else ""
    hint = "its last lines stand above; make doctor checks this machine"
    return LabError(f"the container stopped with exit code {now.exit_code}{killed}", hint=hint)
