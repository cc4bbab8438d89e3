"""The container as a value: a pure function of settings, paths and image. Nothing here touches the engine."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.state import HOME_IN_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.gpu import GpuAccess
    from scripts.host import Identity
    from scripts.settings import Settings
    from scripts.state import State
    from scripts.tls import Certificate

LABEL = "io.github.pytorch-jupyter"
PORT_INSIDE = 8888
NOFILE = 65536  # Docker 29 lowers the default to 1024, too few for a server with many kernels and data loaders
CA_INSIDE = "/etc/lab/ca.crt"
RUN_INSIDE = "/run/lab"
CIFAR10_INSIDE = "/data/cifar10"
# What pip, uv, requests, curl, git and OpenSSL each look at for a company's CA.
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
# Passed on as the host has them, so that dataset downloads and %pip work behind the same proxy and mirror.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PASSED_ON = (*PROXIES, "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "UV_DEFAULT_INDEX")


@dataclass(frozen=True)
class Mount:
    """A host path inside the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """Everything that decides how the container behaves. Sizes in bytes; `cpus` may be a fraction."""

    name: str
    image: str
    variant: str
    user: str
    bind: str
    port: int
    environment: dict[str, str]
    mounts: tuple[Mount, ...]
    memory: int | None
    cpus: float | None
    shm_size: int
    nofile: int
    pids_limit: int = 4096  # room for 20 kernels with their threads; a fork bomb ends here
    gpu: GpuAccess | None = None

    def to_json(self) -> str:
        """The spec as text for the container's label; holds no secret."""
        return json.dumps(asdict(self), sort_keys=True)

    def changes_from(self, label: str) -> list[str]:
        """Name what differs between this spec and the one in a running container's label."""
        try:
            old: dict[str, Any] = json.loads(label)
        except ValueError:
            return ["an unreadable label"]
        new = json.loads(self.to_json())
        return [_difference(key, old.get(key), new.get(key)) for key in new if old.get(key) != new.get(key)]


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(each for each in {*old, *new} if old.get(each) != new.get(each))
        return ", ".join(names)
    if isinstance(old, str | int | float | None) and isinstance(new, str | int | float | None) and key != "image":
        return f"{key} {old} → {new}"
    return key


def build_spec(  # noqa: PLR0913 - each argument is one independent input of the value
    *,
    settings: Settings,
    state: State,
    identity: Identity,
    image: str,
    variant: str,
    host_cpus: int,
    nofile: int,
    environ: Mapping[str, str],
    certificate: Certificate | None = None,
    gpu: GpuAccess | None = None,
) -> ContainerSpec:
    """Decide the whole container. `image`: an image id; `host_cpus`: the engine's count; `nofile`: what it allows."""
    mounts = [
        Mount(str(settings.workspace), "/workspace"),
        Mount(str(state.home), HOME_IN_CONTAINER),
        Mount(str(state.run), RUN_INSIDE, read_only=True),
        Mount(str(state.passwd), "/etc/passwd", read_only=True),
    ]
    if settings.ca_bundle:
        mounts.append(Mount(str(settings.ca_bundle.resolve()), CA_INSIDE, read_only=True))
    if settings.cifar10_dir:
        mounts.append(Mount(str(settings.cifar10_dir), CIFAR10_INSIDE, read_only=True))
    return ContainerSpec(
        name=settings.container,
        image=image,
        variant=variant,
        user=f"{identity.uid}:{identity.gid}",
        bind=settings.bind or "0.0.0.0",  # noqa: S104 - the lab is there to be reached; the token guards it
        port=settings.port,
        environment=_environment(settings, host_cpus, environ)
        | _gpu_environment(gpu)
        | tls_environment(certificate, f"{RUN_INSIDE}/{state.tls.name}"),
        mounts=tuple(mounts),
        memory=settings.memory,
        cpus=settings.cpus,
        shm_size=settings.shm_size,
        nofile=nofile,
        gpu=gpu,
    )


def _environment(settings: Settings, host_cpus: int, environ: Mapping[str, str]) -> dict[str, str]:
    result = {"LAB_IDLE_TIMEOUT": str(settings.idle_timeout), **lesson_environment(settings, CIFAR10_INSIDE)}
    result |= {key: environ[key] for key in PASSED_ON if environ.get(key)}
    # Without this, torch and NumPy start a thread per core of the host, however few the container may use.
    if settings.cpus and settings.cpus < host_cpus:
        threads = str(math.ceil(settings.cpus))
        result |= {"OMP_NUM_THREADS": threads, "PYTHON_CPU_COUNT": threads}
    if settings.memory:
        result["MEM_LIMIT"] = str(settings.memory)  # what the memory meter in JupyterLab counts against
    if settings.ca_bundle:
        result |= dict.fromkeys(CA_VARIABLES, CA_INSIDE)
    return result


def _gpu_environment(gpu: GpuAccess | None) -> dict[str, str]:
    """LAB_GPU has the health check watch the GPU; the nvidia runtime reads which ones from the environment."""
    visible = {"NVIDIA_VISIBLE_DEVICES": gpu.devices} if gpu and gpu.method == "runtime" else {}
    return {"LAB_GPU": "1", **visible} if gpu else {}


def lesson_environment(settings: Settings, cifar10: str | Path | None) -> dict[str, str]:
    """What the first notebook reads: FAST, and where the server sees the data that CIFAR10_DIR names."""
    fast = {"FAST": "1"} if settings.fast else {}
    return {**fast, "CIFAR10_DIR": str(cifar10)} if settings.cifar10_dir else fast


def tls_environment(certificate: Certificate | None, folder: str | Path) -> dict[str, str]:
    """What the server reads; `folder`: where it sees the files. Another fingerprint is another container."""
    if not certificate:
        return {}
    return {
        "LAB_TLS_CERT": f"{folder}/{certificate.path.name}",
        "LAB_TLS_KEY": f"{folder}/{certificate.key.name}",
        "LAB_TLS_FINGERPRINT": certificate.fingerprint,
    }


def certificate_file(label: str) -> Path | None:
    """Where this machine has the certificate that a container with this spec presents; None: it speaks plain HTTP."""
    spec: dict[str, Any] = json.loads(label)
    inside = spec["environment"].get("LAB_TLS_CERT")
    folders = {each["target"]: each["source"] for each in spec["mounts"]}
    return Path(folders[RUN_INSIDE], Path(inside).relative_to(RUN_INSIDE)) if inside else None


def lab_url(*, host: str, port: int, token: str, secure: bool = False) -> str:
    """The address a person opens."""
    return f"{'https' if secure else 'http'}://{host}:{port}/lab?token={token}"
