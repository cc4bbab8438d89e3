"""What runs on the VM: the checkout, the settings, the PCI bus, and the first boot's text."""

from __future__ import annotations

import io
import json
import os
import pwd
import tarfile
from pathlib import Path

import pytest

from provision import bootstrap, cloud_init, payload
from scripts.settings import ROOT

ME = pwd.getpwuid(os.getuid())


def packed(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar.gz with one file, folder or link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.type, entry.linkname = len(content), kind, "/etc/passwd"
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        packed("../out"),
        packed("/etc/out"),
        packed("a/../../out"),
        packed("link", b"", tarfile.SYMTYPE),
        packed("good")[:-9],
        b"no",
    ],
    ids=["parent", "absolute", "inside-out", "link", "cut-off", "no-archive"],
)
def test_an_archive_that_is_no_checkout_is_refused_and_the_old_one_stays(tmp_path: Path, archive: bytes) -> None:
    """Nothing outside the checkout is written, and the checkout in use stays."""
    before = bootstrap.ensure_checkout(packed("first"), ME, tmp_path)
    with pytest.raises(bootstrap.BootError):
        bootstrap.ensure_checkout(archive, ME, tmp_path)
    got = (tmp_path / "checkout").resolve()
    assert got == before, f"got {got}, expected {before}"


def test_an_interrupted_unpacking_is_swept_up_by_the_next(tmp_path: Path) -> None:
    """What a cut connection left half unpacked is gone after the next checkout."""
    (tmp_path / ".unpacking-half").mkdir()
    bootstrap.ensure_checkout(packed("file"), ME, tmp_path)
    left = list(tmp_path.glob(".unpacking-*"))
    assert left == [], f"left {left}"


def test_the_previous_checkout_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    """A third checkout leaves itself and the second one; the link names the newest."""
    made = [bootstrap.ensure_checkout(packed("file", bytes([each])), ME, tmp_path) for each in range(3)]
    got = sorted(tmp_path.glob("checkout-*"))
    assert got == sorted(made[1:]), f"got {got}, expected {made[1:]}"
    assert (tmp_path / "checkout").resolve() == made[2], "the link does not name the newest"


def test_all_checkouts_share_one_environment_of_tools(tmp_path: Path) -> None:
    """A new checkout costs no second installation: its .venv is the shared one."""
    for each in range(2):
        target = bootstrap.ensure_checkout(packed("file", bytes([each])), ME, tmp_path)
        assert (target / ".venv").resolve() == tmp_path / "venv", f"got {(target / '.venv').resolve()}"


def test_the_custom_data_is_small_and_holds_no_setting_of_its_own_making() -> None:
    """The first boot's text as a whole: two files, one command, within 48 KB."""
    text = cloud_init.render(bootstrap=Path(bootstrap.__file__).read_text(), settings={"PORT": "8888"}, user="me")
    assert len(text.encode()) <= 48 << 10, f"got {len(text.encode())} bytes"
    head, _, body = text.partition("\n")
    config = json.loads(body)
    assert head == "#cloud-config"
    assert config["runcmd"] == [["python3", "/opt/pytorch-jupyter/bootstrap.py", "install"]]
    files = {each["path"]: each for each in config["write_files"]}
    assert sorted(files) == ["/etc/pytorch-jupyter.env", "/opt/pytorch-jupyter/bootstrap.py"]
    assert files["/etc/pytorch-jupyter.env"]["content"] == "LAB_USER=me\nPORT=8888\n"


def test_a_setting_with_a_line_break_cannot_become_a_second_setting() -> None:
    """A value that would add a line to the settings is refused."""
    with pytest.raises(ValueError, match="PORT must be one line"):
        cloud_init.render(bootstrap="", settings={"PORT": "1\nLAB_USER=root"}, user="me")


def test_settings_are_merged_and_what_is_not_named_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vm-sync with one setting keeps the others."""
    monkeypatch.setattr(bootstrap, "SETTINGS", tmp_path / "env")
    bootstrap.ensure_settings({"PORT": "8888", "LAB_USER": "me"})
    bootstrap.ensure_settings(bootstrap.given_settings(["PORT=9000", "GPUS=0,1"]))
    got = bootstrap.read_settings()
    assert got == {"PORT": "9000", "LAB_USER": "me", "GPUS": "0,1"}, f"got {got}"


@pytest.mark.parametrize("word", ["PORT", "port=1", "=1", "A B=1", "PORT=1\nX=2"])
def test_a_word_that_is_no_setting_is_refused(word: str) -> None:
    """Nonsense on the bootstrap's command line is named."""
    with pytest.raises(bootstrap.BootError, match="is not KEY=VALUE"):
        bootstrap.given_settings([word])


def test_what_must_last_is_in_the_home_and_never_on_the_temporary_disk() -> None:
    """Workspace and state lie in the account's home; a folder of wheels means that no index is asked."""
    got = bootstrap.lab_environment({"PORT": "9000", "WHEELS": "/data/wheels"}, "/home/me")
    assert got == {
        "HOME": "/home/me", "WORKSPACE": "/home/me/workspace", "STATE_DIR": "/home/me/.local/share/pytorch-jupyter",
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/data/wheels", "PORT": "9000", "WHEELS": "/data/wheels",
    }, f"got {got}"  # fmt: skip


@pytest.mark.parametrize(
    ("vendor", "device_class", "expected"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x1002", "0x030000", False)],
    ids=["nvidia-gpu", "nvidia-sound", "amd-gpu"],
)
def test_the_pci_bus_tells_an_nvidia_gpu(tmp_path: Path, vendor: str, device_class: str, *, expected: bool) -> None:
    """Only a display controller of NVIDIA's counts."""
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:00:01.0/vendor").write_text(vendor + "\n")
    (tmp_path / "0000:00:01.0/class").write_text(device_class + "\n")
    assert bootstrap.has_nvidia(tmp_path) is expected


def test_a_gpu_without_driver_on_debian_is_a_loud_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardware without a driver never becomes a silent CPU lab."""
    (tmp_path / "os-release").write_text("ID=debian\n")
    monkeypatch.setattr(bootstrap, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(bootstrap, "HOME", tmp_path)
    with pytest.raises(bootstrap.BootError, match="an NVIDIA GPU is here without its driver"):
        bootstrap.ensure_driver()


def test_an_image_tar_without_a_name_is_told(tmp_path: Path) -> None:
    """A file that is no image is named, with how to make one."""
    (tmp_path / "it.tar").write_bytes(packed("file"))
    with pytest.raises(bootstrap.BootError, match="is no image with a name"):
        bootstrap.ensure_image(str(tmp_path / "it.tar"))


def test_the_payload_is_this_checkout_without_its_tests_and_always_the_same() -> None:
    """The same files give the same bytes; what the lab needs is among them, tests are not."""
    first = payload.archive(ROOT)
    assert first == payload.archive(ROOT), "two archives of the same files differ"
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        names = set(tar.getnames())
    wanted = {"Makefile", "uv.lock", "docker/cpu.Dockerfile", "provision/bootstrap.py", "scripts/start.py"}
    assert wanted <= names, f"missing: {wanted - names}"
    assert not any(name.startswith(("tests/", ".github/", ".git/")) for name in names), "tests are sent"


def test_a_program_that_is_missing_is_one_line() -> None:
    """A command of the machine that is not there is named, with a hint; never a traceback."""
    with pytest.raises(bootstrap.BootError, match="no-such-program cannot be run") as caught:
        bootstrap.run("no-such-program")
    assert caught.value.hint, "there is no hint"


def test_an_engine_without_its_client_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 13's engine comes without the docker command; the lab's commands need both."""
    for name in ("dockerd", "make"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    got = bootstrap.missing_packages()
    assert got[:2] == ["docker-cli", "docker-buildx"], f"got {got}"
