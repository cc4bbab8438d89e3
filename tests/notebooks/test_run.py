"""Both notebooks, run from top to bottom in fast mode, with CIFAR-10 and without anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from scripts.spec import CIFAR10_INSIDE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.notebooks.conftest import Executed, Sandbox

CLASSIFIER = "first_pytorch_classifier.ipynb"
FIGURES = 8  # samples, augmented, curve, predictions, two times per class, confusion, one image


@pytest.fixture(scope="module")
def real(sandbox: Sandbox, cifar10: Path) -> Executed:
    """The classifier, on real CIFAR-10."""
    assert cifar10
    return sandbox.execute(CLASSIFIER, CIFAR10_DIR=CIFAR10_INSIDE)


@pytest.fixture(scope="module")
def offline(sandbox: Sandbox) -> Executed:
    """The classifier, without data and without a network."""
    return sandbox.execute(CLASSIFIER)


def accuracy(executed: Executed) -> tuple[float, str]:
    """The accuracy in percent, and what it is of."""
    found = re.search(r"accuracy on [\d,]+ (.*) test images: ([\d.]+) %", executed.text)
    assert found, f"no accuracy in\n{executed.text}"
    return float(found[2]), found[1]


def test_it_learns_from_real_images(real: Executed) -> None:
    """Even a tenth of CIFAR-10 teaches the network far more than chance."""
    got, name = accuracy(real)
    assert (name, got > 30) == ("CIFAR-10", True), f"got {got} % on {name}, expected more than 30 % on CIFAR-10"


def test_it_shows_what_it_does(real: Executed) -> None:
    """Samples, the curve, the predictions, both judgements and the use of the saved model are pictures on the page."""
    assert real.pictures >= FIGURES - 1, f"got {real.pictures} figures"


def test_it_tells_how_far_it_is(real: Executed) -> None:
    """Each epoch has a progress bar that reaches its end."""
    finished = re.findall(r"epoch (\d) of \d: 100%", real.text)
    assert sorted(set(finished)) == ["1", "2", "3"], f"got finished bars for the epochs {finished}"


def test_it_saves_the_model(real: Executed) -> None:
    """The trained model is a file in the workspace, and no draft of it is left."""
    got = sorted(path.name for path in real.folder.iterdir() if "first_classifier" in path.name)
    assert got == ["first_classifier.pt"], f"got {got}"


def test_it_tells_how_to_get_a_gpu(real: Executed) -> None:
    """Without a GPU the last section runs all the same and says where one is to be had."""
    assert "make run-gpu" in real.text, f"got\n{real.text[-600:]}"


def test_without_data_a_banner_says_so(offline: Executed) -> None:
    """Offline, one banner says what is used instead of CIFAR-10."""
    banners = [each["data"]["text/html"] for each in offline.outputs if "text/html" in each.get("data", {})]
    got = "".join("".join(each) for each in banners)
    assert (len(banners), "handwritten digits instead" in got) == (1, True), f"got {len(banners)} banners: {got}"


def test_without_data_the_accuracy_is_labelled(offline: Executed) -> None:
    """Offline, the accuracy is high, and said to be that of the digits."""
    got, name = accuracy(offline)
    assert (name, got > 60) == ("digits (not CIFAR-10)", True), f"got {got} % on {name}"


def test_without_data_every_figure_is_there(offline: Executed) -> None:
    """Offline, every cell shows what it shows online."""
    assert offline.pictures >= FIGURES - 1, f"got {offline.pictures} figures"


def test_why_pytorch_shows_its_four_reasons(sandbox: Sandbox) -> None:
    """Shared memory, a derivative, a graph that changes and a device are shown, not only told."""
    text = sandbox.execute("why_pytorch.ipynb").text
    expected = ["same memory: True", "tensor(14.)", "slope 3.", "device: cpu"]
    missing = [each for each in expected if each not in text]
    assert missing == [], f"{missing} is not in\n{text}"
    rounds = re.findall(r"(\d+) rounds", text)
    assert len(set(rounds)) == 3, f"got {rounds} rounds, expected three different graphs"
