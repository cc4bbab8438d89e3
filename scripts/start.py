"""`make run-cpu`: from whatever is here to a running lab and its URL on stdout."""

from __future__ import annotations

import os
import sys

from scripts import state
from scripts.console import LabError, run, say
from scripts.engine_install import ensure_engine
from scripts.host import open_files_limit
from scripts.image import VARIANTS, ensure_image
from scripts.lab import Lab, ensure_running
from scripts.settings import ROOT, Settings
from scripts.spec import NOFILE, build_spec


def main() -> None:
    """Read as the plan: engine, state, workspace, image, container, URL."""
    variant = _variant(sys.argv[1:])
    ensure_engine(no_install=Settings.load(os.environ).no_install)
    lab = Lab.open()
    lab.container()  # a stranger of that name ends it here, before anything is made
    host_cpus = _cpus(lab)
    state.ensure_state(lab.state, lab.identity)
    with state.lock(lab.state):
        state.ensure_workspace(lab.settings.workspace, lab.identity)
        for name in state.seed(ROOT / "notebooks", lab.settings.workspace, lab.identity):
            say(f"sample: {lab.settings.workspace / name}")
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
        )
        found = lab.container()  # again: another command may have made it while this one waited for the lock
        running = ensure_running(lab.engine, spec, found, timeout=lab.settings.wait_timeout)
        if not found or found.id != running.id:
            lab.engine.prune_superseded()
    say("the lab is ready; open:")
    print(lab.url(running))


def _variant(arguments: list[str]) -> str:
    if len(arguments) == 1 and arguments[0] in VARIANTS:
        return arguments[0]
    raise LabError(f"unknown variant {' '.join(arguments)!r}", hint=f"python -m scripts.start {'|'.join(VARIANTS)}")


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
