"""The CUDA images without a GPU: all that can be proven of them."""

from __future__ import annotations

import json
from typing import Any

from scripts.gpu import FLAVOURS
from tests.conftest import engine_client

CUDA = {"cuda12": "12.", "cuda13": "13."}
# The driver's own libraries, which the nvidia runtime brings in.
DRIVERS = {"libcuda.so.1", "libnvidia-ml.so.1"}
LIBRARIES = """
import collections, json, pathlib, subprocess
site = pathlib.Path("/opt/venv/lib/python3.13/site-packages")
present = {path.name for path in site.rglob("*.so*")}  # loaded before by torch itself, such as torchvision's libtorch
missing = collections.defaultdict(list)
for folder in ("torch", "torchvision", "torchvision.libs", "nvidia", "triton", "cusparselt"):
    for path in sorted((site / folder).rglob("*.so*")):
        done = subprocess.run(["ldd", path], capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if "not found" in line and line.split()[0] not in present:
                missing[line.split()[0]].append(str(path.relative_to(site)))
print(json.dumps(missing))
"""


def python(variant: str, code: str) -> str:
    """Run Python in a container of an image, hardened and without a network, as the lab's user."""
    output: Any = engine_client().containers.run(
        f"pytorch-jupyter:{variant}", ["python", "-c", code], remove=True, network_mode="none", read_only=True,
        cap_drop=["ALL"], user="1000:1000", tmpfs={"/tmp": "mode=1777"}, entrypoint=[], stderr=False,
    )  # fmt: skip
    return bytes(output).decode().strip()


def test_torch_is_built_for_its_cuda(cuda_image: str) -> None:
    """torch.version.cuda is of the flavour's generation."""
    got = python(cuda_image, "import torch; print(torch.version.cuda)")
    assert got.startswith(CUDA[cuda_image]), f"got {got}, expected {CUDA[cuda_image]}x"


def test_the_claimed_capabilities_are_in_the_wheel(cuda_image: str) -> None:
    """The wheel's oldest architecture is the one that the preflight asks for, and Blackwell is covered."""
    # What torch.cuda.get_arch_list() returns; without a GPU that one keeps it to itself.
    got = python(cuda_image, "import torch; print(torch._C._cuda_getArchFlags())").split()
    # Compiled for x.y, code runs on every GPU x.z with z >= y.
    numbers = sorted(divmod(int(each.removeprefix("sm_").rstrip("af")), 10) for each in got if each.startswith("sm_"))
    flavour = next(each for each in FLAVOURS if each.variant == cuda_image)
    majors = {major for major, _ in numbers}
    assert (numbers[0], {8, 9, 10, 12} <= majors) == (flavour.capability, True), f"got {got}"


def test_every_library_resolves(cuda_image: str) -> None:
    """All of torch's and NVIDIA's shared libraries find what they link to, but for the driver's own."""
    missing = json.loads(python(cuda_image, LIBRARIES))
    got = {name: users for name, users in missing.items() if name not in DRIVERS}
    assert got == {}, f"got {json.dumps(got, indent=1)}"


def test_it_works_on_a_cpu(cuda_image: str) -> None:
    """Without a GPU torch computes on the CPU, and says that it has none."""
    code = "import torch; print((torch.ones(3, 3) @ torch.ones(3, 3)).sum().item(), torch.cuda.is_available())"
    got = python(cuda_image, code)
    assert got == "27.0 False", f"got {got}"


def test_the_meters_are_installed(cuda_image: str) -> None:
    """JupyterLab has NVIDIA's dashboard, which can be imported where there is no driver."""
    got = python(cuda_image, "import jupyterlab_nvdashboard, pynvml; print(jupyterlab_nvdashboard.apps.gpu.ngpus)")
    assert got == "0", f"got {got}"


def test_pip_keeps_the_meters(cuda_image: str) -> None:
    """The constraints that protect torch name the GPU's additions as well."""
    got = python(cuda_image, "print(open('/opt/venv/constraints.txt').read())")
    assert "jupyterlab-nvdashboard==" in got, f"got {got}"


def test_the_cpu_image_shares_its_layers(cuda_image: str) -> None:
    """What lies below torch is stored once; with PyPI's wheels in the CPU image, torch of CUDA 13 is too."""
    client = engine_client()
    cpu, cuda = (client.images.get(f"pytorch-jupyter:{each}") for each in ("cpu", cuda_image))
    layers = [image.attrs["RootFS"]["Layers"] for image in (cpu, cuda)]
    shared = sum(one == other for one, other in zip(*layers, strict=False))
    same_torch = cpu.labels["io.github.pytorch-jupyter.torch"] == cuda_image
    expected = 4 if same_torch else 3  # base, system, server; torch
    assert shared >= expected, f"got {shared} shared layers, expected {expected}"
