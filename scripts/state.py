"""What must last on the host: the state directory (token, home) and the workspace. Standard library only.

STATE_DIR/run/token    0600, the server's token; the folder is mounted read-only
STATE_DIR/run/tls/     the certificate and its key, if there is one (scripts/tls.py)
STATE_DIR/home/        the server user's home: settings, history, %pip install'ed packages
STATE_DIR/passwd       so that the numeric user has a name inside the container
STATE_DIR/lock         held while a command changes the lab
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.console import LabError, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.host import Identity
    from scripts.settings import Settings

TOKEN_BYTES = 32  # 256 bits, as 64 hexadecimal digits
HOME_IN_CONTAINER = "/home/lab"


@dataclass(frozen=True)
class State:
    """The state directory's paths."""

    root: Path

    @property
    def run(self) -> Path:
        """The folder that the server sees read-only."""
        return self.root / "run"

    @property
    def token_file(self) -> Path:
        """The token's file."""
        return self.run / "token"

    @property
    def tls(self) -> Path:
        """The folder of the certificate and its key."""
        return self.run / "tls"

    @property
    def home(self) -> Path:
        """The server user's home directory."""
        return self.root / "home"

    @property
    def passwd(self) -> Path:
        """The container's /etc/passwd."""
        return self.root / "passwd"


def locate(settings: Settings, identity: Identity) -> State:
    """Find the state directory: STATE_DIR, else XDG_DATA_HOME, else the user's ~/.local/share."""
    data_home = Path(os.environ.get("XDG_DATA_HOME") or identity.home / ".local/share")
    return State(settings.state_dir or data_home / "pytorch-jupyter")


def ensure_folders(state: State, identity: Identity) -> None:
    """Make what is missing of the state directory's folders."""
    with _writing("STATE_DIR", state.root):
        for path in (state.root, state.run, state.home):
            ensure_folder(path, identity, mode=0o700)


def ensure_state(state: State, identity: Identity) -> None:
    """Make what is missing of the state directory and check what is there.

    Raises:
        LabError: it cannot be written, or the token file is damaged or readable by others.

    """
    ensure_folders(state, identity)
    with _writing("STATE_DIR", state.root):
        passwd = _passwd(identity)
        if not state.passwd.exists() or state.passwd.read_text() != passwd:
            write_new(state.passwd, passwd, identity, mode=0o644)
        if not state.token_file.exists():
            write_token(state, identity)
    read_token(state)


def write_token(state: State, identity: Identity) -> None:
    """Make a new token; the old one, if any, is replaced in one step."""
    with _writing("STATE_DIR", state.root):
        write_new(state.token_file, secrets.token_hex(TOKEN_BYTES) + "\n", identity, mode=0o600)


def read_token(state: State) -> str:
    """Return the token.

    Raises:
        LabError: there is none, it is empty or too short to be ours, or others may read it.

    """
    path = state.token_file
    rotate = "make token-rotate makes a new one"
    try:
        token = path.read_text().strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise LabError(f"there is no token at {path}", hint="make run-cpu makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"the token file {path} cannot be read: {error}", hint=rotate) from error
    if len(token) < TOKEN_BYTES or not token.isalnum():
        raise LabError(f"the token file {path} is damaged: {len(token)} usable characters, not 64", hint=rotate)
    if mode & 0o077:
        raise LabError(f"the token file {path} can be read by others (mode {mode:04o}, not 0600)", hint=rotate)
    return token


def ensure_workspace(workspace: Path, identity: Identity) -> None:
    """Make the workspace if it is missing and prove that the server's user can write there.

    Raises:
        LabError: not a folder, owned by someone else, read-only or full.

    """
    with _writing("WORKSPACE", workspace):
        if workspace.exists() and not workspace.is_dir():
            raise LabError(f"WORKSPACE={workspace} is not a folder", hint="give a folder: make run-cpu WORKSPACE=~/lab")
        ensure_folder(workspace, identity, mode=0o755)
        # The probe runs as the server's user, from inside the folder: its parents may be closed to that user.
        account = {"user": identity.uid, "group": identity.gid, "extra_groups": []} if os.getuid() == 0 else {}
        if subprocess.run(["test", "-w", "."], cwd=workspace, check=False, **account).returncode:  # type: ignore[call-overload]
            owner = workspace.stat().st_uid
            raise LabError(
                f"WORKSPACE={workspace} belongs to uid {owner}; uid {identity.uid}, the lab's user, cannot write there",
                hint=f"sudo chown -R {identity.uid}:{identity.gid} '{workspace}', or make run-cpu WORKSPACE=~/lab",
            )


def seed(source: Path, workspace: Path, identity: Identity) -> list[str]:
    """Copy each sample notebook into the workspace once, ever: what the user changed or deleted stays so.

    Returns the names copied. The names already given out stand in a hidden file of the workspace.
    """
    record = workspace / ".pytorch-jupyter-samples"
    with _writing("WORKSPACE", workspace):
        given = set(record.read_text().split("\n")) if record.exists() else set()
        samples = [path for path in sorted(source.iterdir()) if path.suffix in {".ipynb", ".py"}]
        new = [path for path in samples if path.name not in given]
        for path in new:
            if not (workspace / path.name).exists():
                write_new(workspace / path.name, path.read_text(), identity, mode=0o644)
        if new:
            names = sorted({*given, *(path.name for path in new)} - {""})
            write_new(record, "\n".join(names) + "\n", identity, mode=0o644)
    return [path.name for path in new]


@contextlib.contextmanager
def lock(state: State) -> Iterator[None]:
    """Hold the lab while it is changed; a second command waits and says so."""
    descriptor = os.open(state.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command is changing this lab; waiting for it …")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _passwd(identity: Identity) -> str:
    return (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"lab:x:{identity.uid}:{identity.gid}:lab:{HOME_IN_CONTAINER}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )


def ensure_folder(path: Path, identity: Identity, *, mode: int) -> None:
    """Make a folder and its missing parents, all owned by the lab's user; an existing one is left as it is."""
    if path.is_dir():
        return
    ensure_folder(path.parent, identity, mode=0o755)
    path.mkdir(mode=mode, exist_ok=True)  # another command may have been faster
    os.chown(path, identity.uid, identity.gid)


def write_new(path: Path, text: str, identity: Identity, *, mode: int) -> None:
    """Write a file so that readers see the old content or the new, never half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), identity.uid, identity.gid)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(variable: str, path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a line that names the setting and its value."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            free = shutil.disk_usage(path if path.exists() else path.parent).free >> 20
            hint = f"free some space there (du -sh '{path}'/*), or choose another: make run-cpu {variable}=…"
            raise LabError(f"{variable}={path} is full ({free} MB free)", hint=hint) from error
        reason = os.strerror(error.errno or 0)
        hint = f"check who owns it (ls -ld '{path}'), or choose another: make run-cpu {variable}=…"
        raise LabError(f"{variable}={path} cannot be used: {reason} ({error.filename})", hint=hint) from error
