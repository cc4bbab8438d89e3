"""Which CUDA image this machine can run, and how its engine hands over the GPU: pure functions of what was found.

The driver decides: it must be as new as the CUDA in torch's wheels asks for, and the wheels must hold code for the
GPU's compute capability. Sources: CUDA's compatibility guide for the drivers, torch.cuda.get_arch_list() for the
capabilities (a test holds them against the images).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.console import LabError

if TYPE_CHECKING:
    from scripts.settings import Settings

ON_A_CPU = "make run-cpu works on this machine"
TOOLKIT_GUIDE = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
REGISTER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


@dataclass(frozen=True)
class Flavour:
    """A CUDA image, and what its torch needs at least: the driver's branch and the GPU's compute capability."""

    variant: str
    torch: str
    driver: int
    capability: tuple[int, int]


# Newest first: the first that fits is taken.
FLAVOURS = (
    Flavour("cuda13", "the newest torch", driver=580, capability=(7, 5)),
    Flavour("cuda12", "torch 2.10", driver=525, capability=(7, 0)),
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it. `mig`: in MIG mode; `parts`: its MIG devices' UUIDs."""

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    mig: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What was found on this machine. Driver: its version, such as 580.65.06; empty: none is loaded."""

    nvidia: int = 0  # NVIDIA display devices on the PCI bus
    amd: int = 0
    driver: str = ""
    driver_problem: str = ""  # why the driver does not answer although it is loaded
    gpus: tuple[Gpu, ...] = ()
    distribution: str = ""

    @property
    def has_nvidia(self) -> bool:
        """On the bus, or, under WSL, known to the driver alone."""
        return bool(self.nvidia or self.gpus)


@dataclass(frozen=True, kw_only=True)
class EngineGpuFacts:
    """What the engine and its host offer to hand a GPU over."""

    runtimes: frozenset[str] = frozenset()
    cdi: bool = False  # the engine reads CDI, and an nvidia.com/gpu device is described
    hook: bool = False  # nvidia-container-runtime-hook, which device requests need
    toolkit: bool = False  # nvidia-ctk is installed


@dataclass(frozen=True)
class GpuAccess:
    """How the container gets which GPUs. `method`: runtime, cdi or request; `devices`: all, or indexes and UUIDs."""

    method: str
    devices: str = "all"


def choose_flavour(facts: GpuFacts, settings: Settings) -> tuple[Flavour, str]:
    """Pick the CUDA image and say why.

    Raises:
        LabError: no image of ours can use a GPU here; the message says what is missing.

    """
    _require_driver(facts)
    gpus = _chosen(facts.gpus, settings.gpus)
    branch = int(facts.driver.partition(".")[0])
    problems = {each.variant: _problem(each, branch, facts.driver, gpus) for each in FLAVOURS}
    asked = [each for each in FLAVOURS if settings.cuda in {"auto", each.variant.removeprefix("cuda")}]
    fitting = [each for each in asked if not problems[each.variant]]
    if not fitting:
        raise LabError(problems[asked[-1].variant], hint=_other_way(asked[-1], branch, problems, facts))
    flavour = fitting[0]
    names = ", ".join(sorted({each.name for each in gpus}))
    why = " (CUDA)" if settings.cuda != "auto" else ""
    newer = [problems[each.variant] for each in FLAVOURS[: FLAVOURS.index(flavour)] if problems[each.variant]]
    because = f"; {newer[0]}" if newer and not why else ""
    return flavour, f"{names}, driver {facts.driver}: {flavour.variant}, {flavour.torch}{why}{because}"


def _require_driver(facts: GpuFacts) -> None:
    if not facts.has_nvidia:
        if facts.amd:
            message = "the GPU on this machine is AMD's; CUDA and make run-gpu need one of NVIDIA's"
            raise LabError(
                message, hint=f"{ON_A_CPU}; on Azure, NVv4, NGads and NVads V710 sizes are AMD's, NCasT4_v3 is not"
            )
        message = "there is no NVIDIA GPU on this machine (none on its PCI bus)"
        raise LabError(message, hint=f"{ON_A_CPU}; a cloud VM needs a GPU size, such as Azure's Standard_NC4as_T4_v3")
    if not facts.driver:
        message = "there is an NVIDIA GPU, but its driver is not loaded"
        raise LabError(message, hint=f"{_install_driver(facts)}; then make run-gpu again. Until then {ON_A_CPU}")
    if facts.driver_problem:
        message = f"the NVIDIA driver {facts.driver} is loaded, but it does not answer: {facts.driver_problem}"
        raise LabError(
            message, hint="sudo reboot (after a driver update the old one stays loaded); nvidia-smi shows more"
        )


def _install_driver(facts: GpuFacts) -> str:
    if facts.distribution == "ubuntu":
        return "sudo apt-get install ubuntu-drivers-common && sudo ubuntu-drivers install && sudo reboot"
    return "sudo apt-get install nvidia-driver (Debian: from non-free) && sudo reboot"


def _chosen(gpus: tuple[Gpu, ...], wanted: str) -> list[Gpu]:
    """The GPUs that GPUS names, by index, UUID or the UUID of a MIG device; each must be able to compute.

    Raises:
        LabError: one does not exist, or it is in MIG mode and has no MIG device.

    """
    names = [] if wanted == "all" else wanted.split(",")
    for name in names:
        if not any(_is_called(gpu, name) for gpu in gpus):
            known = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
            raise LabError(
                f"GPUS={wanted!r}: this machine has no GPU {name}", hint=f"it has {known}; GPUS=all takes all"
            )
    chosen = [gpu for gpu in gpus if not names or any(_is_called(gpu, name) for name in names)]
    for gpu in chosen:
        if gpu.mig and not gpu.parts:
            message = f"GPU {gpu.index} ({gpu.name}) is in MIG mode, but has no MIG device to compute on"
            one = f"sudo nvidia-smi mig -i {gpu.index} -cgi 0 -C makes one of the whole"
            hint = f"{one}; sudo nvidia-smi -i {gpu.index} -mig 0 ends MIG"
            raise LabError(message, hint=hint)
    return chosen


def _is_called(gpu: Gpu, name: str) -> bool:
    return name in {str(gpu.index), gpu.uuid, *gpu.parts}


def _problem(flavour: Flavour, branch: int, driver: str, gpus: list[Gpu]) -> str:
    """Why a flavour cannot run here; empty when it can."""
    if branch < flavour.driver:
        return f"{flavour.variant} needs NVIDIA driver {flavour.driver} or newer, this machine has {driver}"
    for gpu in gpus:
        if gpu.capability < flavour.capability:
            needed, has = (".".join(map(str, each)) for each in (flavour.capability, gpu.capability))
            return f"{flavour.variant} needs compute capability {needed} or newer, {gpu.name} has {has}"
    return ""


def _other_way(asked: Flavour, branch: int, problems: dict[str, str], facts: GpuFacts) -> str:
    other = next((name for name, problem in problems.items() if not problem), None)
    if other:
        return f"make run-gpu CUDA={other.removeprefix('cuda')} fits this machine; without CUDA it is chosen by itself"
    if branch < asked.driver:
        return f"{_install_driver(facts)}; until then {ON_A_CPU}"
    return f"no torch on PyPI supports this GPU any more; {ON_A_CPU}"


def choose_access(facts: EngineGpuFacts, settings: Settings) -> tuple[GpuAccess, str]:
    """Pick the way in which the engine hands the GPU over, and say which.

    Raises:
        LabError: the engine has none.

    """
    if "nvidia" in facts.runtimes:
        return GpuAccess("runtime", settings.gpus), "the engine's nvidia runtime"
    if facts.cdi:
        return GpuAccess("cdi", settings.gpus), "CDI (nvidia.com/gpu); the engine has no nvidia runtime"
    if facts.hook:
        return GpuAccess("request", settings.gpus), "a device request; the engine has neither nvidia runtime nor CDI"
    if facts.toolkit:
        message = "the NVIDIA Container Toolkit is installed, but the engine does not know its nvidia runtime"
        raise LabError(message, hint=f"{REGISTER}; then make run-gpu again")
    message = "the engine cannot hand over a GPU: the NVIDIA Container Toolkit is not installed"
    raise LabError(message, hint=f"install nvidia-container-toolkit ({TOOLKIT_GUIDE}), then {REGISTER}")
