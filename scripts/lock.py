"""`make lock`: compile docker/requirements/*.in into exact, hashed locks, with today's versions.

    server.txt        everything but the torch stack, torch's ordinary dependencies included
    torch-cuda13.txt  the torch stack of PyPI's newest torch
    torch-cuda12.txt  the same for the last torch with CUDA 12
    torch-cpu.txt     the same torch from the CPU index, which cannot be hashed without asking that index
    gpu.txt           what the CUDA images have above torch
    uv.txt            the installer

The locks hold the hashes of the wheels that an image or a laptop can install and no others: hashes do not
compress, and the locks travel with the checkout.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import tomli
from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

from scripts.console import LabError, run, say
from scripts.settings import ROOT
from scripts.tools import UV

REQUIREMENTS = ROOT / "docker" / "requirements"
PYTHON = "3.13"  # Debian trixie's
TORCH_STACK = ("torch", "torchvision", "triton", "nvidia-", "cuda-")
HEADER = "# Made by `make lock` from {sources}; do not edit.\n"
# The image's two architectures, and a laptop's `make run-local`, in the words of environment markers.
MACHINES = (
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
)

Package = dict[str, Any]


def main() -> None:
    """Compile every lock."""
    everything = compile_packages(["server.in", "torch-cuda13.in"])
    write("server.txt", "server.in", [each for each in everything if not in_torch_stack(each)])
    write("torch-cuda13.txt", "torch-cuda13.in", [each for each in everything if in_torch_stack(each)])
    older = compile_packages(["torch-cuda12.in"], constraints="server.txt")
    write("torch-cuda12.txt", "torch-cuda12.in", [each for each in older if in_torch_stack(each)])
    additions = compile_packages(["gpu.in"], constraints="server.txt")
    present = {each["name"] for each in everything}
    write("gpu.txt", "gpu.in", [each for each in additions if each["name"] not in present])
    write("uv.txt", "uv.in", compile_packages(["uv.in"]))
    write_cpu(everything)


def compile_packages(sources: list[str], *, constraints: str | None = None) -> list[Package]:
    """Resolve with uv for every platform; return the packages of the resulting pylock.toml."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pylock.toml"
        limits = [f"--constraints={constraints}"] if constraints else []
        options = [f"--python-version={PYTHON}", "--only-binary=:all:", "--overrides=overrides.txt", *limits]
        command = [str(UV), "pip", "compile", "--quiet", "--universal", *options, f"--output-file={target}", *sources]
        if subprocess.run(command, cwd=REQUIREMENTS, stdout=subprocess.DEVNULL, check=False).returncode:
            raise LabError(f"uv could not resolve {' and '.join(sources)}", hint="its reasons stand above")
        packages: list[Package] = tomli.loads(target.read_text())["packages"]
    return [each for each in packages if wanted_somewhere(each)]


def wanted_somewhere(package: Package) -> bool:
    """Whether any machine of ours needs a package; uv also resolves for Windows."""
    marker = Marker(package["marker"]) if "marker" in package else None
    return marker is None or any(marker.evaluate(dict(machine)) for machine in MACHINES)


def in_torch_stack(package: Package) -> bool:
    """Whether a package belongs to torch's own layer."""
    return any(
        package["name"] == name or (name[-1] == "-" and package["name"].startswith(name)) for name in TORCH_STACK
    )


def write(target: str, source: str, packages: list[Package]) -> None:
    """Write one lock as a hashed requirements file."""
    text = HEADER.format(sources=source) + "".join(entry(each) for each in packages)
    (REQUIREMENTS / target).write_text(text)
    say(f"{target}: {len(packages)} packages")


def write_cpu(packages: list[Package]) -> None:
    """Write the CPU index's lock: the same versions with that index's suffix, dependencies being in server.txt."""
    version = {each["name"]: each["version"] for each in packages}
    # That index's torchvision for arm64 carries no suffix: https://github.com/pytorch/vision/issues/9197
    pins = (
        f"torch=={version['torch']}+cpu\n"
        f"torchvision=={version['torchvision']} ; platform_machine != 'x86_64'\n"
        f"torchvision=={version['torchvision']}+cpu ; platform_machine == 'x86_64'\n"
    )
    (REQUIREMENTS / "torch-cpu.txt").write_text(HEADER.format(sources="torch-cuda13.in") + pins)


def entry(package: Package) -> str:
    """One package in the requirements format: pin, marker and hashes."""
    hashes = sorted({wheel["hashes"]["sha256"] for wheel in package.get("wheels", []) if installable(wheel["url"])})
    if not hashes:
        raise LabError(
            f"{package['name']} {package['version']} has no wheel that the image can install", hint="pin another"
        )
    marker = f" ; {package['marker']}" if "marker" in package else ""
    return (
        " \\\n    ".join(
            [f"{package['name']}=={package['version']}{marker}", *(f"--hash=sha256:{each}" for each in hashes)]
        )
        + "\n"
    )


def installable(url: str) -> bool:
    """Whether a wheel fits the image (Linux with glibc, x86_64 or arm64) or a laptop's `make run-local`."""
    *_, tags = parse_wheel_filename(url.rpartition("/")[2].replace("%2B", "+"))
    return any(_fits_python(tag.interpreter, tag.abi) and _fits_platform(tag.platform) for tag in tags)


def _fits_python(interpreter: str, abi: str) -> bool:
    own = "cp" + PYTHON.replace(".", "")
    return (
        interpreter in {"py3", f"py{PYTHON.replace('.', '')}"}
        or abi == own
        or (abi == "abi3" and int(interpreter[3:]) <= int(own[3:]))
    )


def _fits_platform(platform: str) -> bool:
    linux = platform.startswith(("manylinux", "linux")) and platform.endswith(("x86_64", "aarch64"))
    return platform == "any" or linux or (platform.startswith("macosx") and platform.endswith(("arm64", "universal2")))


if __name__ == "__main__":
    run(main)
