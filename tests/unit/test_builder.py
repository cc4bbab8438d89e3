"""The build as argv, and the search for a client that can build."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import builder
from scripts.base import KEYRING, bootstrap_argv
from scripts.builder import Build, build_argv, find_client, net_file
from scripts.console import LabError
from scripts.settings import Settings

BUILD = Build(
    dockerfile=Path("/c/docker/cpu.Dockerfile"),
    context=Path("/c/docker"),
    tag="pytorch-jupyter:cpu",
    arguments={"BASE": "debian:trixie-slim", "TORCH": "cpu"},
    labels={"l.content": "1234"},
)


def test_the_build_command_as_a_whole() -> None:
    """Proxies go by name and index settings by secret file: no value that may hold a password is an argument."""
    got = build_argv("/usr/bin/docker", BUILD, net=Path("/t/net"), ca=Path("/ca.pem"))
    expected = [
        "/usr/bin/docker",
        "build",
        "--network=host",
        "--file=/c/docker/cpu.Dockerfile",
        "--tag=pytorch-jupyter:cpu",
        "--build-arg=BASE=debian:trixie-slim",
        "--build-arg=TORCH=cpu",
        "--build-arg=HTTP_PROXY",
        "--build-arg=HTTPS_PROXY",
        "--build-arg=NO_PROXY",
        "--build-arg=http_proxy",
        "--build-arg=https_proxy",
        "--build-arg=no_proxy",
        "--label=l.content=1234",
        "--secret=id=net,src=/t/net",
        "--secret=id=ca,src=/ca.pem",
        "/c/docker",
    ]
    assert got == expected, f"got {got}\nexpected {expected}"


def test_pip_settings_become_uvs_and_survive_a_shell() -> None:
    """A mirror set for pip serves the build's uv too, with whatever characters its password has."""
    environ = {"PIP_INDEX_URL": "https://u:p'$x@mirror/simple", "PIP_TRUSTED_HOST": "mirror", "UV_INDEX": "https://two"}
    text = net_file(Settings.load({"TORCH_INDEX_URL": "https://t/whl"}), environ)
    shown = "echo $UV_DEFAULT_INDEX; echo $UV_INSECURE_HOST; echo $UV_INDEX; echo $TORCH_INDEX; echo $DEBIAN_MIRROR"
    got = subprocess.run(["sh", "-c", text + shown], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [environ["PIP_INDEX_URL"], "mirror", "https://two", "https://t/whl", "http://deb.debian.org/debian"]
    assert got == expected, f"got {got}, expected {expected}"


def test_the_bootstrap_command_as_a_whole() -> None:
    """The base is Debian's minimum, signed by Debian's keys, without documentation but with the licences."""
    got = bootstrap_argv(archive=Path("/t/base.tar"), mirror="http://m/debian")
    expected = [
        "mmdebstrap",
        "--variant=minbase",
        f"--keyring={KEYRING}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/info/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--customize-hook=sed -i 's|http://m/debian|http://deb.debian.org/debian|' \"$1\"/etc/apt/sources.list",
        "trixie",
        "/t/base.tar",
        "deb http://m/debian trixie main",
        "deb http://m/debian trixie-updates main",
        "deb http://m/debian-security trixie-security main",
    ]
    assert got == expected, f"got {got}\nexpected {expected}"


def stand_in_client(folder: Path, name: str, *, version: str, buildx: bool) -> str:
    """A docker client that answers `--version` and `buildx version` as a real one of that make does."""
    path = folder / name / "docker"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Docker version {version}, build 1" ;;'
        f" buildx) exit {0 if buildx else 1} ;; esac\n"
    )
    path.chmod(0o755)
    return str(path)


def test_a_client_without_buildx_is_passed_over(tmp_path: Path) -> None:
    """The first on PATH may be new and bare; an older one with BuildKit built in is taken instead."""
    bare = stand_in_client(tmp_path, "bare", version="28.2.2", buildx=False)
    old = stand_in_client(tmp_path, "old", version="20.10.24+dfsg1", buildx=False)
    got = find_client([bare, old])
    assert got == old, f"got {got}, expected {old}"


def test_a_client_with_buildx_is_taken(tmp_path: Path) -> None:
    """Any version with the plugin can build."""
    full = stand_in_client(tmp_path, "full", version="29.0.0", buildx=True)
    got = find_client([full])
    assert got == full, f"got {got}, expected {full}"


@pytest.mark.parametrize("candidates", [0, 1])
def test_no_client_that_can_build_is_said(tmp_path: Path, candidates: int) -> None:
    """The message lists the clients found and the hint names the package that is missing."""
    found = [stand_in_client(tmp_path, "bare", version="28.2.2", buildx=False)][:candidates]
    with pytest.raises(LabError) as caught:
        find_client(found)
    assert (found[0] if found else "none found") in caught.value.message, caught.value.message
    assert "docker-buildx" in caught.value.hint, caught.value.hint


def test_every_client_on_path_is_considered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are found in PATH's order, before those in the system's folders."""
    first = stand_in_client(tmp_path, "a", version="28.0.0", buildx=False)
    second = stand_in_client(tmp_path, "b", version="20.10.0", buildx=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'b'}:{tmp_path / 'a'}")
    got = builder.clients()[:2]
    assert got == [second, first], f"got {got}"
