"""`make sbom`: what is in a built image, Debian's packages included, as CycloneDX JSON on stdout."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.console import LabError, run
from scripts.engine import Engine
from scripts.image import tag_of
from scripts.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.engine import ImageInfo

PYTHON = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
DEBIAN = ["dpkg-query", "--show", "--showformat=${Package}\\t${Version}\\t${Architecture}\\n"]


def main() -> None:
    """Print the bill of materials.

    Raises:
        LabError: the image is not built.

    """
    settings, engine = Settings.load(os.environ), Engine()
    name = settings.image or tag_of("cpu" if settings.cuda == "auto" else f"cuda{settings.cuda}")
    image = engine.image(name)
    if not image:
        raise LabError(f"there is no image {name} here", hint="make build builds it (make build-gpu CUDA=13)")
    print(JsonV1Dot6(bill(engine, name, image)).output_as_string(indent=2))


def bill(engine: Engine, name: str, image: ImageInfo) -> Bom:
    """Ask the image itself: its package databases, not the locks, say what is installed."""
    bom = Bom(components=[*_python(engine, image), *_debian(engine, image)])
    bom.metadata.component = Component(
        name=name, version=image.id, type=ComponentType.CONTAINER, bom_ref=f"image:{image.id}"
    )
    return bom


def _python(engine: Engine, image: ImageInfo) -> Iterator[Component]:
    for name, version in json.loads(engine.run_once(image.id, ["python", "-c", PYTHON])):
        yield _component(PackageURL("pypi", None, name.lower().replace("_", "-"), version))


def _debian(engine: Engine, image: ImageInfo) -> Iterator[Component]:
    for line in engine.run_once(image.id, DEBIAN).splitlines():
        name, version, architecture = line.split("\t")
        yield _component(PackageURL("deb", "debian", name, version, {"arch": architecture}))


def _component(package: PackageURL) -> Component:
    return Component(
        name=package.name, version=package.version, type=ComponentType.LIBRARY, purl=package, bom_ref=str(package)
    )


if __name__ == "__main__":
    run(main)
