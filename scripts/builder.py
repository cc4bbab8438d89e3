"""Building with the command line client: docker-py cannot drive BuildKit. Finds a client that can, and runs it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.console import LabError
from scripts.host import SYSTEM_PATH
from scripts.spec import PROXIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scripts.settings import Settings

LAST_WITH_BUILTIN_BUILDKIT = 22  # since version 23 the client needs its buildx plugin
PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
}


@dataclass(frozen=True, kw_only=True)
class Build:
    """One image build as a value."""

    dockerfile: Path
    context: Path
    tag: str
    arguments: dict[str, str]
    labels: dict[str, str]


def build_argv(client: str, build: Build, *, net: Path, ca: Path | None) -> list[str]:
    """The build command. Proxies go by name only: the client reads their values from the environment.

    The build uses the host's network, so that a proxy or a mirror on the host's loopback works too.
    """
    arguments = [f"--build-arg={key}={value}" for key, value in build.arguments.items()]
    proxies = [f"--build-arg={key}" for key in PROXIES]
    labels = [f"--label={key}={value}" for key, value in build.labels.items()]
    secrets = [f"--secret=id=net,src={net}", *([f"--secret=id=ca,src={ca}"] if ca else [])]
    return [client, "build", "--network=host", f"--file={build.dockerfile}", f"--tag={build.tag}",
            *arguments, *proxies, *labels, *secrets, str(build.context)]  # fmt: skip


def index_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The package indexes for uv: its own variables, else what the host has set for pip."""
    translated = {uv: environ[pip] for pip, uv in PIP_TO_UV.items() if environ.get(pip)}
    return translated | {key: environ[key] for key in PIP_TO_UV.values() if environ.get(key)}


def net_file(settings: Settings, environ: Mapping[str, str]) -> str:
    """The build's network settings as a POSIX shell file. They may hold passwords: a secret, never an argument."""
    values = index_settings(environ)
    values |= {"TORCH_INDEX": settings.torch_index_url, "DEBIAN_MIRROR": settings.debian_mirror}
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())


def run_build(build: Build, settings: Settings) -> None:
    """Build the image, the builder's progress on stderr. The tag appears only when all went well.

    Raises:
        LabError: no client here can build, or the build failed.

    """
    client = find_client(clients())
    environ = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "default"}
    with _net_secret(settings) as net:
        argv = build_argv(client, build, net=net, ca=settings.ca_bundle)
        code = subprocess.run(argv, env=environ, stdout=2, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise LabError(
            f"the build of {build.tag} failed; the builder's last lines above say where",
            hint="make doctor shows which sources answer; the same command goes on where the build stopped",
        )


@contextlib.contextmanager
def _net_secret(settings: Settings) -> Iterator[Path]:
    """Keep the network settings in a private file while the build runs."""
    with tempfile.TemporaryDirectory(prefix="pytorch-jupyter-") as folder:
        path = Path(folder) / "net"
        path.write_text(net_file(settings, os.environ))
        yield path


def clients() -> list[str]:
    """Every docker client on PATH and in the system's folders, in that order."""
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(":"), *SYSTEM_PATH.split(":")])
    return [str(Path(each) / "docker") for each in folders if each and os.access(Path(each) / "docker", os.X_OK)]


def find_client(candidates: list[str]) -> str:
    """The first client that can build with BuildKit.

    Raises:
        LabError: none can; the message lists those found.

    """
    for client in candidates:
        if _succeeds([client, "buildx", "version"]) or _has_builtin_buildkit(client):
            return client
    found = ", ".join(candidates) or "none found"
    raise LabError(
        f"no docker client here can build with BuildKit ({found})",
        hint="sudo apt-get install docker-buildx (Debian 13, Ubuntu) or docker-buildx-plugin (docker.com), then again",
    )


def _succeeds(argv: list[str]) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _has_builtin_buildkit(client: str) -> bool:
    """Whether a client is old enough to carry BuildKit; its answer begins 'Docker version 20.10.24'."""
    answer = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.", answer)
    return found is not None and int(found[1]) <= LAST_WITH_BUILTIN_BUILDKIT
