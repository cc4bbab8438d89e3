"""Containers cannot reach the cloud's metadata service, shown where nothing can leave: three network namespaces.

`lab` stands for the container, `vm` routes for it, `cloud` holds the metadata service's address. None has a way out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scripts.settings import ROOT
from tests.conftest import wait_until
from tests.provision import machines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METADATA = "169.254.169.254"
ASK = f"import urllib.request as u; print(u.urlopen('http://{METADATA}/', timeout=3).status)"
NETWORK = f"""
link add b0 netns lab type veth peer name to-lab netns vm
link add c0 netns cloud type veth peer name to-cloud netns vm
-n lab addr add 10.77.0.2/24 dev b0
-n lab link set b0 up
-n lab route add default via 10.77.0.1
-n vm addr add 10.77.0.1/24 dev to-lab
-n vm addr add 10.78.0.1/24 dev to-cloud
-n vm link set to-lab up
-n vm link set to-cloud up
-n vm route add {METADATA} via 10.78.0.2
-n cloud addr add 10.78.0.2/24 dev c0
-n cloud link set lo up
-n cloud addr add {METADATA}/32 dev lo
-n cloud link set c0 up
-n cloud route add default via 10.78.0.1
"""


def inside(name: str, *argv: str) -> list[str]:
    """The command line that runs a command in one of this test's namespaces."""
    return ["ip", "netns", "exec", f"{name}-{os.getpid()}", *argv]


def ip(*words: str) -> None:
    """Run ip with this test's own names of namespaces."""
    named = [f"{each}-{os.getpid()}" if each in {"lab", "vm", "cloud"} else each for each in words]
    done = subprocess.run(["ip", *named], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(named)}: {done.stderr}"


def answer(name: str) -> str:
    """What the metadata service answers there: 200, or nothing."""
    argv = inside(name, sys.executable, "-c", ASK)
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def guard(settings: str) -> None:
    """Let the VM's bootstrap set its rules, twice: the second time must change nothing."""
    code = f"from provision import bootstrap as b; b.ensure_guard({settings}); b.ensure_guard({settings})"
    done = subprocess.run(
        inside("vm", sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[None]:
    """The three namespaces, with a metadata service that answers."""
    machines.require_root("ip", "iptables")
    for name in ("lab", "vm", "cloud"):
        ip("netns", "add", name)
    try:
        for line in NETWORK.strip().splitlines():
            ip(*line.split())
        subprocess.run(inside("vm", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"), check=True)
        serve = inside("cloud", sys.executable, "-m", "http.server", "--bind", METADATA, "80")
        with subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            # Without the guard a container reaches the service: else this test would prove nothing.
            wait_until(lambda: answer("lab") == "200", seconds=10)
            yield
            server.terminate()
    finally:
        for name in ("lab", "vm", "cloud"):
            ip("netns", "delete", name)


@pytest.mark.usefixtures("namespaces")
def test_a_container_cannot_reach_the_metadata_service_and_the_vm_can() -> None:
    """The VM's identity is not one request away from a notebook; the VM's own idle stop still gets it."""
    guard("{}")
    got = {name: answer(name) for name in ("lab", "vm")}
    assert got == {"lab": "", "vm": "200"}, f"got {got}"


@pytest.mark.usefixtures("namespaces")
def test_a_setting_opens_the_metadata_service() -> None:
    """METADATA=1 takes the rules away again."""
    guard("{}")
    guard("{'METADATA': '1'}")
    got = answer("lab")
    assert got == "200", f"got {got!r}"
