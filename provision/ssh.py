"""The only module that runs `ssh`: by key, with a list of known hosts of the VM's own."""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from provision.settings import USER
from scripts.console import LabError, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BOOTSTRAP = "/opt/pytorch-jupyter/bootstrap.py"
REACH_SECONDS = 600
LOST = 255  # ssh's own exit code, when the connection and not the command failed


@dataclass(frozen=True)
class Ssh:
    """How to reach a VM: its host, the private key, and the folder for what SSH must remember about it."""

    host: str
    key: Path
    memory: Path
    options: Sequence[str] = ()

    def argv(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The ssh command line; the words of a command reach the VM as they are."""
        fixed = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self.memory / "known_hosts"),
        }
        given = [word for key, value in fixed.items() for word in ("-o", f"{key}={value}")]
        remote = [shlex.join(command)] if command else []
        # The user's own options come first: for ssh the first value of an option counts.
        return ["ssh", *self.options, "-i", str(self.key), *given, *options, f"{USER}@{self.host}", *remote]

    def bootstrap(self, *arguments: str) -> list[str]:
        """The command line that runs the VM's bootstrap as root."""
        return self.argv("sudo", "python3", BOOTSTRAP, *arguments)

    def wait(self, *, seconds: float = REACH_SECONDS) -> None:
        """Wait until the VM lets us in.

        Raises:
            LabError: it did not in time; ssh's last words are in the message.

        """
        say(f"waiting for SSH at {self.host} …")
        started = last_word = time.monotonic()
        while True:
            done = subprocess.run(
                self.argv("true"), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
            )
            if done.returncode == 0:
                return
            words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            if time.monotonic() - started > seconds:
                hint = "make vm-status shows the VM; the same command tries again; SSH_OPTIONS= adds a jump host"
                raise LabError(f"no SSH to {USER}@{self.host} within {seconds:.0f} s: {words[0]}", hint=hint)
            if time.monotonic() - last_word > 15:
                last_word = time.monotonic()
                say(f"  … {last_word - started:.0f} s ({words[0]})")
            time.sleep(1)


def run(argv: Sequence[str], *, given: bytes | None = None, out: BinaryIO | None = None) -> str:
    """Run a command on the VM, its talk passing through to stderr; return what it wrote to stdout.

    Raises:
        ConnectionError: the connection broke.
        LabError: the command failed; its own words stand above.

    """
    done = subprocess.run(argv, input=given, stdout=out or subprocess.PIPE, check=False)
    if done.returncode == LOST:
        raise ConnectionError("the connection to the VM broke")
    if done.returncode:
        raise LabError("the VM says what went wrong above", hint="make vm-logs shows more; make vm-sync tries again")
    return (done.stdout or b"").decode()


def ensure_key(given: Path | None, folder: Path) -> Path:
    """The private key's path: the user's, or one of the lab's own, made once without a passphrase.

    Raises:
        LabError: the user's key or its public half is not there, or ssh-keygen is not installed.

    """
    key = given or folder / "id_ed25519"
    if given and not (given.is_file() and public_half(given).is_file()):
        raise LabError(f"SSH_KEY={given} and {given}.pub are not both there", hint="ssh-keygen -t ed25519 makes a pair")
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pytorch-jupyter", "-f", str(key)]
        try:
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        except FileNotFoundError:
            raise LabError("ssh is not installed", hint="sudo apt-get install openssh-client") from None
    return key


def public_half(key: Path) -> Path:
    """The public key's file beside the private one."""
    return key.with_name(key.name + ".pub")
