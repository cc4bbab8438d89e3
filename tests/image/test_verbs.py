"""The verbs on a real engine: idempotent, clear when they cannot, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import docker
import httpx
import pytest

from scripts.image import VARIANTS, tag_of
from scripts.settings import ROOT
from scripts.supply import BOOTSTRAPPED_BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import LabProcess


@pytest.fixture(scope="module")
def mine(new_lab: Callable[[], LabProcess]) -> LabProcess:
    """A lab that the tests of this module start, change and stop."""
    lab = new_lab()
    lab.start()
    return lab


def test_run_prints_one_url_and_nothing_else(mine: LabProcess) -> None:
    """stdout is the URL with the token; all talk goes to stderr."""
    got = mine.run("start", "cpu").stdout
    assert got == f"http://localhost:{mine.port}/lab?token={mine.token}\n", f"got {got!r}"


def test_a_second_run_leaves_the_container_alone(mine: LabProcess) -> None:
    """The running lab's URL comes back and nothing is recreated."""
    before = mine.container.id
    mine.start()
    assert mine.container.id == before, "the container was recreated"


def test_a_changed_setting_recreates_and_says_so(mine: LabProcess) -> None:
    """The new value is in force, the work and the token stay, and the change is named."""
    (mine.workspace / "work.txt").write_text("kept")
    token, before = mine.token, mine.container.id
    done = mine.run("start", "cpu", SHM_SIZE="3g")
    assert "shm_size 2147483648 → 3221225472" in done.stderr, f"got {done.stderr}"
    assert mine.container.id != before, "the container is still the old one"
    assert (mine.workspace / "work.txt").read_text() == "kept", "the work is gone"
    assert mine.token == token, "the token changed"
    mine.start()


def test_url_prints_the_url_and_nothing_else(mine: LabProcess) -> None:
    """`make url` is for scripts: exactly the URL on stdout, nothing on stderr."""
    done = mine.run("url")
    expected = (0, f"http://localhost:{mine.port}/lab?token={mine.token}\n", "")
    got = done.returncode, done.stdout, done.stderr
    assert got == expected, f"got {got}, expected {expected}"


def test_status_tells_programs(mine: LabProcess) -> None:
    """--json is one object without the token; the exit code is 0 while the lab answers."""
    done = mine.run("status", "--json")
    got = json.loads(done.stdout)
    assert (done.returncode, got["state"], got["answers"], got["variant"]) == (0, "running", True, "cpu"), f"got {got}"
    assert got["memory_used"] > 20 << 20, f"got {got['memory_used']}"
    assert mine.token not in done.stdout, "status shows the token"


def test_status_tells_a_person(mine: LabProcess) -> None:
    """The page names state, address and workspace."""
    got = mine.run("status").stdout
    assert re.search(rf"lab +{mine.name}: running, cpu", got), f"got {got}"
    assert str(mine.workspace) in got, f"got {got}"


def test_logs_are_the_servers(mine: LabProcess) -> None:
    """`make logs` shows what the server wrote."""
    got = mine.run("logs").stdout
    assert "is running at" in got, f"got {got!r}"


def test_shell_runs_inside(mine: LabProcess) -> None:
    """`make shell` is a shell in the workspace, as the lab's user."""
    done = mine.run("shell", "-c", "pwd; whoami")
    assert done.stdout.split() == ["/workspace", "lab"], f"got {done.stdout!r} {done.stderr!r}"


def test_stop_and_run_keep_everything(mine: LabProcess) -> None:
    """After stop, url and status say so with their exit codes; run brings the same lab back."""
    token, before = mine.token, mine.container.id
    stopped = mine.run("stop")
    again = mine.run("stop")
    url, status = mine.run("url"), mine.run("status")
    mine.start()
    assert (stopped.returncode, again.returncode) == (0, 0), f"got {stopped.stderr}{again.stderr}"
    assert (url.returncode, status.returncode) == (1, 3), f"got {url.returncode}, {status.returncode}"
    assert "hint: make run-cpu" in url.stderr, f"got {url.stderr}"
    assert (mine.token, mine.container.id) == (token, before), "token or container changed"


def test_restart_prints_the_url(mine: LabProcess) -> None:
    """`make restart` waits until the lab answers again."""
    done = mine.run("restart")
    assert done.stdout.startswith(f"http://localhost:{mine.port}/lab?token="), f"got {done.stdout!r} {done.stderr!r}"


def test_rotation_ends_the_old_token_and_its_sessions(mine: LabProcess) -> None:
    """After token-rotate neither the old token nor a browser session made with it opens anything."""
    old = mine.token
    with httpx.Client(base_url=mine.url, trust_env=False, timeout=30) as browser:
        browser.get(f"/lab?token={old}")
        before = browser.get("/api/status").status_code
        done = mine.run("token_rotate")
        session = browser.get("/api/status").status_code
        header = httpx.get(
            f"{mine.url}/api/status", headers={"Authorization": f"token {old}"}, trust_env=False
        ).status_code
    assert done.returncode == 0, done.stderr
    assert (before, session, header) == (200, 403, 403), f"got {before}, {session}, {header}"
    assert mine.token != old, "the token is the old one"
    assert mine.token in done.stdout, f"got {done.stdout}"


def test_a_session_survives_a_restart(mine: LabProcess) -> None:
    """Whoever was logged in stays so when the container restarts."""
    with httpx.Client(base_url=mine.url, trust_env=False, timeout=30) as browser:
        browser.get(f"/lab?token={mine.token}")
        mine.run("restart")
        got = browser.get("/api/status").status_code
    assert got == 200, f"got {got}"


def test_a_stranger_of_the_same_name_is_left_alone(
    new_lab: Callable[[], LabProcess], engine: docker.DockerClient
) -> None:
    """A container that is not ours is never touched; the hint offers another name."""
    lab = new_lab()
    stranger = engine.containers.create(tag_of("cpu"), name=lab.name)
    try:
        done = [lab.run(*verb) for verb in (("start", "cpu"), ("stop",), ("clean",), ("restart",))]
        assert engine.containers.get(lab.name).id == stranger.id, "the stranger was replaced"
    finally:
        stranger.remove(force=True)
    for each in done:
        assert each.returncode == 1, f"got {each.returncode}: {each.stderr}"
        assert f"a container named '{lab.name}' exists that is not a lab" in each.stderr, f"got {each.stderr}"
        assert "hint: make run-cpu CONTAINER=" in each.stderr, f"got {each.stderr}"


def test_a_taken_port_is_named(new_lab: Callable[[], LabProcess]) -> None:
    """The process that has the port is named, and no container is left behind."""
    lab = new_lab()
    with socket.create_server(("127.0.0.1", lab.port)):
        done = lab.run("start", "cpu")
    assert done.returncode == 1, f"got {done.returncode}"
    assert f"error: PORT={lab.port} is taken by the process" in done.stderr, f"got {done.stderr}"
    with pytest.raises(docker.errors.NotFound):
        _ = lab.container


def test_another_labs_port_is_named_and_a_running_lab_stays(
    new_lab: Callable[[], LabProcess], mine: LabProcess
) -> None:
    """Moving a running lab to a taken port fails before anything is removed."""
    lab = new_lab()
    lab.start()
    done = lab.run("start", "cpu", PORT=str(mine.port))
    still = lab.container.status
    lab.remove()
    assert f"PORT={mine.port} is taken by the container '{mine.name}'" in done.stderr, f"got {done.stderr}"
    assert still == "running", f"the running lab is now {still}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"PORT": "eighty"}, "error: PORT='eighty' is not valid"),
        ({"MEMORY": "lots"}, "error: MEMORY='lots' is not valid"),
        ({"CPUS": "4000"}, "error: CPUS=4000 is more than the engine has"),
        (
            {"DOCKER_HOST": "unix:///nowhere.sock"},
            "error: no Docker engine answers at DOCKER_HOST=unix:///nowhere.sock",
        ),
        ({"BIND": "192.0.2.1"}, "error: BIND=192.0.2.1 is not an address of this machine"),
        ({"WORKSPACE": "/proc/lab"}, "error: WORKSPACE=/proc/lab cannot be used"),
        ({"STATE_DIR": "/proc/lab"}, "error: STATE_DIR=/proc/lab cannot be used"),
        ({"IMAGE": "localhost:1/none:1"}, "error: the engine could not pull localhost:1/none:1"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(
    new_lab: Callable[[], LabProcess], settings: dict[str, str], message: str
) -> None:
    """Each mistake: one line with the value, a hint, a non-zero exit, nothing on stdout, nothing made."""
    lab = new_lab()
    done = lab.run("start", "cpu", **settings)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, ""), f"got {done.returncode}, {done.stdout!r}"
    assert lines[-2].startswith(message), f"got {done.stderr}"
    assert lines[-1].startswith("hint: "), f"got {done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(("damage", "message"), [("empty", "is damaged"), ("open", "can be read by others")])
def test_a_damaged_token_file_is_told_and_rotation_mends_it(
    new_lab: Callable[[], LabProcess], damage: str, message: str
) -> None:
    """An empty or public token file stops the start; the hint's command makes it work again."""
    lab = new_lab()
    lab.start()
    token = lab.state_dir / "run/token"
    token.write_text("") if damage == "empty" else token.chmod(0o644)
    lab.remove()
    broken = lab.run("start", "cpu")
    lab.run("token_rotate")
    lab.start()
    lab.remove()
    assert broken.returncode == 1, f"got {broken.returncode}"
    assert message in broken.stderr, f"got {broken.stderr}"
    assert "hint: make token-rotate" in broken.stderr, f"got {broken.stderr}"


def test_a_workspace_path_of_any_kind_works(new_lab: Callable[[], LabProcess]) -> None:
    """Spaces, quotes, colons and letters of any alphabet in the path reach the mount unharmed."""
    lab = new_lab()
    odd = lab.workspace.parent / "Мои данные: «été», a'b"
    lab.start(WORKSPACE=str(odd))
    got = lab.shell("ls /workspace")
    lab.remove()
    assert "why_pytorch.ipynb" in got, f"got {got}"


def test_an_image_of_another_architecture_is_refused(
    new_lab: Callable[[], LabProcess], engine: docker.DockerClient, foreign_image: str
) -> None:
    """IMAGE built for another machine is named with both architectures."""
    lab = new_lab()
    done = lab.run("start", "cpu", IMAGE=foreign_image)
    here = engine.version()["Arch"]
    assert done.returncode == 1, f"got {done.returncode}"
    assert re.search(rf"IMAGE={foreign_image} is built for s390x, this engine runs {here}", done.stderr), done.stderr


@pytest.fixture
def foreign_image(engine: docker.DockerClient) -> Iterator[str]:
    """An empty image that claims to be for s390x."""
    name = "pytorch-jupyter-test:s390x"
    dockerfile = "FROM scratch\nLABEL a=b\n"
    subprocess.run(
        [docker_client(), "build", "--platform=linux/s390x", f"--tag={name}", "-"],
        input=dockerfile, text=True, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )  # fmt: skip
    yield name
    engine.images.remove(name)


def docker_client() -> str:
    """A command line client that can build."""
    from scripts.builder import clients, find_client  # noqa: PLC0415

    return find_client(clients())


def test_ctrl_c_during_the_wait_leaves_nothing_half_made(new_lab: Callable[[], LabProcess]) -> None:
    """SIGINT while the lab starts ends in one line, and the new container is gone."""
    lab = new_lab()
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.start", "cpu"], cwd=ROOT, env=lab.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    events = docker.DockerClient(base_url="unix:///var/run/docker.sock")
    for event in events.events(decode=True, filters={"container": lab.name, "event": "start"}):
        assert event
        process.send_signal(signal.SIGINT)
        break
    out, err = process.communicate(timeout=60)
    events.close()
    assert (process.returncode, out) == (130, ""), f"got {process.returncode}, {out!r}, {err!r}"
    assert "error: interrupted\nhint: " in err, f"got {err!r}"
    with pytest.raises(docker.errors.NotFound):
        _ = lab.container


def test_a_server_that_dies_shows_its_last_words(
    new_lab: Callable[[], LabProcess], engine: docker.DockerClient
) -> None:
    """A container that stops while it starts ends with its log, its exit code and a hint, and is removed."""
    lab = new_lab()
    name = "pytorch-jupyter-test:dies"
    subprocess.run(
        [docker_client(), "build", f"--tag={name}", "-"],
        input=f"FROM {tag_of('cpu')}\nCMD [\"sh\", \"-c\", \"echo last words; exit 7\"]\n",
        text=True, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )  # fmt: skip
    try:
        done = lab.run("start", "cpu", IMAGE=name)
    finally:
        engine.images.remove(name)
    assert done.returncode == 1, f"got {done.returncode}"
    assert "  | last words" in done.stderr, f"got {done.stderr}"
    assert "error: the container " in done.stderr, f"got {done.stderr}"
    with pytest.raises(docker.errors.NotFound):
        _ = lab.container


def test_two_runs_at_once_make_one_lab(new_lab: Callable[[], LabProcess]) -> None:
    """The second waits for the first, and both print the same URL."""
    lab = new_lab()
    command = [sys.executable, "-m", "scripts.start", "cpu"]
    both = [
        subprocess.Popen(command, cwd=ROOT, env=lab.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], f"got {outputs}"
    assert outputs[0][0] == outputs[1][0], f"got {outputs}"


@pytest.fixture
def images_set_aside(engine: docker.DockerClient) -> Iterator[None]:
    """Names for the images that `make clean` does not know: later tests need them, and they take minutes."""
    names = [*map(tag_of, VARIANTS), BOOTSTRAPPED_BASE]
    aside = {name: f"pytorch-jupyter-test:aside{number}" for number, name in enumerate(names)}
    here = [name for name in names if engine.images.list(name)]
    for name in here:
        engine.images.get(name).tag(aside[name])
    yield
    for name in here:
        engine.images.get(aside[name]).tag(name)
        engine.images.remove(aside[name])


@pytest.mark.usefixtures("images_set_aside")
def test_clean_keeps_work_and_token(new_lab: Callable[[], LabProcess]) -> None:
    """`make clean` removes the container; the workspace and the token stay."""
    lab = new_lab()
    lab.start()
    (lab.workspace / "work.txt").write_text("kept")
    token = lab.token
    # Another lab of the tests uses the image: it must survive, untouched and usable.
    done = lab.run("clean")
    assert done.returncode == 0, done.stderr
    with pytest.raises(docker.errors.NotFound):
        _ = lab.container
    assert ((lab.workspace / "work.txt").read_text(), lab.token) == ("kept", token), "work or token lost"
    assert docker.DockerClient(base_url="unix:///var/run/docker.sock").images.get(tag_of("cpu")), "the image is gone"


def test_ctrl_c_during_the_build_keeps_the_image(lab: LabProcess, engine: docker.DockerClient) -> None:
    """SIGINT while the builder works ends in one line; the image is the one from before."""
    before = engine.images.get(tag_of("cpu")).id
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.build", "cpu"], cwd=ROOT, env=lab.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "#1 " not in process.stderr.readline():
        assert process.poll() is None, "the build ended before it began"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the docker client too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), f"got {process.returncode}, {out!r}, {err!r}"
    assert err.endswith("error: interrupted\nhint: nothing half-made was kept; the same command starts over\n"), err
    assert engine.images.get(tag_of("cpu")).id == before, "the image changed"


def test_doctor_finds_a_healthy_lab(mine: LabProcess) -> None:
    """Every finding is fine, the exit code is 0 and the sources are named."""
    done = mine.run("doctor")
    assert done.returncode == 0, f"got {done.stdout}{done.stderr}"
    for subject in ("machine", "engine", "builder", "disk", "token", "supply", "image", "lab"):
        assert re.search(rf"^ok +{subject} ", done.stdout, re.MULTILINE), f"no {subject} in {done.stdout}"


def test_doctor_works_before_anything_is_installed(mine: LabProcess) -> None:
    """With a bare Python, without the SDK, it reports on the machine and the engine."""
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['doctor'];"
         "import runpy; runpy.run_module('scripts.doctor', run_name='__main__')")],
        cwd=ROOT, env=mine.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.search(r"^ok +engine +Docker ", done.stdout, re.MULTILINE), f"got {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


def test_doctor_names_what_is_wrong(mine: LabProcess) -> None:
    """A wrong setting and a missing engine end with exit code 1 and a hint each."""
    for settings in ({"MEMORY": "lots"}, {"DOCKER_HOST": "unix:///nowhere.sock"}):
        done = mine.run("doctor", **settings)
        assert done.returncode == 1, f"{settings}: got {done.returncode}\n{done.stdout}"
        assert re.search(r"^wrong .*\n +hint: ", done.stdout, re.MULTILINE), f"got {done.stdout}"
