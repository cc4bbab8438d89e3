"""Look for GPUs: on the PCI bus, at the driver, at the engine, inside a container. Standard library only."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import host
from scripts.console import LabError
from scripts.gpu import EngineGpuFacts, Gpu, GpuFacts

if TYPE_CHECKING:
    from scripts.engine import ContainerInfo, Engine

SYS, PROC = Path("/sys"), Path("/proc")
NVIDIA, AMD = "0x10de", "0x1002"
DISPLAY, ACCELERATOR = "0x03", "0x12"  # PCI base classes
QUERY = "index,uuid,name,compute_cap,mig.mode.current"
SMI_SECONDS = 30  # a machine with eight GPUs and no persistence daemon takes this long
CHECK = ["python", "-I", "/opt/venv/gpu_check.py"]


def look_at_host() -> GpuFacts:
    """The devices and their driver."""
    vendors = [_read(path / "vendor") for path in sorted(SYS.glob("bus/pci/devices/*")) if _computes(path)]
    driver = _driver_version()
    gpus, problem = _ask_driver() if driver else ((), "")
    distribution = host.os_release().get("ID", "")
    return GpuFacts(
        nvidia=vendors.count(NVIDIA), amd=vendors.count(AMD), driver=driver, driver_problem=problem, gpus=gpus,
        distribution=distribution,
    )  # fmt: skip


def _computes(device: Path) -> bool:
    return _read(device / "class").startswith((DISPLAY, ACCELERATOR))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _driver_version() -> str:
    """The loaded driver's version; under WSL, where the kernel module is Windows', nvidia-smi's word for it."""
    if found := re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", _read(PROC / "driver/nvidia/version")):
        return found[1]
    if not (host.find_program("nvidia-smi") and Path("/dev/dxg").exists()):
        return ""
    return _smi("--query-gpu=driver_version", "--format=csv,noheader").stdout.partition("\n")[0].strip()


def _ask_driver() -> tuple[tuple[Gpu, ...], str]:
    """Every GPU, or why the driver does not tell."""
    if not host.find_program("nvidia-smi"):
        return (), "nvidia-smi is missing"
    answer = _smi(f"--query-gpu={QUERY}", "--format=csv,noheader")
    if answer.returncode:
        lines = [line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
        # Drivers before 510 do not know the compute capability; they are too old for every image anyway.
        return (), "" if "not a valid field" in answer.stdout else lines[0] if lines else "nvidia-smi failed"
    return parse_gpus(answer.stdout, _smi("-L").stdout), ""


def parse_gpus(query: str, listing: str) -> tuple[Gpu, ...]:
    """Read nvidia-smi's CSV, and the MIG devices from its `-L`, which follow their GPU."""
    parts: dict[str, list[str]] = {}
    owner = ""
    for uuid, kind in re.findall(r"UUID: ((GPU|MIG)-[^)]+)\)", listing):
        if kind == "GPU":
            owner = uuid
        else:
            parts.setdefault(owner, []).append(uuid)
    return tuple(
        Gpu(int(index), uuid, name, _capability(capability), mig == "Enabled", tuple(parts.get(uuid, ())))
        for index, uuid, name, capability, mig in _rows(query)
    )


def _rows(text: str) -> list[list[str]]:
    """The cells of nvidia-smi's CSV."""
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _smi(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [host.find_program("nvidia-smi") or "nvidia-smi", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SMI_SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"nvidia-smi did not answer within {SMI_SECONDS} s")


def look_at_engine(engine: Engine) -> EngineGpuFacts:
    """What the engine can hand a GPU over with."""
    facts = engine.facts()
    return EngineGpuFacts(
        runtimes=frozenset(facts.get("Runtimes") or {}),
        cdi=_has_cdi(facts),
        hook=host.find_program("nvidia-container-runtime-hook") is not None,
        toolkit=host.find_program("nvidia-ctk") is not None,
    )


def _has_cdi(facts: dict[str, Any]) -> bool:
    """Engines that read CDI name their folders, and since 28.2 the devices that they found."""
    if any(str(each.get("ID", "")).startswith("nvidia.com/gpu") for each in facts.get("DiscoveredDevices") or []):
        return True
    folders = [Path(each) for each in facts.get("CDISpecDirs") or []]
    return any("nvidia.com/gpu" in _read(path) for each in folders for path in each.glob("*.[yj][as]*"))


@dataclass(frozen=True)
class Meter:
    """One GPU inside the container, in use: memory in MiB, utilization in percent."""

    name: str
    memory_used: int
    memory_total: int
    utilization: int | None


def read_meters(engine: Engine, container: ContainerInfo) -> list[Meter]:
    """Ask nvidia-smi inside the container; empty: the container has lost its GPU (or never had one)."""
    query = "--query-gpu=name,memory.used,memory.total,utilization.gpu"
    code, output = engine.execute(container.id, ["nvidia-smi", query, "--format=csv,noheader,nounits"])
    rows = [] if code else [row for row in _rows(output) if len(row) == 4]
    return [
        Meter(name, int(used), int(total), int(busy) if busy.isdigit() else None) for name, used, total, busy in rows
    ]


def require_working(engine: Engine, container: ContainerInfo) -> str:
    """Have torch inside the container compute on every GPU; return a line that names them.

    Raises:
        LabError: torch there cannot use a GPU; the message carries its own reason.

    """
    code, output = engine.execute(container.id, CHECK)
    try:
        report = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        report = {"problem": output.strip().rpartition("\n")[2] or f"the check ended with exit code {code}"}
    if report.get("problem"):
        message = f"the container cannot use the GPU: {report['problem']}"
        hint = (
            "make doctor checks driver and engine; if it worked before (a daemon-reload takes GPUs away): make restart"
        )
        raise LabError(message, hint=hint)
    return "; ".join(f"{each['name']}, {each['memory'] / 2**30:.0f} GB" for each in report["devices"])
