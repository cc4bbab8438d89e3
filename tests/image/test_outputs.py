"""What cells print while no page is open is in their notebook afterwards."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.conftest import wait_until
from tests.image.client import api, connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import httpx

    from tests.conftest import LabProcess
    from tests.image.client import Kernel


class Notebook:
    """A notebook with one empty-handed code cell, a kernel for it, and pages that come and go."""

    def __init__(self, lab: LabProcess, client: httpx.Client) -> None:
        self.lab, self.client, self.path = lab, client, f"{uuid.uuid4()}.ipynb"
        cell: dict[str, Any] = {
            "cell_type": "code",
            "id": "one",
            "metadata": {},
            "source": "",
            "outputs": [],
            "execution_count": None,
        }
        self.content = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        self.save()
        body = {"path": self.path, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        self.kernel_id = client.post("/api/sessions", json=body).raise_for_status().json()["kernel"]["id"]

    def save(self) -> None:
        """Save the notebook as the page knows it."""
        body = {"type": "notebook", "content": self.content}
        self.client.put(f"/api/contents/{self.path}", json=body).raise_for_status()

    def page(self, session: str = "page") -> AbstractContextManager[Kernel]:
        """Connect to the kernel, as a page does."""
        return connection(self.lab, self.kernel_id, session=session)

    def leave_behind(self, code: str) -> None:
        """Execute the cell from a page that is closed at once."""
        with self.page() as page:
            request = page.send(code, cellId="one")
            wait_until(lambda: request in {each["request"] for each in self.kept()}, seconds=30)

    def wait_until_idle(self) -> None:
        """Wait until the cell has been executed."""
        wait_until(lambda: not any(each["running"] for each in self.kept()), seconds=60)

    def cell(self) -> dict[str, Any]:
        """The cell as a page that is opened now reads it."""
        model = self.client.get(f"/api/contents/{self.path}").raise_for_status().json()
        return dict(model["content"]["cells"][0])

    def on_disk(self) -> list[dict[str, Any]]:
        """The cell's outputs in the file."""
        return list(json.loads((self.lab.workspace / self.path).read_text())["cells"][0]["outputs"])

    def state(self) -> str:
        """The file's hash as a page asks for it before it saves."""
        return str(self.client.get(f"/api/contents/{self.path}?content=0&hash=1").json()["hash"])

    def kept(self) -> list[dict[str, Any]]:
        """What a page asks for that has just connected."""
        return list(self.client.get(f"/lab-outputs/{self.kernel_id}").raise_for_status().json())


@contextmanager
def notebook(lab: LabProcess) -> Iterator[Notebook]:
    """Make a notebook and its kernel; end the kernel."""
    with api(lab) as client:
        made = Notebook(lab, client)
        try:
            yield made
        finally:
            client.delete(f"/api/kernels/{made.kernel_id}")


def text(outputs: list[dict[str, Any]]) -> str:
    """The printed text of outputs."""
    return "".join("".join(each.get("text", "")) for each in outputs)


SLOWLY = "import time\nfor i in range(8): print(i, flush=True); time.sleep(0.5)"


def test_what_is_printed_without_a_page_is_in_the_notebook(lab: LabProcess) -> None:
    """The page is closed while the cell works; whoever opens the notebook later sees all of its output."""
    with notebook(lab) as one:
        one.leave_behind(SLOWLY + "\n40 + 2")
        one.wait_until_idle()
        cell = one.cell()
    assert text(cell["outputs"]) == "0\n1\n2\n3\n4\n5\n6\n7\n", f"got {cell['outputs']}"
    assert cell["outputs"][-1]["data"]["text/plain"] == "42", f"got {cell['outputs']}"
    assert cell["execution_count"] is not None, "no execution count"


def test_it_is_on_the_disk_without_anybody_reading_it(lab: LabProcess) -> None:
    """The server writes by itself, as often as a page saves: what stops the machine later loses nothing."""
    with notebook(lab) as one:
        one.leave_behind("print('kept')")
        wait_until(lambda: text(one.on_disk()) == "kept\n", seconds=20)


def test_a_stopped_lab_has_written_everything(lab: LabProcess) -> None:
    """make restart just after the page was closed, TensorBoard open (it cuts Jupyter's orderly stop short)."""
    with notebook(lab) as one:
        one.client.get("/tensorboard/", follow_redirects=True).raise_for_status()
        one.leave_behind("print('before the stop')")
        one.wait_until_idle()
        done = lab.run("restart")
        assert done.returncode == 0, done.stderr
        got = text(one.on_disk())
    assert got == "before the stop\n", f"got {got!r}"


def test_an_upgrade_while_a_cell_works_keeps_what_came(new_lab: Callable[[], LabProcess]) -> None:
    """A changed setting or image makes a new container: the old one writes first."""
    lab = new_lab()
    lab.start()
    with notebook(lab) as one:
        one.leave_behind("import time; print('before the upgrade', flush=True); time.sleep(60)")
        wait_until(lambda: text(one.kept()[0]["outputs"]), seconds=30)
        lab.start(MEMORY="2g")
        got = text(one.on_disk())
    assert got == "before the upgrade\n", f"got {got!r}"


def test_pictures_errors_and_progress_bars_are_kept_as_a_page_would(lab: LabProcess) -> None:
    """Displays are updated and cleared, a progress bar keeps its last line, an error its traceback."""
    code = (
        "from IPython.display import display, clear_output, HTML\nimport time, sys\n"
        "print('gone'); time.sleep(0.5); clear_output(wait=True)\n"
        "shown = display(HTML('first'), display_id=True); shown.update(HTML('second'))\n"
        "for i in range(100): sys.stdout.write(f'\\r{i} %'); sys.stdout.flush(); time.sleep(0.002)\n"
        "sys.stdout.flush(); 1 / 0"
    )
    with notebook(lab) as one:
        one.leave_behind(code)
        one.wait_until_idle()
        cell = one.cell()
    outputs = cell["outputs"]
    got = [each["output_type"] for each in outputs]
    assert got == ["display_data", "stream", "error"], f"got {outputs}"
    assert outputs[0]["data"]["text/html"] == "second", f"got {outputs[0]}"
    assert text(outputs).strip() == "99 %", f"got {text(outputs)!r}"
    assert cell["metadata"].get("trusted") is True, f"the page would not show its HTML: {cell['metadata']}"
    assert outputs[2]["ename"] == "ZeroDivisionError", f"got {outputs[2]}"


def test_an_endless_loop_fills_neither_disk_nor_memory(lab: LabProcess) -> None:
    """What a cell prints without a page is kept up to 10 MB; then it says so."""
    with notebook(lab) as one:
        one.leave_behind("for _ in range(400): print('x' * 50_000)")
        one.wait_until_idle()
        outputs = one.cell()["outputs"]
    assert len(text(outputs)) < 11 << 20, f"{len(text(outputs))} characters were kept"
    assert text(outputs[-1:]).strip().endswith("while no page is open.]"), f"got {text(outputs)[-200:]!r}"


def test_a_flood_without_a_page_leaves_the_servers_memory_alone(lab: LabProcess) -> None:
    """Neither what is kept nor what waits for a sleeping page grows without end."""
    with notebook(lab) as one:
        one.leave_behind("while True: print('x' * 10_000)")
        time.sleep(8)  # in a second come a hundred megabytes: by now what is kept is full
        before = server_memory(lab)
        time.sleep(20)
        grown = server_memory(lab) - before
        waiting = one.kept()
    assert grown < 600, f"the server grew by {grown} MB"
    assert [each["running"] for each in waiting] == [True], f"a page that wakes is told {len(waiting)} executions"


def server_memory(lab: LabProcess) -> int:
    """The server's resident memory in MB."""
    line = "grep -h VmRSS /proc/$(pgrep -of bin/jupyter-lab)/status | tr -dc 0-9"
    return int(lab.shell(line)) >> 10


def test_a_restarted_kernel_has_nothing_running(lab: LabProcess) -> None:
    """After a restart the next page shows no cell as working."""
    with notebook(lab) as one:
        one.leave_behind("import time; time.sleep(60)")
        one.client.post(f"/api/kernels/{one.kernel_id}/restart").raise_for_status()
        got = [each["running"] for each in one.kept()]
    assert got == [False], f"got {got}"


def test_the_next_page_is_told_what_goes_on(lab: LabProcess) -> None:
    """It gets what came so far, and who had asked for it."""
    with notebook(lab) as one:
        one.leave_behind(SLOWLY)
        with one.page("another"):
            wait_until(lambda: text(one.kept()[0]["outputs"]), seconds=30)
            told = one.kept()
    assert [each["cell_id"] for each in told] == ["one"], f"got {told}"
    assert (told[0]["running"], text(told[0]["outputs"])[:2]) == (True, "0\n"), f"got {told}"
    assert told[0]["session"] == "t", f"got {told}"  # as the request's header said


def test_what_the_page_saves_counts(lab: LabProcess) -> None:
    """An output that the user removed before closing the page does not come back."""
    with notebook(lab) as one:
        with one.page() as page:
            page.run("print('unwanted')", cellId="one")
            one.wait_until_idle()
            one.save()
        got = one.cell()["outputs"]
    assert got == [], f"got {got}"


def test_a_page_that_slept_is_not_asked_which_version_counts(lab: LabProcess) -> None:
    """What the server wrote meanwhile is no conflict for it; somebody else's change is."""
    with notebook(lab) as one:
        before = one.state()
        one.leave_behind("print('meanwhile')")
        wait_until(lambda: text(one.on_disk()) == "meanwhile\n", seconds=20)
        after = one.state()
        file = lab.workspace / one.path
        file.write_text(file.read_text().replace("meanwhile", "something else"))
        changed = one.state()
    assert after == before, "the server's own writing counts as a conflict"
    assert changed != before, "somebody else's change goes unnoticed"


def test_a_notebook_that_is_read_while_the_cell_works(lab: LabProcess) -> None:
    """A notebook that is read in the middle has what came so far, and later the rest."""
    with notebook(lab) as one:
        one.leave_behind(SLOWLY)
        early = wait_until(lambda: text(one.cell()["outputs"]), seconds=30)
        one.wait_until_idle()
        late = text(one.cell()["outputs"])
    assert early.startswith("0\n"), f"got {early!r}"
    assert late.startswith(early), f"got {early!r}, then {late!r}"
    assert late.endswith("7\n"), f"got {late!r}"
