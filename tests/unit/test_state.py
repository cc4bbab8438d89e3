"""The state directory and the workspace on a real file system."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from scripts import state
from scripts.console import LabError
from scripts.host import Identity
from scripts.state import State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def me(tmp_path: Path) -> Identity:
    """The user who runs the tests."""
    return Identity(os.getuid(), os.getgid(), tmp_path)


@pytest.fixture
def place(tmp_path: Path, me: Identity) -> State:
    """A state directory as the first start makes it."""
    place = State(tmp_path / "data" / "pytorch-jupyter")
    state.ensure_state(place, me)
    return place


def test_two_commands_may_make_a_folder_at_once(tmp_path: Path, me: Identity) -> None:
    """Whoever comes second takes the folder as it is."""
    start = Barrier(2)

    def make(number: int) -> None:
        start.wait()
        state.ensure_folder(tmp_path / f"{number}/data/pytorch-jupyter", me, mode=0o700)

    with ThreadPoolExecutor(2) as commands:
        got = [list(commands.map(make, [number] * 2)) for number in range(300)]
    assert len(got) == 300, f"got {len(got)}"


def test_the_token_is_private_and_has_256_bits(place: State) -> None:
    """The token is 64 hexadecimal digits in a 0600 file inside 0700 folders."""
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (place.root, place.run, place.token_file)]
    token = state.read_token(place)
    assert modes == [0o700, 0o700, 0o600], f"got {[oct(mode) for mode in modes]}"
    assert len(bytes.fromhex(token)) == 32, f"got {len(token)} digits, expected 64"


def test_a_second_start_keeps_the_token(place: State, me: Identity) -> None:
    """ensure_state is idempotent: token and files stay as they are."""
    before = state.read_token(place), place.passwd.stat().st_mtime_ns
    state.ensure_state(place, me)
    after = state.read_token(place), place.passwd.stat().st_mtime_ns
    assert after == before, f"got {after}, expected {before}"


def test_rotation_replaces_the_token_privately(place: State, me: Identity) -> None:
    """A rotated token differs from the old one and is as private."""
    old = state.read_token(place)
    state.write_token(place, me)
    new = state.read_token(place)
    assert new != old, "the token did not change"
    assert stat.S_IMODE(place.token_file.stat().st_mode) == 0o600, oct(place.token_file.stat().st_mode)


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff" * 64, b"a b" * 30])
def test_a_damaged_token_is_named(place: State, me: Identity, content: bytes) -> None:
    """An empty, short or garbled token file is an error with the command that mends it, not a lockout."""
    place.token_file.write_bytes(content)
    with pytest.raises(LabError) as caught:
        state.ensure_state(place, me)
    assert str(place.token_file) in caught.value.message, caught.value.message
    assert "make token-rotate" in caught.value.hint, caught.value.hint


def test_a_token_that_others_can_read_is_refused(place: State) -> None:
    """Mode 0644 may have leaked the token already, so only a new one helps."""
    place.token_file.chmod(0o644)
    with pytest.raises(LabError) as caught:
        state.read_token(place)
    assert "0644" in caught.value.message, caught.value.message
    assert "token-rotate" in caught.value.hint, caught.value.hint


def test_samples_are_seeded_once_ever(tmp_path: Path, me: Identity) -> None:
    """A sample that the user changed or deleted stays changed or deleted; only a new sample is added."""
    source, workspace = tmp_path / "notebooks", tmp_path / "work"
    source.mkdir()
    workspace.mkdir()
    (source / "a.ipynb").write_text("A")
    (source / "b.py").write_text("B")
    (source / "notes.txt").write_text("not a sample")
    first = state.seed(source, workspace, me)
    (workspace / "a.ipynb").write_text("mine")
    (workspace / "b.py").unlink()
    (source / "c.ipynb").write_text("C")
    second = state.seed(source, workspace, me)
    names = sorted(path.name for path in workspace.iterdir() if not path.name.startswith("."))
    assert (first, second) == (["a.ipynb", "b.py"], ["c.ipynb"]), f"got {first}, {second}"
    assert names == ["a.ipynb", "c.ipynb"], f"got {names}"
    assert (workspace / "a.ipynb").read_text() == "mine", "the user's notebook was overwritten"


def test_a_users_file_of_a_samples_name_is_not_overwritten(tmp_path: Path, me: Identity) -> None:
    """A workspace that already has a file of that name keeps it."""
    source, workspace = tmp_path / "notebooks", tmp_path / "work"
    source.mkdir()
    workspace.mkdir()
    (source / "a.ipynb").write_text("ours")
    (workspace / "a.ipynb").write_text("theirs")
    state.seed(source, workspace, me)
    got = (workspace / "a.ipynb").read_text()
    assert got == "theirs", f"got {got!r}"


def test_a_workspace_with_spaces_and_letters_of_any_alphabet_is_made(tmp_path: Path, me: Identity) -> None:
    """The path is taken as it is, and every missing parent is made."""
    workspace = tmp_path / "Мои данные" / "naïve: work"
    state.ensure_workspace(workspace, me)
    assert workspace.is_dir(), f"{workspace} was not made"


def test_a_file_is_not_a_workspace(tmp_path: Path, me: Identity) -> None:
    """WORKSPACE that names a file is refused and the file is left alone."""
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(LabError, match="is not a folder"):
        state.ensure_workspace(path, me)
    assert path.read_text() == "mine", "the file was touched"


def test_a_parent_that_is_a_file_is_named(tmp_path: Path, me: Identity) -> None:
    """A path below a file fails in one line that names the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="WORKSPACE="):
        state.ensure_workspace(tmp_path / "file" / "work", me)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that belongs to someone else")
def test_a_workspace_of_someone_else_is_refused(tmp_path: Path) -> None:
    """A folder that the lab's user cannot write is named with its owner and the command that mends it."""
    workspace = tmp_path / "theirs"
    workspace.mkdir(mode=0o755)
    os.chown(workspace, 4321, 4321)
    with pytest.raises(LabError) as caught:
        state.ensure_workspace(workspace, Identity(1000, 1000, tmp_path))
    assert "belongs to uid 4321" in caught.value.message, caught.value.message
    assert f"sudo chown -R 1000:1000 '{workspace}'" in caught.value.hint, caught.value.hint


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system to fill")
def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path: Path, me: Identity) -> None:
    """A workspace without room ends in one line with the free space; no draft file is left behind."""
    source, workspace = tmp_path / "notebooks", tmp_path / "full"
    source.mkdir()
    workspace.mkdir()
    (source / "big.ipynb").write_text("x" * 200_000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(workspace)], check=True)
    try:
        with pytest.raises(LabError) as caught:
            state.seed(source, workspace, me)
        left = list(workspace.iterdir())
    finally:
        subprocess.run(["umount", str(workspace)], check=True)
    assert "is full" in caught.value.message, caught.value.message
    assert left == [], f"left behind: {left}"


def test_the_lock_admits_one_at_a_time(place: State) -> None:
    """A second command waits, saying so, until the first is done."""
    code = (
        "import sys; from pathlib import Path; from scripts import state\n"
        "with state.lock(state.State(Path(sys.argv[1]))): print('in')"
    )
    command = [sys.executable, "-c", code, str(place.root)]
    with state.lock(place):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert other.stderr is not None
        said = other.stderr.readline()
        running = other.poll() is None
    out, _ = other.communicate(timeout=20)
    assert "waiting" in said, f"got {said!r}"
    assert running, "the second command did not wait"
    assert out == "in\n", f"got {out!r}"
