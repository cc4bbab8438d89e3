"""What goes wrong on other people's servers, done on purpose: whatever was saved is there, and the lab answers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from scripts.host import lab_identity
from tests.conftest import wait_until
from tests.image.client import api, connection, kernel
from tests.provision.machines import require_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import LabProcess

# Fills the container's memory, not the page tables of this machine: each step is written to.
HOG = "hog = []\nwhile True: hog.append(bytearray(b'x') * (64 << 20))"
# As many threads as the engine admits, which count as processes do, each with the smallest stack.
BOMB = """
import threading
threading.stack_size(64 << 10)
end = threading.Event()
threads = []
try:
    while len(threads) < 10_000:
        threads.append(threading.Thread(target=end.wait))
        threads[-1].start()
except RuntimeError as error:
    print(len(threads), error)
"""


@pytest.fixture(scope="module")
def small(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab with little memory, that these tests may break."""
    lab = new_lab()
    lab.start(MEMORY="1g")
    return lab


def wait_until_up(lab: LabProcess, *, seconds: float = 60) -> dict[str, Any]:
    """The server's status, as soon as it gives one."""

    def look() -> dict[str, Any] | None:
        with contextlib.suppress(httpx.HTTPError), api(lab) as client:
            return dict(client.get("/api/status").raise_for_status().json())
        return None

    return wait_until(look, seconds=seconds)


def kill_server(lab: LabProcess) -> None:
    """Kill the container's first process, and wait until the engine has started it again."""
    before = lab.container.attrs["State"]
    os.kill(before["Pid"], signal.SIGKILL)
    wait_until(lambda: lab.container.attrs["State"]["StartedAt"] != before["StartedAt"], seconds=60)
    wait_until_up(lab)


def test_a_killed_server_comes_back_with_everything(small: LabProcess) -> None:
    """After kill -9 of the container's first process the engine starts it again: same token, same files."""
    with api(small) as client:
        body = {"type": "file", "format": "text", "content": "saved"}
        client.put("/api/contents/before.txt", json=body).raise_for_status()
    kill_server(small)
    with api(small) as client:
        got = client.get("/api/contents/before.txt").raise_for_status().json()["content"]
    assert got == "saved", f"got {got!r}"


def test_a_save_that_is_cut_off_leaves_the_old_file_or_the_new(small: LabProcess) -> None:
    """A server that is killed while it saves, again and again, never leaves half a file."""
    versions = ["a" * 4_000_000, "b" * 4_000_000]
    over = threading.Event()

    def save_all_the_time() -> None:
        with api(small) as client:
            for content in itertools.cycle(versions):
                if over.is_set():
                    return
                with contextlib.suppress(httpx.HTTPError):
                    client.put("/api/contents/big.txt", json={"type": "file", "format": "text", "content": content})

    saving = threading.Thread(target=save_all_the_time)
    saving.start()
    try:
        for _ in range(5):
            time.sleep(1)
            kill_server(small)
            found = (small.workspace / "big.txt").read_text()
            assert found in versions, f"{len(found)} bytes, beginning with {found[:1]!r}, ending with {found[-1:]!r}"
    finally:
        over.set()
        saving.join()


def test_a_full_disk_keeps_the_old_file(new_lab: Callable[[], LabProcess]) -> None:
    """What does not fit is refused with the reason; the last saved version stays, and a smaller one can be saved."""
    require_root("mount")
    lab = new_lab()
    lab.workspace.mkdir(parents=True)
    owner = f"uid={lab_identity().uid},gid={lab_identity().gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=8m,mode=700,{owner}", "lab", str(lab.workspace)], check=True)
    try:
        lab.start()
        text = {"type": "file", "format": "text"}
        with api(lab) as client:
            client.put("/api/contents/work.txt", json={**text, "content": "old"}).raise_for_status()
            refused = client.put("/api/contents/work.txt", json={**text, "content": "x" * (12 << 20)})
            kept = client.get("/api/contents/work.txt").json()["content"]
            client.put("/api/contents/work.txt", json={**text, "content": "new"}).raise_for_status()
            after = client.get("/api/contents/work.txt").json()["content"]
    finally:
        lab.remove()
        subprocess.run(["umount", str(lab.workspace)], check=True)
    assert "No space left" in refused.text, f"got {refused.status_code}: {refused.text[:300]}"
    assert (kept, after) == ("old", "new"), f"got {kept[:20]!r}, {after[:20]!r}"


def test_a_notebook_of_50_megabytes_is_saved_and_opened(small: LabProcess) -> None:
    """A notebook full of outputs arrives as it was."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": "x" * (50 << 20)}]
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1", "outputs": outputs, "execution_count": 1}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    with api(small) as client:
        client.put("/api/contents/big.ipynb", json={"type": "notebook", "content": notebook}).raise_for_status()
        got = client.get("/api/contents/big.ipynb").raise_for_status().json()["content"]["cells"][0]["outputs"]
    assert got == outputs, f"got {str(got)[:200]}"


def test_a_kernel_that_wants_too_much_memory_dies_alone(small: LabProcess) -> None:
    """The kernel is killed and starts again; another kernel keeps its variables, and the server its uptime."""
    before = wait_until_up(small)["started"]
    with kernel(small) as bystander, kernel(small) as greedy:
        bystander.run("kept = 42")
        greedy.send(HOG)
        greedy.wait_for_state("restarting")
        kept = bystander.run("print(kept)")
    assert kept.strip() == "42", f"got {kept!r}"
    got = wait_until_up(small)["started"]
    assert got == before, f"the server was started at {got}, expected {before}"


def test_a_fork_bomb_ends_at_the_limit(small: LabProcess) -> None:
    """The engine admits no more than 4096 processes and threads; the server goes on answering, and it is over."""
    with kernel(small) as one:
        told = one.run(BOMB)
        count = int(told.split()[0])
        assert count < 4096, f"{count} threads were started"
        wait_until_up(small, seconds=10)
        one.run("end.set(); [each.join() for each in threads if each.ident]")
        after = one.run("threading.Thread(target=print, args=['after']).start()")
    assert after.strip() == "after", f"got {after!r}"


def test_a_flood_of_output_stops_nobody_else(small: LabProcess) -> None:
    """While one kernel prints without end and its tab does not read, another one answers, and so does the server."""
    with kernel(small) as bystander, kernel(small) as flood:
        flood.send("while True: print('x' * 1000)")
        deadline = time.monotonic() + 5
        answers = []
        while time.monotonic() < deadline:
            answers.append(bystander.run("print(6 * 7)", timeout=30).strip())
        wait_until_up(small, seconds=10)
    assert set(answers) == {"42"}, f"got {set(answers)}"


def test_a_killed_kernel_starts_again_alone(small: LabProcess) -> None:
    """kill -9 of a kernel: it is started again, the other one keeps its variables."""
    with kernel(small) as bystander, kernel(small) as victim:
        bystander.run("kept = 42")
        victim.send("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        victim.wait_for_state("restarting")
        kept = bystander.run("print(kept)")
        with connection(small, victim.identity) as again:  # as a page does
            got = again.run("print(6 * 7)")
    assert (kept.strip(), got.strip()) == ("42", "42"), f"got {kept!r} and {got!r}"


def test_a_state_directory_restored_from_a_copy_works(new_lab: Callable[[], LabProcess]) -> None:
    """Token, packages and settings come from the copy; the lab is as it was."""
    lab = new_lab()
    lab.start()
    lab.python("from pathlib import Path; (Path.home() / 'of mine').write_text('kept')")
    token, copy = lab.token, lab.state_dir.with_name("copy")
    lab.remove()
    subprocess.run(["cp", "--archive", lab.state_dir, copy], check=True)
    shutil.rmtree(lab.state_dir)
    copy.rename(lab.state_dir)
    url = lab.start()
    got = lab.python("from pathlib import Path; print((Path.home() / 'of mine').read_text())")
    assert (url.endswith(token), got) == (True, "kept"), f"got {got!r} and another token"


def test_a_thousand_files_are_listed(small: LabProcess) -> None:
    """A full folder is shown whole."""
    folder = small.workspace / "many"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number}.txt").touch()
    with api(small) as client:
        got = client.get("/api/contents/many").raise_for_status().json()["content"]
    assert len(got) == 1000, f"got {len(got)} files"


def test_an_upload_that_breaks_off_leaves_the_old_file(small: LabProcess) -> None:
    """Pieces are not the file before the last one has come, and the next attempt starts anew."""
    folder = small.workspace / "uploads"
    with api(small) as client:  # the lab's own folder and file
        client.put("/api/contents/uploads", json={"type": "directory"}).raise_for_status()
        old = {"type": "file", "format": "text", "content": "old"}
        client.put("/api/contents/uploads/data.csv", json=old).raise_for_status()

    def send(text: str, chunk: int) -> int:
        model = {"type": "file", "format": "text", "content": text, "chunk": chunk}
        with api(small) as client:
            return client.put("/api/contents/uploads/data.csv", json=model).status_code

    assert [send("ne", 1), send("w an", 2)] == [200, 200], "a piece was refused"
    small.container.kill("SIGKILL")
    small.start()
    kept = (folder / "data.csv").read_text()
    whole = [send("new ", 1), send("and whole", -1)]
    assert kept == "old", f"got {kept!r}"
    assert whole == [200, 200], f"got {whole}"
    got = {path.name: path.read_text() for path in folder.iterdir()}
    assert got == {"data.csv": "new and whole"}, f"got {got}"
    late = send("tail", 7)
    assert late == 409, f"a piece without its first one: {late}"


def test_an_upload_of_a_gigabyte_arrives_whole(small: LabProcess) -> None:
    """In pieces, as JupyterLab sends it, into a lab with one gigabyte of memory."""
    piece = os.urandom(1 << 20)
    model = {"type": "file", "format": "base64", "content": base64.b64encode(piece).decode()}
    with api(small) as client:
        for number in range(1, 1025):
            chunk = -1 if number == 1024 else number
            client.put("/api/contents/huge.bin", json={**model, "chunk": chunk}).raise_for_status()
    sent = hashlib.sha256()
    for _ in range(1024):
        sent.update(piece)
    with (small.workspace / "huge.bin").open("rb") as file:
        got = hashlib.sha256()
        while block := file.read(1 << 20):
            got.update(block)
    (small.workspace / "huge.bin").unlink()
    assert got.hexdigest() == sent.hexdigest(), "the file is another one"
