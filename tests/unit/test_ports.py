"""A taken port is told apart from a free one, with the name of who has it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from scripts import ports
from scripts.console import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator


def nobody(_port: int) -> None:
    """No container publishes anything."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A loopback port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_accepted(taken: int) -> None:
    """A port that nobody listens on passes; a neighbour's does not matter."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    assert free != taken
    ports.require_free("127.0.0.1", free, nobody)


def test_a_taken_port_names_the_process(taken: int) -> None:
    """The message names the process that has the port; the hint offers a free one."""
    with pytest.raises(LabError) as caught:
        ports.require_free("127.0.0.1", taken, nobody)
    assert f"PORT={taken} is taken by the process" in caught.value.message, caught.value.message
    assert f"(pid {os.getpid()})" in caught.value.message, caught.value.message
    assert "make run-cpu PORT=" in caught.value.hint, caught.value.hint


def test_a_port_on_every_address_conflicts_with_one_on_loopback(taken: int) -> None:
    """Listening on 0.0.0.0 needs the port on every address."""
    with pytest.raises(LabError, match="is taken"):
        ports.require_free("0.0.0.0", taken, nobody)  # noqa: S104


def test_a_taken_port_names_the_container() -> None:
    """A container that publishes the port is named, whether or not a proxy process listens."""
    with pytest.raises(LabError, match="is taken by the container 'web'"):
        ports.require_free("127.0.0.1", 8888, lambda _port: "web")


def test_a_foreign_address_is_named() -> None:
    """BIND must be an address of this machine (192.0.2.1 is reserved for documentation)."""
    with pytest.raises(LabError, match=r"BIND=192\.0\.2\.1 is not an address of this machine"):
        ports.require_free("192.0.2.1", 0, nobody)
