"""Where the image's parts come from: asked in parallel before a build, then decided by a pure function."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.console import LabError
from scripts.settings import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scripts.engine import Engine
    from scripts.settings import Settings

REGISTRY_BASE = "debian:trixie-slim"
BOOTSTRAPPED_BASE = "pytorch-jupyter/base:trixie"
PROBE_SECONDS = 3.0
REQUIREMENTS = ROOT / "docker" / "requirements"
# The CPU image's torch: CPU-only wheels, or PyPI's, which carry CUDA 13 and run on a CPU too. A CUDA image's lock has
# its variant's name.
CPU_LOCK, PYPI_LOCK = "cpu", "cuda13"


@dataclass(frozen=True)
class Facts:
    """What was found: an empty problem means that the source answers."""

    local_bases: frozenset[str]
    registry_problem: str
    cpu_index_problem: str


@dataclass(frozen=True)
class Supply:
    """The decision: the base image, whether to bootstrap it first, torch's lock, and the reasons for a person."""

    base: str
    bootstrap: bool
    torch_lock: str
    reasons: tuple[str, ...]


def choose(settings: Settings, facts: Facts, variant: str = "cpu") -> Supply:
    """Pick the sources for an image from the settings and what answers."""
    base, bootstrap, base_reason = _choose_base(settings.base_image, facts)
    torch_lock, torch_reason = (
        _choose_torch(settings, facts.cpu_index_problem) if variant == "cpu" else (variant, "torch: PyPI's CUDA wheels")
    )
    return Supply(base, bootstrap, torch_lock, (base_reason, torch_reason))


def _choose_base(wanted: str | None, facts: Facts) -> tuple[str, bool, str]:
    if wanted and wanted != "debian":
        return wanted, False, f"base: {wanted} (BASE_IMAGE)"
    if not wanted and REGISTRY_BASE in facts.local_bases:
        return REGISTRY_BASE, False, f"base: {REGISTRY_BASE} (already here)"
    if not wanted and not facts.registry_problem:
        return REGISTRY_BASE, False, f"base: {REGISTRY_BASE} from its registry"
    why = "BASE_IMAGE=debian" if wanted else f"no registry: {facts.registry_problem}"
    if BOOTSTRAPPED_BASE in facts.local_bases:
        return BOOTSTRAPPED_BASE, False, f"base: {BOOTSTRAPPED_BASE}, bootstrapped earlier ({why})"
    return BOOTSTRAPPED_BASE, True, f"base: bootstrapped from Debian's packages, about 20 s ({why})"


def _choose_torch(settings: Settings, problem: str) -> tuple[str, str]:
    if settings.torch_source == "cpu-index":
        return CPU_LOCK, f"torch: {settings.torch_index_url} (TORCH_SOURCE)"
    if settings.torch_source == "pypi":
        return PYPI_LOCK, "torch: PyPI's CUDA wheels (TORCH_SOURCE)"
    if not problem:
        return CPU_LOCK, f"torch: CPU-only wheels from {settings.torch_index_url}"
    return (
        PYPI_LOCK,
        f"torch: PyPI's CUDA wheels, 4 GB larger but fine on a CPU ({settings.torch_index_url}: {problem})",
    )


def survey(settings: Settings, engine: Engine, variant: str = "cpu") -> Facts:
    """Ask the sources that matter, all at once; whoever stays silent for PROBE_SECONDS does not answer."""
    bases = frozenset(name for name in (REGISTRY_BASE, BOOTSTRAPPED_BASE) if engine.image(name))
    ask_registry = settings.base_image is None and REGISTRY_BASE not in bases
    ask_index = settings.torch_source == "auto" and variant == "cpu"
    answers = _in_parallel(
        {
            "registry": (lambda: engine.registry_problem(REGISTRY_BASE) or "") if ask_registry else lambda: "",
            "index": (lambda: cpu_index_problem(settings, engine.architecture())) if ask_index else lambda: "",
        }
    )
    return Facts(bases, answers["registry"], answers["index"])


def _in_parallel(questions: dict[str, Callable[[], str]]) -> dict[str, str]:
    pool = ThreadPoolExecutor(len(questions))
    futures: dict[str, Future[str]] = {name: pool.submit(question) for name, question in questions.items()}
    wait(futures.values(), timeout=PROBE_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    silent = f"no answer within {PROBE_SECONDS:.0f} s"
    return {name: future.result() if future.done() else silent for name, future in futures.items()}


def cpu_index_problem(settings: Settings, architecture: str) -> str:
    """Why the CPU index cannot serve the locked torch for this architecture; empty when it can."""
    version = locked_cpu_torch(REQUIREMENTS / "torch-cpu.txt")
    try:
        page = _fetch(f"{settings.torch_index_url}/torch/", settings.ca_bundle)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return " ".join(str(reason).split())
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture)
    wheel = re.escape(f"torch-{version}-").replace(r"\+", r"(?:\+|%2B)")
    if re.search(wheel + rf"[^\"'<>]*{machine}\.whl", page, re.IGNORECASE):
        return ""
    return f"it has no torch {version} for {machine}"


def locked_cpu_torch(lock: Path) -> str:
    """The torch version in a lock file, such as 2.15.0+cpu."""
    found = re.search(r"^torch==(\S+)", lock.read_text(), re.MULTILINE)
    if not found:
        raise LabError(f"{lock} names no torch version", hint="git checkout -- docker/requirements, or make lock")
    return found[1]


def _fetch(url: str, ca_bundle: Path | None) -> str:
    """Read a page through the host's proxy settings and the company's CA."""
    context = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)
    request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - settings admit http(s) only
    with urllib.request.urlopen(request, timeout=PROBE_SECONDS, context=context) as response:  # noqa: S310
        return str(response.read().decode(errors="replace"))
