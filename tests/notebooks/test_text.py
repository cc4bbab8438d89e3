"""What the notebooks are to a reader, before a cell has run."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.notebooks.conftest import NOTEBOOKS

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = sorted(NOTEBOOKS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)


def cells(path: Path) -> list[tuple[str, str]]:
    """The kind and the text of each cell."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


@every_notebook
def test_it_opens_with_what_to_expect(path: Path) -> None:
    """The first cell says what one will do, learn and need."""
    first = cells(path)[0][1]
    missing = [each for each in ("What you'll do", "What you'll learn", "What you'll need") if each not in first]
    assert missing == [], f"the first cell lacks {missing}"


@every_notebook
def test_it_closes_with_exercises(path: Path) -> None:
    """The last cell gives the learner something to do alone."""
    last = cells(path)[-1][1]
    assert "## On your own" in last, f"got {last[:60]!r}"


@every_notebook
def test_prose_leads_to_each_cell(path: Path) -> None:
    """No code stands without a text before it that says what it is for."""
    kinds = [kind for kind, _ in cells(path)]
    bare = [number for number, pair in enumerate(pairwise(kinds)) if pair == ("code", "code")]
    assert bare == [], f"got code after code at the cells {bare}"


@every_notebook
def test_cells_are_small(path: Path) -> None:
    """A code cell fits on the screen together with its text: 20 lines at most."""
    long = {text.split("\n")[0]: text.count("\n") + 1 for kind, text in cells(path) if kind == "code"}
    got = {name: lines for name, lines in long.items() if lines > 20}
    assert got == {}, f"got {got}, expected at most 20 lines"


@every_notebook
def test_it_has_no_outputs(path: Path) -> None:
    """Notebooks are committed as they are before a run."""
    notebook = json.loads(path.read_text())
    got = [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert got == [], f"got outputs in the cells {got}"


def test_the_five_steps_come_in_order() -> None:
    """The lesson is told in its five classic steps, then on the GPU, then by the learner."""
    text = cells(NOTEBOOKS / "first_pytorch_classifier.ipynb")
    got = [line for kind, cell in text if kind == "markdown" for line in cell.split("\n") if line.startswith("## ")]
    expected = ["## 1. Load and look at the data", "## 2. Define a network", "## 3. Choose a loss and an optimizer",
                "## 4. Train", "## 5. Test", "## Train on the GPU", "## On your own"]  # fmt: skip
    assert got == expected, f"got {got}"
