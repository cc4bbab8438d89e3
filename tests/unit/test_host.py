"""Who the lab belongs to, and what the engine's own limits allow."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from scripts import host
from scripts.host import Identity

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def identity_as(user: int, group: int) -> list[str]:
    """The ids that a process with these ids would give the lab; a fork, as the interpreter may be closed to others."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(group)
        os.setuid(user)
        got = host.lab_identity()
        os.write(writer, f"{got.uid} {got.gid}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return answer.read().split()


@needs_root
def test_roots_lab_belongs_to_the_first_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server never runs as root: without sudo root's lab has uid and gid 1000."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    got = host.lab_identity()
    assert got == Identity(1000, 1000, Path.home()), f"got {got}"


@needs_root
def test_behind_sudo_the_lab_belongs_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo make run-cpu` makes files of the user who typed it, in that user's home."""
    caller = pwd.getpwnam("nobody")
    monkeypatch.setenv("SUDO_UID", str(caller.pw_uid))
    got = host.lab_identity()
    assert got == Identity(caller.pw_uid, caller.pw_gid, Path(caller.pw_dir)), f"got {got}"


@needs_root
def test_a_borrowed_group_does_not_change_the_owner() -> None:
    """Under `newgrp docker` or `sg docker` the lab still has the account's own group."""
    account = pwd.getpwnam("nobody")
    got = identity_as(account.pw_uid, 12345)
    assert got == [str(account.pw_uid), str(account.pw_gid)], f"got {got}"


@needs_root
def test_a_uid_without_an_account_has_a_lab_too() -> None:
    """Containers and some directories have users that no file names."""
    got = identity_as(54321, 54321)
    assert got == ["54321", "54321"], f"got {got}"


@pytest.mark.parametrize(
    ("capabilities", "limit", "expected"),
    [("1ffffffffff", "20000", 65536), ("1fffeffffff", "20000", 20000), ("1fffeffffff", "1048576", 65536),
     ("1fffeffffff", "unlimited", 65536)],
)  # fmt: skip
def test_the_open_files_limit_is_what_the_engine_can_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, limit: str, expected: int
) -> None:
    """With CAP_SYS_RESOURCE the engine can raise it; without, its own hard limit is the most."""
    process = tmp_path / "77"
    process.mkdir()
    (process / "status").write_text(f"Name:\tdockerd\nCapEff:\t{capabilities}\n")
    (process / "limits").write_text(f"Limit  Soft Hard Units\nMax open files            1024   {limit}   files\n")
    (tmp_path / "docker.pid").write_text("77")
    monkeypatch.setattr(host, "PROC", tmp_path)
    got = host.open_files_limit(65536, engine_pid=tmp_path / "docker.pid")
    assert got == expected, f"got {got}, expected {expected}"


def test_a_remote_engine_gets_what_is_wanted(tmp_path: Path) -> None:
    """Without the engine's process here nothing is held back."""
    got = host.open_files_limit(65536, engine_pid=tmp_path / "none")
    assert got == 65536, f"got {got}"
