"""The image: up to date already, or built now, or the ready one that the user named."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from scripts import supply
from scripts.base import ensure_base
from scripts.builder import Build, run_build
from scripts.console import LabError, say
from scripts.content import content_hash
from scripts.gpu import FLAVOURS
from scripts.settings import ROOT
from scripts.spec import LABEL
from scripts.supply import REQUIREMENTS

if TYPE_CHECKING:
    from scripts.engine import Engine, ImageInfo
    from scripts.settings import Settings
    from scripts.supply import Supply

VARIANTS = ("cpu", *(each.variant for each in FLAVOURS))
DOCKER = ROOT / "docker"
# The image itself, its unpacked layers while building and the wheel cache. Rounded up from a measured build.
DISK_NEEDED = {supply.CPU_LOCK: 5 << 30, **{each.variant: 15 << 30 for each in FLAVOURS}}


def tag_of(variant: str) -> str:
    """The name that a variant's image has on this machine."""
    return f"pytorch-jupyter:{variant}"


def ensure_image(engine: Engine, settings: Settings, variant: str) -> ImageInfo:
    """Return the image to run, building or pulling it first where needed.

    Raises:
        LabError: it cannot be had, or it is of another architecture.

    """
    if settings.image:
        return _ensure_ready_image(engine, settings.image)
    found = engine.image(tag_of(variant))
    if found and is_fresh(found, settings, variant):
        return found
    say(f"the image {tag_of(variant)} is {'out of date' if found else 'not built yet'}; building it")
    return build_image(engine, settings, variant)


def is_fresh(image: ImageInfo, settings: Settings, variant: str) -> bool:
    """Whether an image was made from today's sources and from the supply that the settings insist on."""
    if image.labels.get(f"{LABEL}.content") != content_hash(DOCKER, variant):
        return False
    choices = {"cpu-index": supply.CPU_LOCK, "pypi": supply.PYPI_LOCK}
    insisted = choices.get(settings.torch_source) if variant == "cpu" else variant
    base = supply.BOOTSTRAPPED_BASE if settings.base_image == "debian" else settings.base_image
    return insisted in {None, image.labels.get(f"{LABEL}.torch")} and base in {
        None,
        image.labels.get(f"{LABEL}.base"),
    }


def build_image(engine: Engine, settings: Settings, variant: str) -> ImageInfo:
    """Find the sources, say which, and build."""
    decision = supply.choose(settings, supply.survey(settings, engine, variant), variant)
    for reason in decision.reasons:
        say(f"  {reason}")
    _require_space(engine, variant, decision.torch_lock)
    base = _obtain_base(engine, settings, decision)
    run_build(describe_build(variant, base, decision.torch_lock), settings)
    built = engine.image(tag_of(variant))
    if not built:
        raise LabError(
            f"the build ended well, but the engine has no image {tag_of(variant)}",
            hint="the client builds for another engine: check 'docker context ls' and DOCKER_HOST",
        )
    say(f"built {tag_of(variant)}: {built.size / 1e9:.2f} GB")
    return built


def describe_build(variant: str, base: str, torch_lock: str) -> Build:
    """The build as a value; its labels let later runs tell fresh from stale without asking the builder."""
    labels = {"content": content_hash(DOCKER, variant), "base": base, "torch": torch_lock, "variant": variant,
              "locks": content_hash(REQUIREMENTS)}  # fmt: skip
    return Build(
        dockerfile=DOCKER / ("cpu.Dockerfile" if variant == "cpu" else "cuda.Dockerfile"),
        context=DOCKER,
        tag=tag_of(variant),
        arguments={"BASE": base, "TORCH": torch_lock},
        labels={f"{LABEL}.{key}": value for key, value in labels.items()},
    )


def _obtain_base(engine: Engine, settings: Settings, decision: Supply) -> str:
    """Have the base image here before the build, so that a registry's refusal is told apart from a failed build."""
    if decision.bootstrap:
        ensure_base(engine, settings)
        return decision.base
    if engine.image(decision.base):
        return decision.base
    say(f"pulling {decision.base} …")
    try:
        engine.pull(decision.base)
    except LabError as error:
        if settings.base_image:
            raise
        # It answered the question and refuses the download: rate limits do that.
        say(f"  {error.message}; bootstrapping the base from Debian's packages instead")
        ensure_base(engine, settings)
        return supply.BOOTSTRAPPED_BASE
    return decision.base


def _ensure_ready_image(engine: Engine, reference: str) -> ImageInfo:
    if not engine.image(reference):
        say(f"pulling {reference} …")
        engine.pull(reference)
    image = engine.image(reference)
    if not image:
        raise LabError(f"IMAGE={reference} cannot be had", hint="leave IMAGE out to build it here")
    here = engine.architecture()
    if image.architecture != here:
        raise LabError(
            f"IMAGE={reference} is built for {image.architecture}, this engine runs {here}",
            hint=f"use an image for {here}, or leave IMAGE out to build one here",
        )
    return image


def _require_space(engine: Engine, variant: str, torch_lock: str) -> None:
    """Refuse before an hour of downloads, not after; a remote engine's disk cannot be seen from here.

    What was built from the same locks is a matter of megabytes: its large layers are there.
    """
    found = engine.image(tag_of(variant))
    known = (found.labels.get(f"{LABEL}.locks"), found.labels.get(f"{LABEL}.torch")) if found else None
    if known == (content_hash(REQUIREMENTS), torch_lock):
        return
    folder = engine.facts().get("DockerRootDir", "")
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    needed = DISK_NEEDED[torch_lock]
    if free < needed:
        raise LabError(
            f"{folder} has {free / 1e9:.1f} GB free, the build needs about {needed / 1e9:.0f} GB",
            hint="docker system prune frees what other projects left; or give the machine a larger disk",
        )
