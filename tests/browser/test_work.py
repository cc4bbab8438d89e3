"""Working in the lab with mouse and keyboard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from scripts.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess

SAMPLES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def write_notebook(path: Path, source: str) -> None:
    """A notebook of one cell that names its kernel, as the samples do."""
    cell: dict[str, object] = {
        "cell_type": "code",
        "id": "one",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    path.chmod(0o666)  # the lab's user is not always the one who runs the tests


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_opens_without_a_question(lab: LabProcess, visit: Visit, sample: Path) -> None:
    """A sample notebook opens with its kernel; nobody is asked to select one."""
    # A layout of its own: the default one brings back what the test before had open.
    visit.open(f"{lab.url}/lab/workspaces/{sample.stem}/tree/{sample.name}?token={lab.token}")
    expect(visit.page.locator(".jp-NotebookPanel .jp-Toolbar-kernelName")).to_have_text("Python 3 (ipykernel)")
    got = visit.page.locator(".jp-Dialog").all_inner_texts()
    assert got == [], f"got the dialogs {got}, expected none"


def test_a_cell_runs(lab: LabProcess, visit: Visit) -> None:
    """Shift-Enter runs a cell on the image's torch and shows its output."""
    write_notebook(lab.workspace / "one cell.ipynb", "import torch; torch.arange(9).sum().item() + 6")
    visit.open(f"{lab.url}/lab/tree/one%20cell.ipynb?token={lab.token}")
    expect(visit.page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle")
    visit.page.locator(".jp-CodeCell .cm-content").click()
    visit.page.keyboard.press("Shift+Enter")
    expect(visit.page.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")).to_have_text("42")


def test_tensorboard_opens_from_the_launcher(lab: LabProcess, visit: Visit) -> None:
    """One click in the launcher shows TensorBoard, at the lab's own address."""
    # A layout of its own: in the default one, other tests' notebooks may cover the launcher.
    visit.open(f"{lab.url}/lab/workspaces/tensorboard?token={lab.token}")
    with visit.page.context.expect_page() as opened:
        visit.page.locator(".jp-LauncherCard", has_text="TensorBoard").click()
    expect(opened.value).to_have_title("TensorBoard")
    got = opened.value.url
    assert got.startswith(f"{lab.url}/tensorboard/"), f"got {got}, expected a page of {lab.url}"
