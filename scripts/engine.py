"""The Docker engine: the only module that talks to its SDK. Values in, values out, every failure a LabError."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from docker.utils import parse_repository_tag

from scripts.console import LabError, say
from scripts.spec import LABEL, PORT_INSIDE, certificate_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker.models.containers import Container

    from scripts.gpu import GpuAccess
    from scripts.spec import ContainerSpec


@dataclass(frozen=True)
class ImageInfo:
    """An image the engine has: its id, labels, architecture in Docker's words (amd64, arm64), size in bytes."""

    id: str
    labels: dict[str, str]
    architecture: str
    size: int


@dataclass(frozen=True)
class ContainerInfo:
    """A container as it is now. `spec` and `variant` come from its labels; `ours` is False for a stranger's."""

    id: str
    name: str
    ours: bool
    state: str
    exit_code: int
    oom_killed: bool
    health: str
    started_at: str
    image: str
    spec: str
    variant: str
    address: tuple[str, int] | None

    @property
    def certificate(self) -> Path | None:
        """The file of the certificate that its server presents; None: it speaks plain HTTP."""
        return certificate_file(self.spec)


class Engine:
    """A connection to the engine, with the few operations that the lab needs."""

    def __init__(self) -> None:
        with _engine_errors("connect"):
            self._client = docker.DockerClient(
                base_url=os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock",
                version="auto",
                timeout=120,
            )

    def facts(self) -> dict[str, Any]:
        """The engine's own description: NCPU, Architecture, Runtimes, DockerRootDir, ServerVersion …."""
        with _engine_errors("describe itself"):
            return dict(self._client.info())

    def architecture(self) -> str:
        """The engine's architecture in the words that images use: amd64, arm64."""
        with _engine_errors("tell its version"):
            return str(self._client.version()["Arch"])

    # Images

    def image(self, reference: str) -> ImageInfo | None:
        """Look an image up; None when the engine does not have it."""
        with _engine_errors(f"inspect the image {reference}"):
            try:
                attributes = self._client.images.get(reference).attrs
            except ImageNotFound:
                return None
        labels = (attributes.get("Config") or {}).get("Labels") or {}
        return ImageInfo(attributes["Id"], labels, attributes["Architecture"], attributes["Size"])

    def registry_problem(self, reference: str) -> str | None:
        """Ask the image's registry, through the engine, whether it can be pulled; None means yes."""
        try:
            self._client.api.inspect_distribution(reference)  # type: ignore[no-untyped-call]
        except (DockerException, requests.RequestException) as error:
            return _explanation(error)
        return None

    def pull(self, reference: str) -> None:
        """Pull an image, telling each layer that arrives."""
        repository, tag = parse_repository_tag(reference)
        with _engine_errors(f"pull {reference}"):
            for event in self._client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if "error" in event:
                    raise LabError(
                        f"cannot pull {reference}: {event['error']}",
                        hint="make doctor shows what is reachable",
                    )
                if event.get("status") in {"Pull complete", "Already exists"}:
                    say(f"  layer {event.get('id', '')}: {event['status'].lower()}")

    def import_base(self, archive: str, reference: str) -> None:
        """Make an image of a root file system's tar archive."""
        repository, _, tag = reference.rpartition(":")
        with _engine_errors(f"import {reference}"):
            self._client.api.import_image_from_file(archive, repository=repository, tag=tag)

    def remove_image(self, reference: str) -> bool:
        """Remove an image; False when there is none or a container, running or not, still needs it."""
        with _engine_errors(f"remove the image {reference}"):
            if self._client.containers.list(all=True, filters={"ancestor": reference}):
                return False
            try:
                self._client.images.remove(reference)
            except ImageNotFound:
                return False
        return True

    def prune_superseded(self) -> None:
        """Remove images of ours that a newer build has replaced and no container uses: gigabytes each."""
        with _engine_errors("remove superseded images"):
            self._client.images.prune(filters={"dangling": True, "label": f"{LABEL}.content"})

    def run_once(self, image: str, argv: list[str]) -> str:
        """Run a command in a container of its own, without network or rights; return its output."""
        with _engine_errors(f"run {argv[0]} in {image}"):
            output: Any = self._client.containers.run(
                image, argv, remove=True, network_mode="none", read_only=True, cap_drop=["ALL"], stderr=False
            )
        return bytes(output).decode()

    # Containers

    def find(self, name: str) -> ContainerInfo | None:
        """Look a container up by name, ours or not; None when there is none."""
        with _engine_errors(f"inspect the container {name}"):
            try:
                return _describe(self._client.containers.get(name))
            except NotFound:
                return None

    def publisher(self, port: int) -> str | None:
        """The name of a running container that publishes this host port; None when none does."""
        with _engine_errors("list containers"):
            for container in self._client.containers.list():
                bindings = [each for some in container.ports.values() for each in some or []]
                if str(port) in {each["HostPort"] for each in bindings}:
                    return str(container.name)
        return None

    def create(self, spec: ContainerSpec) -> ContainerInfo:
        """Create the container, hardened, without starting it."""
        with _engine_errors(f"create the container {spec.name}"):
            return _describe(self._client.containers.create(**creation_arguments(spec)))

    def start(self, container_id: str) -> None:
        """Start a created or stopped container."""
        with _engine_errors("start the container"):
            self._client.containers.get(container_id).start()

    def stop(self, container_id: str) -> None:
        """Stop a container; the server has ten seconds to end its kernels."""
        with _engine_errors("stop the container"):
            self._client.containers.get(container_id).stop(timeout=10)

    def restart(self, container_id: str) -> None:
        """Stop and start a container."""
        with _engine_errors("restart the container"):
            self._client.containers.get(container_id).restart(timeout=10)

    def remove(self, container_id: str) -> None:
        """Remove a container, running or not; the server has ten seconds to write what only it knows."""
        with _engine_errors("remove the container"), contextlib.suppress(NotFound):
            container = self._client.containers.get(container_id)
            container.stop(timeout=10)
            container.remove(force=True)

    def logs(self, container_id: str, *, tail: int) -> str:
        """The last lines that the server wrote."""
        with _engine_errors("read the log"):
            raw = self._client.containers.get(container_id).logs(tail=tail)
        return bytes(raw).decode(errors="replace")

    def follow_logs(self, container_id: str, *, tail: int) -> Iterator[bytes]:
        """The last lines, then new ones as they come, until the container stops."""
        with _engine_errors("read the log"):
            yield from self._client.containers.get(container_id).logs(stream=True, follow=True, tail=tail)

    def execute(self, container_id: str, argv: list[str]) -> tuple[int, str]:
        """Run a command in a running container; return its exit code and output."""
        with _engine_errors(f"run {argv[0]} in the container"):
            done: Any = self._client.containers.get(container_id).exec_run(argv)
        return int(done.exit_code or 0), done.output.decode(errors="replace")

    def memory_usage(self, container_id: str) -> int:
        """Bytes of memory in use, without the page cache that the kernel would give back."""
        with _engine_errors("measure the container"):
            stats = self._client.api.stats(container_id, stream=False, one_shot=True)
        memory = stats.get("memory_stats") or {}
        details = memory.get("stats") or {}
        cache = details.get("inactive_file", details.get("total_inactive_file", 0))  # cgroup v2, v1
        return int(memory.get("usage", 0)) - int(cache)


def creation_arguments(spec: ContainerSpec) -> dict[str, Any]:
    """Translate a spec into the SDK's words, with the hardening that every lab has."""
    mounts = [Mount(each.target, each.source, type="bind", read_only=each.read_only) for each in spec.mounts]
    return {
        "image": spec.image,
        "name": spec.name,
        "hostname": "lab",
        "user": spec.user,
        "environment": spec.environment,
        "mounts": mounts,
        "ports": {f"{PORT_INSIDE}/tcp": (spec.bind, spec.port)},
        "labels": {LABEL: "lab", f"{LABEL}.spec": spec.to_json(), f"{LABEL}.variant": spec.variant},
        "read_only": True,
        # exec: torch.compile and pip build and load what they put here.
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # noqa: S108 - the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": spec.pids_limit,
        "shm_size": spec.shm_size,
        "ulimits": [Ulimit(name="nofile", soft=spec.nofile, hard=spec.nofile)],
        "mem_limit": spec.memory,
        "nano_cpus": round(spec.cpus * 1e9) if spec.cpus else None,
        "runtime": "nvidia" if spec.gpu and spec.gpu.method == "runtime" else None,
        "device_requests": _device_requests(spec.gpu),
        "restart_policy": {"Name": "unless-stopped"},
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
    }


def _device_requests(gpu: GpuAccess | None) -> list[DeviceRequest] | None:
    """The two ways without a runtime; names in CDI, ids or a count of -1 for all in a device request."""
    if gpu is None or gpu.method == "runtime":
        return None
    devices = gpu.devices.split(",")
    if gpu.method == "cdi":
        return [DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={each}" for each in devices])]
    which: dict[str, Any] = {"count": -1} if devices == ["all"] else {"device_ids": devices}
    return [DeviceRequest(driver="nvidia", capabilities=[["gpu", "compute", "utility"]], **which)]


def _describe(container: Container) -> ContainerInfo:
    attributes = container.attrs
    state, labels = attributes["State"], attributes["Config"].get("Labels") or {}
    bindings = (attributes["HostConfig"].get("PortBindings") or {}).get(f"{PORT_INSIDE}/tcp")
    address = (bindings[0]["HostIp"], int(bindings[0]["HostPort"])) if bindings else None
    return ContainerInfo(
        id=attributes["Id"],
        name=attributes["Name"].lstrip("/"),
        ours=labels.get(LABEL) == "lab",
        state=state["Status"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        health=(state.get("Health") or {}).get("Status", "none"),
        started_at=state["StartedAt"],
        image=attributes["Image"],
        spec=labels.get(f"{LABEL}.spec", ""),
        variant=labels.get(f"{LABEL}.variant", ""),
        address=address,
    )


@contextlib.contextmanager
def _engine_errors(action: str) -> Iterator[None]:
    """Turn what the SDK raises into one line with the engine's own explanation."""
    try:
        yield
    except APIError as error:
        hint = "make doctor checks the engine; make status shows the lab"
        raise LabError(f"the engine could not {action}: {_explanation(error)}", hint=hint) from error
    except (DockerException, requests.RequestException) as error:
        hint = "make doctor says why; make run-cpu starts the engine again where it may"
        raise LabError(f"the Docker engine does not answer (tried to {action})", hint=hint) from error


def _explanation(error: Exception) -> str:
    """The engine's own words, on one line."""
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return " ".join(str(text).split())
