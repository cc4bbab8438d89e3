"""The container as a whole value, and what a change of it is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from scripts import spec as spec_module
from scripts.engine import creation_arguments
from scripts.gpu import GpuAccess
from scripts.host import Identity
from scripts.settings import ROOT, Settings
from scripts.spec import ContainerSpec, build_spec, lab_url
from scripts.state import State


def make_spec(environ: dict[str, str] | None = None, *, gpu: GpuAccess | None = None) -> ContainerSpec:
    """A spec for a user 1234 on a machine with four CPUs."""
    environ = {"WORKSPACE": "/w", **(environ or {})}
    return build_spec(
        settings=Settings.load(environ),
        state=State(Path("/s")),
        identity=Identity(1234, 1235, Path("/home/u")),
        image="sha256:1",
        variant="cpu",
        host_cpus=4,
        nofile=65536,
        environ=environ,
        gpu=gpu,
    )


def test_the_default_spec_as_a_whole() -> None:
    """Defaults: the caller's ids, every address, four mounts, 2 GiB shared memory, no limits of memory and CPU."""
    expected = ContainerSpec(
        name="pytorch-jupyter",
        image="sha256:1",
        variant="cpu",
        user="1234:1235",
        bind="0.0.0.0",  # noqa: S104
        port=8888,
        environment={"LAB_IDLE_TIMEOUT": "0"},
        mounts=(
            spec_module.Mount("/w", "/workspace"),
            spec_module.Mount("/s/home", "/home/lab"),
            spec_module.Mount("/s/run", "/run/lab", read_only=True),
            spec_module.Mount("/s/passwd", "/etc/passwd", read_only=True),
        ),
        memory=None,
        cpus=None,
        shm_size=2 << 30,
        pids_limit=4096,
        nofile=65536,
        gpu=None,
    )
    got = make_spec()
    assert got == expected, f"got {got}\nexpected {expected}"


def test_data_that_is_here_already_is_mounted() -> None:
    """CIFAR10_DIR is mounted, read-only, where the notebook is told to look; FAST is passed on."""
    got = make_spec({"CIFAR10_DIR": str(ROOT / "docker"), "FAST": "1"})
    mount = spec_module.Mount(str(ROOT / "docker"), "/data/cifar10", read_only=True)
    expected = {"LAB_IDLE_TIMEOUT": "0", "FAST": "1", "CIFAR10_DIR": "/data/cifar10"}
    assert (got.mounts[-1], got.environment) == (mount, expected), f"got {got.mounts[-1]} and {got.environment}"


def test_limits_proxies_and_ca_reach_the_environment() -> None:
    """Thread counts follow CPUS, the meter knows MEMORY, proxy, mirror and CA are those of the host."""
    ca = str(ROOT / "LICENSE")
    environ = {"CPUS": "1.5", "MEMORY": "4g", "HTTPS_PROXY": "http://p:1", "PIP_INDEX_URL": "http://m/simple",
               "CA_BUNDLE": ca, "IDLE_TIMEOUT": "1h", "UNRELATED": "x"}  # fmt: skip
    got = make_spec(environ)
    inside = "/etc/lab/ca.crt"
    expected = {
        "LAB_IDLE_TIMEOUT": "3600",
        "HTTPS_PROXY": "http://p:1",
        "PIP_INDEX_URL": "http://m/simple",
        "OMP_NUM_THREADS": "2",
        "PYTHON_CPU_COUNT": "2",
        "MEM_LIMIT": str(4 << 30),
        "SSL_CERT_FILE": inside,
        "REQUESTS_CA_BUNDLE": inside,
        "PIP_CERT": inside,
        "CURL_CA_BUNDLE": inside,
        "GIT_SSL_CAINFO": inside,
    }
    assert got.environment == expected, f"got {got.environment}\nexpected {expected}"
    assert got.mounts[-1] == spec_module.Mount(ca, inside, read_only=True), f"got {got.mounts[-1]}"


def test_the_engine_is_asked_for_the_hardened_container() -> None:
    """The creation arguments as a whole: non-root, read-only, no capability, no new privileges, limits, rotation."""
    spec = make_spec({"MEMORY": "4g", "CPUS": "2"})
    got = creation_arguments(spec)
    expected = {
        "image": "sha256:1",
        "name": "pytorch-jupyter",
        "hostname": "lab",
        "user": "1234:1235",
        "environment": spec.environment,
        "mounts": [
            Mount("/workspace", "/w", type="bind"),
            Mount("/home/lab", "/s/home", type="bind"),
            Mount("/run/lab", "/s/run", type="bind", read_only=True),
            Mount("/etc/passwd", "/s/passwd", type="bind", read_only=True),
        ],
        "ports": {"8888/tcp": ("0.0.0.0", 8888)},  # noqa: S104
        "labels": {
            "io.github.pytorch-jupyter": "lab",
            "io.github.pytorch-jupyter.spec": spec.to_json(),
            "io.github.pytorch-jupyter.variant": "cpu",
        },
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 4096,
        "shm_size": 2 << 30,
        "ulimits": [Ulimit(name="nofile", soft=65536, hard=65536)],
        "mem_limit": 4 << 30,
        "nano_cpus": 2_000_000_000,
        "runtime": None,
        "device_requests": None,
        "restart_policy": {"Name": "unless-stopped"},
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
    }
    assert got == expected, f"got {got}\nexpected {expected}"


@pytest.mark.parametrize(
    ("access", "runtime", "requests", "environment"),
    [
        (GpuAccess("runtime"), "nvidia", None, {"LAB_GPU": "1", "NVIDIA_VISIBLE_DEVICES": "all"}),
        (GpuAccess("runtime", "0,1"), "nvidia", None, {"LAB_GPU": "1", "NVIDIA_VISIBLE_DEVICES": "0,1"}),
        (GpuAccess("cdi"), None, [DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])], {"LAB_GPU": "1"}),
        (GpuAccess("cdi", "0,1"), None,
         [DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=0", "nvidia.com/gpu=1"])], {"LAB_GPU": "1"}),
        (GpuAccess("request"), None,
         [DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu", "compute", "utility"]])], {"LAB_GPU": "1"}),
        (GpuAccess("request", "1"), None,
         [DeviceRequest(driver="nvidia", device_ids=["1"], capabilities=[["gpu", "compute", "utility"]])],
         {"LAB_GPU": "1"}),
    ],
    ids=["runtime", "runtime, two", "cdi", "cdi, two", "request", "request, one"],
)  # fmt: skip
def test_a_gpu_is_asked_for(
    access: GpuAccess, runtime: str | None, requests: list[DeviceRequest] | None, environment: dict[str, str]
) -> None:
    """Each way of access reaches the engine in its own words, and the health check is told to watch."""
    spec = make_spec(gpu=access)
    arguments = creation_arguments(spec)
    got = (arguments["runtime"], arguments["device_requests"], spec.environment)
    expected = (runtime, requests, {"LAB_IDLE_TIMEOUT": "0", **environment})
    assert got == expected, f"got {got}, expected {expected}"


def test_an_unchanged_spec_has_no_changes() -> None:
    """A spec compared with its own label differs in nothing, so that the container is left alone."""
    spec = make_spec({"CPUS": "1.5"})
    got = spec.changes_from(spec.to_json())
    assert got == [], f"got {got}"


def test_changes_are_named_for_a_person() -> None:
    """Each difference has a name: numbers with old and new, the environment by variable, the image without its id."""
    old = make_spec()
    new = replace(old, port=9000, image="sha256:2", environment={"LAB_IDLE_TIMEOUT": "60", "HTTP_PROXY": "x"})
    got = new.changes_from(old.to_json())
    expected = ["HTTP_PROXY, LAB_IDLE_TIMEOUT", "image", "port 8888 → 9000"]
    assert got == expected, f"got {got}, expected {expected}"


def test_an_unreadable_label_means_recreate() -> None:
    """A label from a future or broken version counts as changed rather than failing."""
    got = make_spec().changes_from("not json")
    assert got == ["an unreadable label"], f"got {got}"


def test_the_url_carries_host_port_and_token() -> None:
    """The URL is the one a person opens."""
    got = lab_url(host="vm", port=8888, token="abc")
    assert got == "http://vm:8888/lab?token=abc", f"got {got}"
