"""The notebooks, executed as a learner executes them: in the image, by its own Jupyter and kernel."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.settings import ROOT
from scripts.spec import CIFAR10_INSIDE
from tests.conftest import LabProcess, engine_client, skip_unless_ci

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

NOTEBOOKS = ROOT / "notebooks"


@dataclass
class Executed:
    """A notebook with its outputs, and the folder that it ran in."""

    notebook: dict[str, Any]
    folder: Path

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """All outputs, in order."""
        return [output for cell in self.notebook["cells"] for output in cell.get("outputs", [])]

    @property
    def text(self) -> str:
        """All that it printed or showed as text."""
        return "".join("".join(each.get("text", each.get("data", {}).get("text/plain", ""))) for each in self.outputs)

    @property
    def pictures(self) -> int:
        """How many figures it shows."""
        return sum("image/png" in each.get("data", {}) for each in self.outputs)


@dataclass
class Sandbox:
    """A container of the lab's image without a network, and its workspace."""

    container: Container
    workspace: Path

    def execute(self, name: str, **environment: str) -> Executed:
        """Run every cell of a notebook; fail with the cell's error if one fails."""
        command = ["jupyter", "nbconvert", "--to=notebook", "--execute", f"--output=done-{name}", name]
        done: Any = self.container.exec_run(command, environment={**environment, "FAST": "1"})
        assert done.exit_code == 0, done.output.decode()[-4000:]
        return Executed(json.loads((self.workspace / f"done-{name}").read_text()), self.workspace)

    def python(self, code: str, **environment: str) -> tuple[int, str]:
        """Run Python in the container, the notebooks' modules at hand; return exit code and output, errors first."""
        environment = {"PYTHONPATH": "/workspace", **environment}
        done: Any = self.container.exec_run(["python", "-c", code], environment=environment, demux=True)
        out, err = ((part or b"").decode() for part in done.output)
        return int(done.exit_code or 0), err + out


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The folder with CIFAR-10."""
    folder = os.environ.get("CIFAR10_DIR")
    if not folder:
        skip_unless_ci("CIFAR10_DIR does not say where CIFAR-10 is")
    return Path(str(folder))


@pytest.fixture(scope="session")
def sandbox(lab: LabProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The lab's image, hardened as the lab is, cut off from every network; /tmp/small is a disk of 1 MB."""
    workspace, home = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("home")
    for path in NOTEBOOKS.iterdir():
        if path.suffix in {".ipynb", ".py"}:
            shutil.copy(path, workspace)
    volumes = {str(workspace): {"bind": "/workspace", "mode": "rw"}, str(home): {"bind": "/home/lab", "mode": "rw"}}
    for folder in (workspace, home):
        folder.chmod(0o777)
    if data := os.environ.get("CIFAR10_DIR"):
        volumes[data] = {"bind": CIFAR10_INSIDE, "mode": "ro"}
    image = lab.container.image
    assert image
    container = engine_client().containers.run(
        image, ["sleep", "infinity"], detach=True, init=True, user="1000:1000", network_mode="none",
        read_only=True, cap_drop=["ALL"], volumes=volumes,
        tmpfs={"/tmp": "mode=1777", "/tmp/small": "size=1m,mode=1777"},
    )  # fmt: skip
    yield Sandbox(container, workspace)
    container.remove(force=True)
