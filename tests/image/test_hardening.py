"""The container gives a notebook nothing that it does not need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scripts.host import lab_identity

if TYPE_CHECKING:
    from tests.conftest import LabProcess


def status(lab: LabProcess, field: str) -> str:
    """A field of the server process's /proc status."""
    return lab.shell(f"awk '/^{field}:/ {{print $2}}' /proc/1/status").strip()


def test_the_server_runs_as_the_caller(lab: LabProcess) -> None:
    """Numeric ids are those of whoever started the lab; for root they are the first user's, never 0."""
    me = lab_identity()
    got = lab.shell("id -u; id -g").split()
    assert got == [str(me.uid), str(me.gid)], f"got {got}"
    assert got[0] != "0", "the server runs as root"


def test_the_user_has_a_name_and_a_home(lab: LabProcess) -> None:
    """Tools that look the user up find one, whatever the number."""
    got = lab.shell("id -un; cd && pwd; touch ~/.written && echo ok").split()
    assert got == ["lab", "/home/lab", "ok"], f"got {got}"


def test_the_root_file_system_is_read_only(lab: LabProcess) -> None:
    """Nothing outside the mounts can be written, not even by root."""
    line = "for d in / /etc /opt/venv /usr/local /var; do touch $d/x && echo written; done"
    done: Any = lab.container.exec_run(["sh", "-c", line], user="0")
    got = done.output.decode()
    assert got.count("Read-only file system") == 5, f"got {got}"


def test_there_is_no_capability_left(lab: LabProcess) -> None:
    """Effective, permitted and bounding sets are empty."""
    got = {field: int(status(lab, field), 16) for field in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")}
    assert set(got.values()) == {0}, f"got {got}"


def test_no_process_can_gain_privileges(lab: LabProcess) -> None:
    """no-new-privileges is on and the default seccomp filter is active."""
    got = status(lab, "NoNewPrivs"), status(lab, "Seccomp")
    assert got == ("1", "2"), f"got {got}"


def test_no_setuid_file_exists(lab: LabProcess) -> None:
    """No program in the image changes its user or group."""
    got = lab.shell("find / -xdev -type f -perm /6000 2>/dev/null")
    assert got == "", f"found {got}"


def test_process_1_is_an_init(lab: LabProcess) -> None:
    """PID 1 reaps children and passes signals on."""
    got = lab.shell("cat /proc/1/comm").strip()
    assert got == "tini", f"got {got}"


def test_an_orphan_is_reaped(lab: LabProcess) -> None:
    """A grandchild whose parent has gone leaves no zombie behind."""
    got = lab.python(
        "import os, subprocess, time\n"
        "subprocess.run(['sh', '-c', 'sleep 0.2 &'])\n"
        "deadline = time.monotonic() + 10\n"
        "def zombies(): return subprocess.run(['sh', '-c', 'grep -l \"^State:.Z\" /proc/[0-9]*/status 2>/dev/null'],"
        " capture_output=True, text=True).stdout\n"
        "time.sleep(0.4)\n"
        "while zombies() and time.monotonic() < deadline: time.sleep(0.1)\n"
        "print(zombies())"
    )
    assert got == "", f"zombies: {got}"


def test_the_limits_are_set(lab: LabProcess) -> None:
    """Process count, shared memory, restart policy and log size are bounded as promised."""
    config = lab.container.attrs["HostConfig"]
    got = {key: config[key] for key in ("PidsLimit", "ShmSize", "RestartPolicy", "LogConfig", "Privileged")}
    expected = {
        "PidsLimit": 4096,
        "ShmSize": 2 << 30,
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Privileged": False,
    }
    assert got == expected, f"got {got}"


def test_enough_files_can_be_open(lab: LabProcess) -> None:
    """The limit of open files is 65536, or the engine's own where the engine cannot raise it."""
    from scripts.host import open_files_limit  # noqa: PLC0415

    got = lab.shell("ulimit -n").strip()
    assert got == str(open_files_limit(65536)), f"got {got}"


def test_the_engines_socket_is_not_inside(lab: LabProcess) -> None:
    """A notebook cannot talk to the engine."""
    got = lab.shell("ls /var/run/docker.sock /run/docker.sock 2>/dev/null")
    assert got == "", f"found {got}"


def test_temporary_files_may_be_executed(lab: LabProcess) -> None:
    """/tmp is writable memory from which compiled code can be loaded."""
    got = lab.shell("printf '#!/bin/sh\\necho ran' >/tmp/x && chmod +x /tmp/x && /tmp/x; rm /tmp/x").strip()
    assert got == "ran", f"got {got}"


def test_files_belong_to_the_caller(lab: LabProcess) -> None:
    """What is written in the workspace is the caller's on the host."""
    lab.shell("echo hello > /workspace/owned.txt")
    owner = (lab.workspace / "owned.txt").stat()
    me = lab_identity()
    assert (owner.st_uid, owner.st_gid) == (me.uid, me.gid), (
        f"got {owner.st_uid}:{owner.st_gid}, os.getuid() {os.getuid()}"
    )
