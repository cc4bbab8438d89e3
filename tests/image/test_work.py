"""What people do in the lab: kernels, threads, data loaders, packages, files, terminals."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
import websocket

from scripts.host import lab_identity
from tests.image.client import api, connection, kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import LabProcess


def test_a_kernel_runs_torch(lab: LabProcess) -> None:
    """A cell with torch gives its result."""
    with kernel(lab) as one:
        got = one.run("import torch; torch.arange(4).sum()")
    assert got == "tensor(6)", f"got {got}"


@pytest.fixture(scope="module")
def limited(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab with one CPU and a gibibyte of memory."""
    lab = new_lab()
    lab.start(CPUS="1", MEMORY="1g")
    return lab


def test_threads_follow_the_limit(limited: LabProcess) -> None:
    """With CPUS=1 torch, OpenMP and Python itself see one CPU, whatever the host has."""
    with kernel(limited) as one:
        got = one.run("import os, torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'], os.cpu_count())")
    assert got.split() == ["1", "1", "1"], f"got {got}"


def test_threads_follow_the_host_without_a_limit(lab: LabProcess) -> None:
    """Without CPUS torch uses every core that it may run on."""
    with kernel(lab) as one:
        got = one.run("import os, torch; print(torch.get_num_threads(), len(os.sched_getaffinity(0)))").split()
    assert got[0] == got[1], f"got {got[0]} threads on {got[1]} CPUs"


def test_limits_reach_the_engine(limited: LabProcess) -> None:
    """CPUS and MEMORY are the container's limits, and the memory meter knows the latter."""
    config = limited.container.attrs["HostConfig"]
    assert (config["NanoCpus"], config["Memory"]) == (10**9, 1 << 30), f"got {config['NanoCpus']}, {config['Memory']}"
    with api(limited) as client:
        got = client.get("/api/metrics/v1").json()["limits"]["memory"]["rss"]
    assert got == 1 << 30, f"got {got}"


def test_a_data_loader_with_workers_works(lab: LabProcess) -> None:
    """Four workers pass 64 MB batches through shared memory (the engine's default of 64 MB kills them)."""
    code = """
import torch
class Noise(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.full((16, 1024, 1024), float(i))
loader = torch.utils.data.DataLoader(Noise(), batch_size=1, num_workers=4)
print(sorted(int(b.mean()) for b in loader))
"""
    with kernel(lab) as one:
        got = one.run(code).strip().splitlines()[-1]
    assert got == "[0, 1, 2, 3, 4, 5, 6, 7]", f"got {got}"


def test_an_installed_package_survives_a_new_container(new_lab: Callable[[], LabProcess]) -> None:
    """%pip install works as non-root and its result is there after `docker rm -f` and a new start."""
    lab = new_lab()
    lab.start()
    with kernel(lab) as one:
        installed = one.run("%pip install --quiet einops\nimport einops; print(einops.__file__)")
    lab.container.remove(force=True)
    lab.start()
    with kernel(lab) as one:
        got = one.run("import einops; print(einops.__file__)")
    assert "/home/lab/.local/" in installed, f"got {installed}"
    assert "/home/lab/.local/" in got, f"got {got}"


@pytest.mark.parametrize("request_", ["torch==2.9.1", "numpy==1.26.4", "torch<2.9"])
def test_replacing_the_image_own_packages_is_refused(lab: LabProcess, request_: str) -> None:
    """pip names the constraint instead of half-replacing torch or numpy."""
    with kernel(lab) as one:
        got = one.run(f"%pip install '{request_}'")
        after = one.run("import torch, numpy; print(torch.__file__, numpy.__file__)")
    assert "constraint" in got, f"got {got}"
    assert after.count("/opt/venv/") == 2, f"got {after}"


def test_a_saved_file_is_the_callers_on_the_host(lab: LabProcess) -> None:
    """What the contents API saves is in the workspace folder, owned by the caller."""
    with api(lab) as client:
        body = {"type": "file", "format": "text", "content": "kept"}
        client.put("/api/contents/Übung 1.txt", json=body).raise_for_status()
    path = lab.workspace / "Übung 1.txt"
    assert path.read_text() == "kept", f"got {path.read_text()!r}"
    assert path.stat().st_uid == lab_identity().uid, f"got uid {path.stat().st_uid}"


def test_a_deleted_file_goes_to_the_trash_or_is_gone(lab: LabProcess) -> None:
    """Deleting in the file browser works on the mounted workspace."""
    with api(lab) as client:
        client.put("/api/contents/old.txt", json={"type": "file", "format": "text", "content": "x"}).raise_for_status()
        got = client.delete("/api/contents/old.txt").status_code
    assert (got, (lab.workspace / "old.txt").exists()) == (204, False), f"got {got}"


def test_a_terminal_opens_and_answers(lab: LabProcess) -> None:
    """A terminal is bash as the lab's user, in the workspace."""
    with api(lab) as client:
        name = client.post("/api/terminals").raise_for_status().json()["name"]
        socket = websocket.create_connection(
            f"{lab.url.replace('http', 'ws')}/terminals/websocket/{name}?token={lab.token}", timeout=30
        )
        socket.send(json.dumps(["stdin", "echo $BASH $(whoami) $PWD $((40+2))\r"]))
        seen = ""
        while "42" not in seen:
            kind, *rest = json.loads(socket.recv())
            seen += rest[0] if kind == "stdout" else ""
        socket.close()
        client.delete(f"/api/terminals/{name}")
    assert "/bin/bash lab /workspace 42" in seen, f"got {seen!r}"


def test_a_silent_connection_stays(lab: LabProcess) -> None:
    """A cell that prints nothing for longer than the server's interval between pings keeps its connection."""
    with kernel(lab) as one:
        got = one.run("import time; time.sleep(33); print('there')")
    assert got == "there\n", f"got {got!r}"


def test_a_page_that_opens_while_a_cell_works_learns_so(lab: LabProcess) -> None:
    """A second connection to a busy kernel hears that it is busy, and when it no longer is."""
    with kernel(lab) as one, connection(lab, one.identity) as early:
        request = one.send("import time; time.sleep(3)")
        early.wait_for_state("busy")
        with connection(lab, one.identity) as late:
            late.wait_for_state("busy")
            late.wait_for_state("idle")
        assert "".join(one.outputs(request)) == ""


def test_a_console_joins_a_notebooks_kernel(new_lab: Callable[[], LabProcess]) -> None:
    """`jupyter console --existing` in the lab's terminal sees what the notebook has computed."""
    lab = new_lab()
    lab.start()
    with kernel(lab) as one:
        one.run("answer = 6 * 7")
        one.run("%pip install --quiet jupyter-console")
        join = f"echo 'print(answer)' | jupyter console --simple-prompt --existing kernel-{one.identity}.json"
        got = lab.shell(f"timeout 60 bash -c {shlex.quote(join)}")
    assert "42" in got, f"got {got}"


def test_the_debugger_stops_and_goes_on(lab: LabProcess) -> None:
    """A breakpoint in a cell stops it there, its variables can be asked for, and it goes on to its end."""
    code = "x = 6\ny = x * 7\nprint(y)"
    with kernel(lab) as one:
        one.debug("initialize", clientID="test", adapterID="", pathFormat="path", linesStartAt1=True)
        one.debug("attach")
        source = {"path": one.debug("dumpCell", code=code)["sourcePath"]}
        one.debug("setBreakpoints", breakpoints=[{"line": 2}], source=source, sourceModified=False)
        one.debug("configurationDone")
        cell = one.send(code)
        thread = one.wait_for_debugger("stopped")["threadId"]
        frame = one.debug("stackTrace", threadId=thread)["stackFrames"][0]
        value = one.debug("evaluate", expression="x", frameId=frame["id"], context="watch")["result"]
        one.send_to_debugger("continue", threadId=thread)
        printed = "".join(one.outputs(cell))
    assert (frame["line"], value, printed) == (2, "6", "42\n"), f"got {frame}, {value!r}, {printed!r}"


def test_idle_kernels_end_and_busy_ones_stay(new_lab: Callable[[], LabProcess]) -> None:
    """With IDLE_TIMEOUT an idle kernel ends although a client is connected; a busy one goes on."""
    lab = new_lab()
    lab.start(IDLE_TIMEOUT="2s")
    with kernel(lab) as idle, kernel(lab) as busy:
        idle.run("1")
        got = busy.run("import time; time.sleep(14); print('done')")
        with api(lab) as client:
            left = len(client.get("/api/kernels").json())
    assert got == "done\n", f"got {got}"
    assert left == 1, f"{left} kernels left, expected the busy one"
