"""Settings: what a user may type, and what is said about the rest."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.console import LabError
from scripts.settings import ROOT, Settings

DEFAULTS = Settings.load({})


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    """Without any variable the lab listens on 8888, keeps work in ./workspace and limits nothing."""
    got = (DEFAULTS.port, DEFAULTS.workspace, DEFAULTS.memory, DEFAULTS.cpus, DEFAULTS.shm_size, DEFAULTS.torch_source)
    expected = (8888, ROOT / "workspace", None, None, 2 << 30, "auto")
    assert got == expected, f"got {got}, expected {expected}"


def test_an_empty_value_counts_as_not_set() -> None:
    """`make run-cpu PORT=` is the same as leaving PORT out."""
    got = Settings.load({"PORT": "", "MEMORY": ""})
    assert got == DEFAULTS, f"got {got}, expected {DEFAULTS}"


@pytest.mark.parametrize(
    ("variable", "text", "field", "expected"),
    [
        ("PORT", "9000", "port", 9000),
        ("BIND", "127.0.0.1", "bind", "127.0.0.1"),
        ("BIND", "localhost", "bind", "127.0.0.1"),
        ("BIND", "::1", "bind", "::1"),
        ("MEMORY", "8g", "memory", 8 << 30),
        ("MEMORY", "1536M", "memory", 1536 << 20),
        ("MEMORY", "2GiB", "memory", 2 << 30),
        ("MEMORY", "1.5g", "memory", 3 << 29),
        ("CPUS", "1.5", "cpus", 1.5),
        ("SHM_SIZE", "512m", "shm_size", 512 << 20),
        ("IDLE_TIMEOUT", "8h", "idle_timeout", 28800),
        ("IDLE_TIMEOUT", "30m", "idle_timeout", 1800),
        ("IDLE_TIMEOUT", "0", "idle_timeout", 0),
        ("WORKSPACE", "/data/Größe und Maß", "workspace", Path("/data/Größe und Maß")),
        ("IMAGE", "registry.example.com:5000/lab/cpu:1.0", "image", "registry.example.com:5000/lab/cpu:1.0"),
        ("TORCH_INDEX_URL", "https://mirror/whl/cpu/", "torch_index_url", "https://mirror/whl/cpu"),
        ("NO_INSTALL", "1", "no_install", True),
        ("NO_INSTALL", "no", "no_install", False),
    ],
)
def test_a_valid_value_is_understood(variable: str, text: str, field: str, expected: object) -> None:
    """Each setting takes what its help says."""
    got = getattr(Settings.load({variable: text}), field)
    assert got == expected, f"{variable}={text}: got {got!r}, expected {expected!r}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", "-1"),
        ("PORT", "8888.0"),
        ("PORT", "٨٨٨٨"),
        ("BIND", "everywhere"),
        ("BIND", "256.0.0.1"),
        ("URL_HOST", "a b"),
        ("MEMORY", "lots"),
        ("MEMORY", "1k"),
        ("MEMORY", "-8g"),
        ("CPUS", "0"),
        ("CPUS", "many"),
        ("SHM_SIZE", "0"),
        ("IDLE_TIMEOUT", "soon"),
        ("CONTAINER", "my lab"),
        ("IMAGE", "UPPER/case image"),
        ("TORCH_SOURCE", "conda"),
        ("TORCH_INDEX_URL", "ftp://x"),
        ("CA_BUNDLE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("NO_INSTALL", "perhaps"),
        ("WORKSPACE", "a\nb"),
    ],
)
def test_nonsense_is_refused_with_its_name_and_value(variable: str, text: str) -> None:
    """One line names the variable and the value, and the hint says what it takes."""
    with pytest.raises(LabError) as caught:
        Settings.load({variable: text})
    message, hint = caught.value.message, caught.value.hint
    assert f"{variable}={text!r}" in message, f"got message {message!r}"
    assert hint.startswith(f"{variable} takes "), f"got hint {hint!r}"


@given(st.sampled_from(fields(Settings)), st.text(max_size=40))
def test_any_text_is_taken_or_refused_in_our_words(one: object, text: str) -> None:
    """Whatever stands in a variable, loading returns settings or raises LabError, nothing else."""
    with contextlib.suppress(LabError):
        Settings.load({one.name.upper(): text})  # type: ignore[attr-defined]


def test_the_ca_is_found_where_other_tools_look() -> None:
    """SSL_CERT_FILE counts when CA_BUNDLE is not set, and CA_BUNDLE comes first."""
    here = str(Path(__file__).resolve())
    license_file = str(ROOT / "LICENSE")
    only_other = Settings.load({"SSL_CERT_FILE": here}).ca_bundle
    both = Settings.load({"SSL_CERT_FILE": here, "CA_BUNDLE": license_file}).ca_bundle
    assert (only_other, both) == (Path(here), Path(license_file)), f"got {only_other}, {both}"
