"""The bill of materials of the built image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

if TYPE_CHECKING:
    from tests.conftest import LabProcess


@pytest.fixture(scope="module")
def bill(lab: LabProcess) -> str:
    """What make sbom prints."""
    done = lab.run("sbom")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_valid(bill: str) -> None:
    """CycloneDX 1.6, checked against its schema."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    assert problem is None, f"got {problem}"


def test_it_names_all_that_is_installed(bill: str, lab: LabProcess) -> None:
    """As many Python packages as pip lists, as many of Debian's as dpkg has, with their versions."""
    content: dict[str, Any] = json.loads(bill)
    got = {each["purl"].partition("?")[0] for each in content["components"]}
    python = {
        f"pkg:pypi/{each['name'].lower().replace('_', '-')}@{each['version']}"
        for each in json.loads(lab.shell("pip list --format=json"))
    }
    debian = lab.shell("dpkg-query --show --showformat='${Package}\\n'").split()
    assert {each.replace("+", "%2B") for each in python} - got == set(), f"missing: {python - got}"
    assert len([each for each in got if each.startswith("pkg:deb/debian/")]) == len(debian), f"dpkg has {len(debian)}"


def test_it_says_of_which_image(bill: str, lab: LabProcess) -> None:
    """By name and digest."""
    got = json.loads(bill)["metadata"]["component"]
    assert (got["name"], got["version"]) == ("pytorch-jupyter:cpu", lab.container.attrs["Image"]), f"got {got}"
