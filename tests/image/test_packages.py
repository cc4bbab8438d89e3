"""What is installed in the image is what the locks say, and it works."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from scripts.settings import ROOT
from scripts.tools import UV

if TYPE_CHECKING:
    import docker

    from tests.conftest import LabProcess

REQUIREMENTS = ROOT / "docker" / "requirements"
REQUIRED = ["torch", "torchvision", "jupyterlab", "numpy", "matplotlib"]
EXPECTED_TOO = ["pandas", "sklearn", "ipywidgets", "tqdm", "tensorboard", "jupyter_resource_usage", "jupyterlab_git"]


def locked(name: str) -> dict[str, str]:
    """Names and versions in a lock, those that apply to this machine."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    pins = [Requirement(line.removesuffix(" \\")) for line in lines if re.match(r"[a-z]", line)]
    python = {"python_full_version": "3.13.5", "python_version": "3.13"}
    return {
        pin.name: str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(python)
    }


@pytest.mark.parametrize("module", REQUIRED + EXPECTED_TOO)
def test_the_library_can_be_imported(lab: LabProcess, module: str) -> None:
    """Every promised library imports in the container's own Python."""
    got = lab.python(f"import {module}; print({module}.__name__)")
    assert got == module, f"got {got}"


def test_every_version_is_the_locks(lab: LabProcess, engine: docker.DockerClient) -> None:
    """Installed versions equal the locks', package for package, and nothing else is installed."""
    image = engine.images.get(lab.container.attrs["Image"])
    torch_lock = image.labels["io.github.pytorch-jupyter.torch"]
    expected = locked("server.txt") | locked(f"torch-{torch_lock}.txt")
    code = """
import importlib.metadata as m, json, re
found = m.distributions(path=['/opt/venv/lib/python3.13/site-packages'])
print(json.dumps({re.sub('[-_.]+', '-', d.name).lower(): d.version for d in found}))"""
    got = json.loads(lab.python(code))
    assert got == expected, f"differ: {sorted(set(got.items()) ^ set(expected.items()))}"


def test_torch_computes(lab: LabProcess) -> None:
    """A matrix product and a gradient come out as by hand."""
    got = lab.python(
        "import torch; x = torch.tensor([[1., 2.], [3., 4.]], requires_grad=True);"
        "(x @ x).sum().backward(); print(x.grad.tolist())"
    )
    assert got == "[[7.0, 11.0], [9.0, 13.0]]", f"got {got}"


def test_torchvisions_operators_are_there(lab: LabProcess) -> None:
    """torchvision matches its torch: a compiled operator runs."""
    got = lab.python(
        "import torch, torchvision; boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 1.9], [5., 5., 6., 6.]]);"
        "print(torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), 0.5).tolist())"
    )
    assert got == "[0, 2]", f"got {got}"


def test_matplotlib_draws_without_a_screen(lab: LabProcess) -> None:
    """A figure becomes a PNG."""
    got = lab.python(
        "import io, matplotlib.pyplot as p; p.plot([1, 2]); b = io.BytesIO(); p.savefig(b); print(b.getvalue()[1:4])"
    )
    assert got == "b'PNG'", f"got {got}"


def test_no_compiler_and_no_package_cache_is_left(lab: LabProcess) -> None:
    """What only the build needed is not in the image: compilers, uv, apt's lists, pip's and uv's caches."""
    got = lab.shell(
        "ls -d $(which gcc cc uv) /var/lib/apt/lists/?* /var/cache/apt/*.bin /root/.cache /tmp/apt 2>/dev/null"
    )
    assert got == "", f"found {got}"


def test_bytecode_is_compiled(lab: LabProcess) -> None:
    """Every module of the server has its bytecode, since none can be written at run time."""
    got = lab.python(
        "import pathlib, jupyter_server as j; top = pathlib.Path(j.__file__).parent;"
        "print([p.name for p in top.rglob('*.py') if not list((p.parent / '__pycache__').glob(p.stem + '.*.pyc'))])"
    )
    assert got == "[]", f"without bytecode: {got}"


@pytest.mark.parametrize("lock", ["server.txt", "torch-cuda13.txt"])
def test_every_locked_wheel_exists_for_arm64(engine: docker.DockerClient, lock: str) -> None:
    """The locks install on arm64 too: each package that applies there has a hashed wheel for it."""
    assert engine
    python = ["--python-version=3.13", "--python-platform=aarch64-manylinux_2_34"]
    strict = ["--dry-run", "--no-deps", "--require-hashes", "--only-binary=:all:", "--target=/nowhere"]
    command = [str(UV), "pip", "install", *python, *strict, f"--requirement={REQUIREMENTS / lock}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "UV_NO_CONFIG": "1"})
    assert done.returncode == 0, f"got {done.stderr}"


def test_the_image_describes_itself(lab: LabProcess, engine: docker.DockerClient) -> None:
    """Title, description and licence are OCI labels; the sources' hash is there for the next run."""
    labels = engine.images.get(lab.container.attrs["Image"]).labels
    got = labels["org.opencontainers.image.title"], labels["org.opencontainers.image.licenses"]
    assert got == ("pytorch-jupyter", "MIT"), f"got {got}"
    assert re.fullmatch(r"[0-9a-f]{64}", labels["io.github.pytorch-jupyter.content"]), f"got {labels}"


def test_the_health_check_tells_alive_from_dead(lab: LabProcess) -> None:
    """The image's own health check succeeds on the running server and fails where none listens."""
    check = lab.container.attrs["Config"]["Healthcheck"]["Test"][1:]
    alive = lab.container.exec_run(check).exit_code
    dead = lab.container.exec_run(check, environment={"LAB_PORT": "1"}).exit_code
    assert (alive, dead) == (0, 1), f"got {alive}, {dead}"
