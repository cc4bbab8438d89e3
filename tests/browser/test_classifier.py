"""The main job, as a learner does it: open the first notebook, run it all, come back to it later."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import ARTIFACTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Visit
    from tests.conftest import LabProcess

NAME = "first_pytorch_classifier.ipynb"
TRAINED = 240_000  # milliseconds for the whole notebook in fast mode, on a machine that does other things too
PREDICTIONS = 3  # the figure to show in a screenshot
PLOTS = 7  # samples, augmented, curve, predictions, per class, confusion, the saved model's answer


def outputs(visit: Visit) -> Locator:
    """What the notebook's cells have shown."""
    return visit.page.locator(".jp-NotebookPanel .jp-OutputArea-output")


def figures(visit: Visit) -> Locator:
    """The plots on the page."""
    return visit.page.locator(".jp-NotebookPanel .jp-RenderedImage img")


def open_from_the_file_browser(visit: Visit) -> None:
    """Double-click the notebook and wait for its kernel."""
    visit.page.locator(".jp-DirListing-item", has_text=NAME).dblclick()
    expect(visit.page.locator("#jp-main-statusbar")).to_contain_text("Idle")


@pytest.fixture(scope="module")
def finished(new_lab: Callable[[], LabProcess], new_visit: Callable[[], Visit]) -> tuple[LabProcess, Visit]:
    """The notebook after Run All Cells, in a lab of its own."""
    lab, visit = new_lab(), new_visit()
    visit.open(lab.start(FAST="1"))
    visit.page.screenshot(path=ARTIFACTS / "launcher.png")
    open_from_the_file_browser(visit)
    visit.page.get_by_role("menuitem", name="Run", exact=True).click()
    visit.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(visit.page.locator(".jp-CodeCell .jp-InputPrompt").last).to_have_text(
        re.compile(r"\[\d+\]"), timeout=TRAINED
    )
    return lab, visit


def test_the_accuracy_is_on_the_page(finished: tuple[LabProcess, Visit]) -> None:
    """After Run All the learner reads how good the network is, beside what guessing would give."""
    _, visit = finished
    found = outputs(visit).filter(has_text=re.compile(r"accuracy on .* test images: [\d.]+ %"))
    expect(found).to_have_count(1)
    expect(found).to_contain_text("10 %")


def test_the_plots_are_on_the_page(finished: tuple[LabProcess, Visit]) -> None:
    """Samples, curve, predictions and judgements are pictures on the page."""
    _, visit = finished
    count = figures(visit).count()
    figures(visit).nth(PREDICTIONS).scroll_into_view_if_needed()
    visit.page.screenshot(path=ARTIFACTS / "finished_notebook.png")
    assert count >= PLOTS, f"got {count} figures, expected {PLOTS}"


def test_no_cell_failed(finished: tuple[LabProcess, Visit]) -> None:
    """No cell shows an error."""
    _, visit = finished
    got = visit.page.locator('.jp-NotebookPanel [data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    assert got == [], f"got {got}"


def test_the_outputs_are_there_after_coming_back(finished: tuple[LabProcess, Visit], visit: Visit) -> None:
    """The notebook saves itself: opened again, accuracy and plots are as they were."""
    lab, before = finished
    expected = figures(before).count()
    expect(before.page.locator(".jp-mod-dirty")).to_have_count(0)  # on a tab while there is something to save
    before.page.close()
    visit.open(lab.run("url").stdout.strip())
    if not visit.page.locator(".jp-NotebookPanel").count():
        open_from_the_file_browser(visit)
    expect(outputs(visit).filter(has_text=re.compile(r"accuracy on .* test images"))).to_have_count(1)
    expect(figures(visit)).to_have_count(expected)
