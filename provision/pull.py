"""`make vm-pull`: fetch the VM's workspace into a new folder here; nothing that is here is ever overwritten."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from datetime import datetime
from typing import TYPE_CHECKING

from provision.url import running
from provision.vm import Cloud, Vm
from scripts.console import LabError, run, say
from scripts.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PULLED = ROOT / "pulled"
CHUNK = 1 << 20
SAY_EVERY = 200 << 20  # bytes


def main() -> None:
    """Fetch it and print where it is."""
    cloud = Cloud.open()
    vm = running(cloud)
    if cloud.az.dry_run:
        print(" ".join(cloud.ssh(vm).bootstrap("pull")) + f" | tar -x -C {PULLED / vm.name}")
        return
    print(pull(cloud, vm))


def pull(cloud: Cloud, vm: Vm) -> Path:
    """Fetch the workspace into pulled/NAME/<time>, complete or not at all; return that folder.

    Raises:
        LabError: the connection, the VM or this disk failed.

    """
    target = PULLED / vm.name / f"{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = tempfile.mkdtemp(prefix=".pulling-", dir=target.parent)
    say(f"fetching the workspace of {vm.name} …")
    try:
        total = _stream(cloud.ssh(vm).bootstrap("pull"), draft)
        shutil.move(f"{draft}/workspace", target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    say(f"{sum(1 for each in target.rglob('*') if each.is_file())} files, {total >> 20} MiB:")
    return target


def _stream(argv: list[str], folder: str) -> int:
    """Unpack what the VM sends; return the number of bytes."""
    total = 0
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as sender,
        subprocess.Popen(["tar", "-x", "-C", folder], stdin=subprocess.PIPE) as unpacker,
    ):
        assert sender.stdout  # noqa: S101 - both were opened as pipes
        assert unpacker.stdin  # noqa: S101
        while chunk := sender.stdout.read(CHUNK):
            unpacker.stdin.write(chunk)
            if total // SAY_EVERY != (total + len(chunk)) // SAY_EVERY:
                say(f"  … {(total + len(chunk)) >> 20} MiB")
            total += len(chunk)
        unpacker.stdin.close()
        codes = sender.wait(), unpacker.wait()
    if any(codes):
        raise LabError("the workspace did not arrive whole; nothing was kept of it", hint="make vm-pull tries again")
    return total


if __name__ == "__main__":
    run(main)
