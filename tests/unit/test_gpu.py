"""The preflight: every combination of device, driver, GPU and engine, and what each is told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from scripts import gpu_probe
from scripts.console import LabError
from scripts.gpu import EngineGpuFacts, Gpu, GpuAccess, GpuFacts, choose_access, choose_flavour
from scripts.settings import ROOT, Settings

if TYPE_CHECKING:
    from pathlib import Path

UUID = "GPU-00000000-0000-0000-0000-00000000000{}"
MIG = "MIG-00000000-0000-0000-0000-000000000001"


def a_gpu(name: str = "Tesla T4", capability: tuple[int, int] = (7, 5), index: int = 0, **more: object) -> Gpu:
    """One GPU."""
    return Gpu(index, UUID.format(index), name, capability, **more)  # type: ignore[arg-type]


T4, A100, H100 = a_gpu(), a_gpu("A100", (8, 0)), a_gpu("H100", (9, 0))
B200, V100, P100 = a_gpu("B200", (10, 0)), a_gpu("V100", (7, 0)), a_gpu("P100", (6, 0))


def facts(driver: str, *gpus: Gpu, **more: object) -> GpuFacts:
    """A machine with these GPUs and this driver."""
    return GpuFacts(nvidia=len(gpus) or 1, driver=driver, gpus=gpus, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "settings", "expected"),
    [
        (facts("580.65.06", T4), {}, "cuda13"),
        (facts("595.10", A100), {}, "cuda13"),
        (facts("580.65.06", H100), {}, "cuda13"),
        (facts("580.65.06", B200), {}, "cuda13"),
        (facts("535.230.02", T4), {}, "cuda12"),
        (facts("525.60.13", H100), {}, "cuda12"),
        (facts("579.99", A100), {}, "cuda12"),
        (facts("580.65.06", V100), {}, "cuda12"),
        (facts("580.65.06", T4, a_gpu("V100", (7, 0), 1)), {}, "cuda12"),
        (facts("580.65.06", T4, a_gpu("V100", (7, 0), 1)), {"GPUS": "0"}, "cuda13"),
        (facts("580.65.06", T4), {"CUDA": "12"}, "cuda12"),
        (facts("580.65.06", T4), {"CUDA": "13"}, "cuda13"),
        (facts("580.65.06", T4, a_gpu(index=1)), {"GPUS": "0,1"}, "cuda13"),
        (facts("580.65.06", T4), {"GPUS": UUID.format(0)}, "cuda13"),
        (facts("580.65.06", a_gpu("A100", (8, 0), mig=True, parts=(MIG,))), {"GPUS": MIG}, "cuda13"),
        (GpuFacts(driver="580.65.06", gpus=(T4,)), {}, "cuda13"),
    ],
    ids=["Turing", "Ampere", "Hopper", "Blackwell", "DSVM's driver", "oldest driver", "just too old for 13", "Volta",
         "Turing beside Volta", "Turing chosen", "CUDA=12", "CUDA=13", "two", "by UUID", "a MIG device", "WSL"],
)  # fmt: skip
def test_the_flavour(found: GpuFacts, settings: dict[str, str], expected: str) -> None:
    """The newest flavour that driver and every chosen GPU can run, unless CUDA asks for another that can run too."""
    got = choose_flavour(found, Settings.load(settings))[0].variant
    assert got == expected, f"got {got}, expected {expected}"


@pytest.mark.parametrize(
    ("found", "settings", "message", "hint"),
    [
        (GpuFacts(), {}, "no NVIDIA GPU on this machine", "make run-cpu works"),
        (GpuFacts(amd=1), {}, "AMD's", "make run-cpu works"),
        (GpuFacts(nvidia=1, distribution="ubuntu"), {}, "driver is not loaded", "ubuntu-drivers install"),
        (GpuFacts(nvidia=1, distribution="debian"), {}, "driver is not loaded", "apt-get install nvidia-driver"),
        (facts("580.65.06", driver_problem="Failed to initialize NVML: Driver/library version mismatch"), {},
         "version mismatch", "sudo reboot"),
        (facts("470.256.02", T4, distribution="ubuntu"), {}, "needs NVIDIA driver 525", "ubuntu-drivers install"),
        (facts("470.256.02"), {}, "cuda12 needs NVIDIA driver 525", "make run-cpu works"),
        (facts("535.230.02", T4), {"CUDA": "13"}, "cuda13 needs NVIDIA driver 580 or newer, this machine has 535.2",
         "make run-gpu CUDA=12"),
        (facts("580.65.06", V100), {"CUDA": "13"}, "cuda13 needs compute capability 7.5 or newer, V100 has 7.0",
         "make run-gpu CUDA=12"),
        (facts("580.65.06", P100), {}, "cuda12 needs compute capability 7.0 or newer, P100 has 6.0", "run-cpu"),
        (facts("580.65.06", T4), {"GPUS": "1"}, "GPUS='1': this machine has no GPU 1", "it has 0 (Tesla T4)"),
        (facts("580.65.06", a_gpu("A100", (8, 0), mig=True)), {}, "MIG mode, but has no MIG device", "mig -i 0 -cgi"),
    ],
    ids=["none", "AMD", "no driver, Ubuntu", "no driver, Debian", "driver silent", "too old for all", "very old",
         "too old for 13", "Volta and 13", "Pascal", "no such GPU", "MIG without devices"],
)  # fmt: skip
def test_what_is_missing_is_said(found: GpuFacts, settings: dict[str, str], message: str, hint: str) -> None:
    """Each machine that cannot be used gets its own message, and the command that mends it."""
    with pytest.raises(LabError) as caught:
        choose_flavour(found, Settings.load(settings))
    got = (caught.value.message, caught.value.hint)
    assert (message in got[0], hint in got[1]) == (True, True), f"got {got}, expected {message!r} and {hint!r}"


def test_an_older_flavour_is_explained() -> None:
    """Whoever gets CUDA 12 reads why it is not 13."""
    got = choose_flavour(facts("535.230.02", T4), Settings.load({}))[1]
    expected = "cuda12, torch 2.10; cuda13 needs NVIDIA driver 580 or newer, this machine has 535.230.02"
    assert expected in got, f"got {got}"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (EngineGpuFacts(runtimes=frozenset({"runc", "nvidia"}), cdi=True, hook=True), "runtime"),
        (EngineGpuFacts(runtimes=frozenset({"runc"}), cdi=True, hook=True), "cdi"),
        (EngineGpuFacts(runtimes=frozenset({"runc"}), hook=True), "request"),
    ],
)
def test_the_access(found: EngineGpuFacts, expected: str) -> None:
    """The runtime first, then CDI, then a device request; the GPUs asked for go along."""
    got = choose_access(found, Settings.load({"GPUS": "0,1"}))[0]
    assert got == GpuAccess(expected, "0,1"), f"got {got}, expected {expected}"


@pytest.mark.parametrize(
    ("found", "message", "hint"),
    [
        (EngineGpuFacts(toolkit=True), "does not know its nvidia runtime", "nvidia-ctk runtime configure"),
        (EngineGpuFacts(), "Toolkit is not installed", "install nvidia-container-toolkit"),
    ],
)
def test_an_engine_without_access_is_explained(found: EngineGpuFacts, message: str, hint: str) -> None:
    """An engine that cannot hand over a GPU: the missing part, and how it is installed or registered."""
    with pytest.raises(LabError) as caught:
        choose_access(found, Settings.load({}))
    got = (caught.value.message, caught.value.hint)
    assert (message in got[0], hint in got[1]) == (True, True), f"got {got}"


def put(root: Path, address: str, vendor: str, kind: str) -> None:
    """A device on a PCI bus of the test's own."""
    folder = root / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_only_display_devices_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's network cards and AMD's bridges are no GPUs; a 3D controller is one."""
    put(tmp_path, "0001:00:00.0", "0x10de", "0x030200")
    put(tmp_path, "0002:00:00.0", "0x10de", "0x020000")
    put(tmp_path, "0003:00:00.0", "0x1002", "0x120000")
    put(tmp_path, "0004:00:00.0", "0x1002", "0x060400")
    monkeypatch.setattr(gpu_probe, "SYS", tmp_path)
    monkeypatch.setattr(gpu_probe, "PROC", tmp_path / "proc")
    got = gpu_probe.look_at_host()
    assert (got.nvidia, got.amd, got.driver) == (1, 1, ""), f"got {got}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.230.02  Thu Jan  9 2025\nGCC version: gcc 11.4.0",
         "535.230.02"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 13.3.0",
         "580.65.06"),
    ],
)  # fmt: skip
def test_the_drivers_version(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel module's own version, from the closed module and the open one, never the compiler's."""
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text(text)
    monkeypatch.setattr(gpu_probe, "PROC", tmp_path)
    monkeypatch.setattr(gpu_probe, "SYS", tmp_path)
    got = gpu_probe.look_at_host().driver
    assert got == expected, f"got {got}, expected {expected}"


def test_nvidia_smi_is_read() -> None:
    """Names with commas of their own, MIG devices below their GPU, and a GPU that knows no MIG."""
    query = f"0, {UUID.format(0)}, NVIDIA A100 80GB PCIe, 8.0, Enabled\n1, {UUID.format(1)}, Tesla T4, 7.5, [N/A]\n"
    listing = (f"GPU 0: NVIDIA A100 80GB PCIe (UUID: {UUID.format(0)})\n"
               f"  MIG 1g.10gb     Device  0: (UUID: {MIG})\nGPU 1: Tesla T4 (UUID: {UUID.format(1)})\n")  # fmt: skip
    got = gpu_probe.parse_gpus(query, listing)
    expected = (a_gpu("NVIDIA A100 80GB PCIe", (8, 0), mig=True, parts=(MIG,)), a_gpu("Tesla T4", (7, 5), 1))
    assert got == expected, f"got {got}"


def test_the_dockerfiles_differ_in_one_block() -> None:
    """Outside the marked block, and the first line, the CPU and the CUDA file are the same."""
    texts = [(ROOT / f"docker/{name}.Dockerfile").read_text().partition("\n")[2] for name in ("cpu", "cuda")]
    cpu, cuda = (re.sub(r"(?s)# ↓ variant.*?# ↑ variant", "", text) for text in texts)
    assert cpu == cuda, "the Dockerfiles differ outside the marked block"
