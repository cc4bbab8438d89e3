"""The Makefile, its help and the README tell the same story."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields

import pytest

from provision.settings import VmSettings
from scripts.settings import ROOT, Settings

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = sorted(set(re.findall(r"^([a-z][a-z-]+):", MAKEFILE, re.MULTILINE)))
PROMISED = [
    "bench",
    "build",
    "build-gpu",
    "clean",
    "doctor",
    "help",
    "lint",
    "logs",
    "restart",
    "run-cpu",
    "run-gpu",
    "run-local",
    "shell",
    "status",
    "stop",
    "test",
    "test-fast",
    "token-rotate",
    "url",
    "vm-create",
    "vm-delete",
    "vm-logs",
    "vm-pull",
    "vm-ssh",
    "vm-start",
    "vm-status",
    "vm-stop",
    "vm-sync",
    "vm-tunnel",
    "vm-url",
]

VARIABLES = sorted({one.name.upper() for each in (Settings, VmSettings) for one in fields(each)})


@pytest.fixture(scope="module")
def help_page() -> str:
    """What `make` alone prints."""
    return subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_promised_verbs_exist() -> None:
    """Every verb of the contract is a target."""
    missing = set(PROMISED) - set(TARGETS)
    assert not missing, f"missing targets: {missing}"


@pytest.mark.parametrize("target", TARGETS)
def test_make_alone_explains_every_target(help_page: str, target: str) -> None:
    """A target without its line in the help does not exist for the user."""
    assert re.search(rf"^  {target} +\S", help_page, re.MULTILINE), f"{target} is not in:\n{help_page}"


@pytest.mark.parametrize("variable", VARIABLES)
def test_make_alone_explains_every_setting(help_page: str, variable: str) -> None:
    """A setting without its line in the help does not exist for the user."""
    assert re.search(rf"^  {variable} +\S", help_page, re.MULTILINE), f"{variable} is not in:\n{help_page}"


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_phony_and_can_be_made(target: str) -> None:
    """A file that happens to have a target's name does not stop it, and make knows how to make it."""
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE.replace("\\\n", ""), re.MULTILINE)
    assert phony, "no .PHONY line"
    assert target in phony[1].split(), f"{target} is not phony"
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_readme_lists_every_setting(variable: str) -> None:
    """The README's table of settings is complete."""
    assert f"`{variable}`" in (ROOT / "README.md").read_text(), f"{variable} is not in README.md"
