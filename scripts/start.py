"""`make run-cpu` and `make run-gpu`: from whatever is here to a running lab and its URL on stdout."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from scripts import gpu_probe, state, tls
from scripts.console import LabError, run, say
from scripts.engine_install import ensure_engine
from scripts.gpu import GpuAccess, choose_access, choose_flavour
from scripts.host import open_files_limit
from scripts.image import ensure_image
from scripts.lab import Lab, ensure_running
from scripts.settings import ROOT, Settings
from scripts.spec import NOFILE, build_spec

if TYPE_CHECKING:
    from scripts.engine import ContainerInfo


def main() -> None:
    """Read as the plan: GPU, engine, state, workspace, image, container, URL."""
    settings = Settings.load(os.environ)
    variant = _variant(sys.argv[1:], settings)
    ensure_engine(no_install=settings.no_install)
    lab = Lab.open()
    lab.container()  # a stranger of that name ends it here, before anything is made
    gpu = None if variant == "cpu" else _gpu_access(lab)
    host_cpus = _cpus(lab)
    state.ensure_state(lab.state, lab.identity)
    with state.lock(lab.state):
        state.ensure_workspace(lab.settings.workspace, lab.identity)
        for name in state.seed(ROOT / "notebooks", lab.settings.workspace, lab.identity):
            say(f"sample: {lab.settings.workspace / name}")
        certificate = tls.ensure_certificate(lab.settings, lab.state, lab.identity)
        image = ensure_image(lab.engine, lab.settings, variant)
        spec = build_spec(
            settings=lab.settings,
            state=lab.state,
            identity=lab.identity,
            image=image.id,
            variant=variant,
            host_cpus=host_cpus,
            nofile=open_files_limit(NOFILE),
            environ=os.environ,
            certificate=certificate,
            gpu=gpu,
        )
        found = lab.container()  # again: another command may have made it while this one waited for the lock
        running = ensure_running(lab.engine, spec, found, timeout=lab.settings.wait_timeout)
        fresh = not found or found.id != running.id
        if gpu:
            _require_gpu(lab, running, fresh=fresh)
        if fresh:
            lab.engine.prune_superseded()
    if certificate:
        say(f"HTTPS; the certificate's SHA-256 fingerprint: {certificate.fingerprint}")
    say("the lab is ready; open:")
    print(lab.url(running))


def _variant(arguments: list[str], settings: Settings) -> str:
    """The image's variant; for a GPU, what its driver can run."""
    if arguments == ["cpu"]:
        return "cpu"
    if arguments != ["gpu"]:
        raise LabError(f"unknown variant {' '.join(arguments)!r}", hint="python -m scripts.start cpu|gpu")
    if os.environ.get("DOCKER_HOST", "").startswith("tcp:"):
        message = "make run-gpu looks at this machine's GPU, but DOCKER_HOST names an engine elsewhere"
        raise LabError(message, hint="run it on that machine, or unset DOCKER_HOST")
    flavour, reason = choose_flavour(gpu_probe.look_at_host(), settings)
    say(f"GPU: {reason}")
    return flavour.variant


def _gpu_access(lab: Lab) -> GpuAccess:
    access, reason = choose_access(gpu_probe.look_at_engine(lab.engine), lab.settings)
    say(f"GPU access: {reason}")
    return access


def _require_gpu(lab: Lab, running: ContainerInfo, *, fresh: bool) -> None:
    """Prove that torch computes there; a container made by this command does not stay behind without."""
    say("asking torch inside the container for the GPU …")
    try:
        say(f"GPU in use: {gpu_probe.require_working(lab.engine, running)}")
    except BaseException:
        if fresh:
            lab.engine.remove(running.id)
        raise


def _cpus(lab: Lab) -> int:
    """The engine's CPU count; a setting above it is refused before anything is built."""
    here: int = lab.engine.facts()["NCPU"]
    if lab.settings.cpus and lab.settings.cpus > here:
        raise LabError(
            f"CPUS={lab.settings.cpus:g} is more than the engine has ({here})",
            hint=f"make run-cpu CPUS={here}",
        )
    return here


if __name__ == "__main__":
    run(main)
